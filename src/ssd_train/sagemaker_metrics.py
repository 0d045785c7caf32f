"""Metric lines of the built-in algorithm, and the regular expressions with which SageMaker parses them.

Both are taken from the AlgorithmSpecification of a real job. Losses are bare numbers; mAP is in parentheses at the end
of its line, and the prefix of a line has no parentheses, because published notebooks split the lines there.
"""

from __future__ import annotations

import datetime
import threading
from typing import Any, Dict, List, Mapping

METRIC_DEFINITIONS: List[Dict[str, str]] = [
    {"Name": "train:progress", "Regex": r"#progress_metric: host=\S+, completed (\S+) %"},
    {
        "Name": "train:smooth_l1",
        "Regex": r"#quality_metric: host=\S+, epoch=\S+, batch=\S+ train smooth_l1 <loss>=(\S+)",
    },
    {
        "Name": "train:cross_entropy",
        "Regex": r"#quality_metric: host=\S+, epoch=\S+, batch=\S+ train cross_entropy <loss>=(\S+)",
    },
    {"Name": "train:throughput", "Regex": r"#throughput_metric: host=\S+, train throughput=(\S+) records/second"},
    {"Name": "validation:mAP", "Regex": r"#quality_metric: host=\S+, epoch=\S+, validation mAP <score>=\((\S+)\)"},
    {
        "Name": "validation:smooth_l1",
        "Regex": r"#quality_metric: host=\S+, epoch=\S+, validation smooth_l1 <loss>=(\S+)",
    },
]


def stamped(text: str) -> str:
    """Return `text` with the prefix of the built-in algorithm: time, level and thread."""
    now = datetime.datetime.now().strftime("%m/%d/%Y %H:%M:%S")
    return f"[{now} INFO {threading.get_ident()}] {text}"


def configuration_line(settings: Mapping[str, Any]) -> str:
    """Return the line with all settings, in the Python 2 syntax of the built-in algorithm.

    Published notebooks search it for ``num_training_samples': u'``.
    """
    pairs = ", ".join(f"u'{name}': u'{value}'" for name, value in settings.items())
    return f"Final configuration: {{{pairs}}}"


def loss_lines(host: str, epoch: int, batch: int, cross_entropy: float, smooth_l1: float) -> List[str]:
    """Return the lines of an epoch's mean training losses; `epoch` counts from 0, `batch` is its last."""
    prefix = f"#quality_metric: host={host}, epoch={epoch}, batch={batch} train"
    return [f"{prefix} cross_entropy <loss>={cross_entropy:.6g}", f"{prefix} smooth_l1 <loss>={smooth_l1:.6g}"]


def throughput_line(host: str, records_per_second: float) -> str:
    """Return the line of the training images per second."""
    return f"#throughput_metric: host={host}, train throughput={records_per_second:.6g} records/second"


def progress_line(host: str, epochs_done: int, epochs: int) -> str:
    """Return the line of the completed epochs in percent, rounded down."""
    return f"#progress_metric: host={host}, completed {100 * epochs_done // epochs} %"


def map_line(host: str, epoch: int, score: float) -> str:
    """Return the line of an epoch's validation:mAP; `epoch` counts from 0."""
    return f"#quality_metric: host={host}, epoch={epoch}, validation mAP <score>=({score:.6g})"


def validation_loss_line(host: str, epoch: int, smooth_l1: float) -> str:
    """Return the line of an epoch's validation SmoothL1 loss; `epoch` counts from 0."""
    return f"#quality_metric: host={host}, epoch={epoch}, validation smooth_l1 <loss>={smooth_l1:.6g}"
