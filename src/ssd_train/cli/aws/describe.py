"""launch --describe: how a training job stands."""

from __future__ import annotations

from typing import Any, Dict, Iterator, Sequence

from ssd_train.cli.aws.common import make_parser, parse_named
from ssd_train.cli.console import make_progress
from ssd_train.launch import watch
from ssd_train.launch.amazon import Amazon


def describe(arguments: Sequence[str]) -> int:
    """Tell state, last metrics and model of a job, after following it where asked."""
    parser = make_parser(" --describe NAME", "How a training job stands.")
    parser.add_argument("--describe", required=True, metavar="NAME", help="name of the training job")
    parser.add_argument("--wait", action="store_true", help="follow its log until it has ended")
    flags, progress = parse_named(parser, "describe", arguments), make_progress()
    amazon = Amazon(flags.region)
    if flags.wait:
        answer = watch.follow(amazon, flags.describe, progress.say)
    else:
        answer = watch.describe(amazon, flags.describe)
    for line in description_lines(answer):
        progress.say(line)
    return 0


def description_lines(answer: Dict[str, Any]) -> Iterator[str]:
    """State, metrics and model of a job in a few lines."""
    yield f"state:  {answer['TrainingJobStatus']} ({answer.get('SecondaryStatus', 'no more is known')})"
    if answer.get("FailureReason"):
        yield f"reason: {' '.join(answer['FailureReason'].split())}"
    for metric in answer.get("FinalMetricDataList", ()):
        yield f"metric: {metric['MetricName']} {metric['Value']:g}"
    model = answer.get("ModelArtifacts", {}).get("S3ModelArtifacts")
    if model:
        yield f"model:  {model}"
