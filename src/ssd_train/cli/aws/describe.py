"""launch --describe: status of a training job."""

from __future__ import annotations

from typing import Any, Dict, Iterator, Sequence

from ssd_train.cli.aws.common import make_parser, parse_named
from ssd_train.cli.console import make_progress
from ssd_train.launch.amazon import Amazon
from ssd_train.launch.watch import describe_job, follow


def describe(arguments: Sequence[str]) -> int:
    """Print status, metrics and model of a job; with --wait, follow its log first."""
    parser = make_parser(" --describe NAME", "Show the status of a training job.")
    parser.add_argument("--describe", required=True, metavar="NAME", help="name of the training job")
    parser.add_argument("--wait", action="store_true", help="follow the log of the job until it ends")
    flags, progress = parse_named(parser, "describe", arguments), make_progress()
    amazon = Amazon(flags.region)
    if flags.wait:
        answer = follow(amazon, flags.describe, progress.say)
    else:
        answer = describe_job(amazon, flags.describe)
    for line in description_lines(answer):
        progress.say(line)
    return 0


def description_lines(answer: Dict[str, Any]) -> Iterator[str]:
    """Yield lines with status, metrics and model of a job."""
    yield f"state:  {answer['TrainingJobStatus']} ({answer.get('SecondaryStatus', 'no details')})"
    if answer.get("FailureReason"):
        yield f"reason: {' '.join(answer['FailureReason'].split())}"
    for metric in answer.get("FinalMetricDataList", ()):
        yield f"metric: {metric['MetricName']} {metric['Value']:g}"
    model = answer.get("ModelArtifacts", {}).get("S3ModelArtifacts")
    if model:
        yield f"model:  {model}"
