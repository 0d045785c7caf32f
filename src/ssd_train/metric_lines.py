"""The log lines of the built-in algorithm and, beside them, the regular expressions that SageMaker reads them with.

Templates and expressions are those of a real job's AlgorithmSpecification. Losses are bare numbers, mAP is in
parentheses with nothing after it, and a line's prefix holds none, because notebooks in the wild cut the lines there.
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
    """`text` after the time, level and thread that the built-in algorithm puts before each line."""
    now = datetime.datetime.now().strftime("%m/%d/%Y %H:%M:%S")
    return f"[{now} INFO {threading.get_ident()}] {text}"


def configuration_line(settings: Mapping[str, Any]) -> str:
    """All settings of the run as the built-in algorithm wrote them, texts in Python 2's spelling: a notebook looks for
    ``num_training_samples': u'`` in this line."""
    pairs = ", ".join(f"u'{name}': u'{value}'" for name, value in settings.items())
    return f"Final configuration: {{{pairs}}}"


def loss_lines(host: str, epoch: int, batch: int, cross_entropy: float, smooth_l1: float) -> List[str]:
    """The mean training losses of an epoch (from 0) and the number of its last batch."""
    place = f"#quality_metric: host={host}, epoch={epoch}, batch={batch} train"
    return [f"{place} cross_entropy <loss>={cross_entropy:.6g}", f"{place} smooth_l1 <loss>={smooth_l1:.6g}"]


def throughput_line(host: str, records_per_second: float) -> str:
    """Training images per second."""
    return f"#throughput_metric: host={host}, train throughput={records_per_second:.6g} records/second"


def progress_line(host: str, epochs_done: int, epochs: int) -> str:
    """The share of epochs made, in whole percent."""
    return f"#progress_metric: host={host}, completed {100 * epochs_done // epochs} %"


def map_line(host: str, epoch: int, score: float) -> str:
    """validation:mAP of an epoch (from 0)."""
    return f"#quality_metric: host={host}, epoch={epoch}, validation mAP <score>=({score:.6g})"


def validation_loss_line(host: str, epoch: int, smooth_l1: float) -> str:
    """Validation SmoothL1 of an epoch (from 0)."""
    return f"#quality_metric: host={host}, epoch={epoch}, validation smooth_l1 <loss>={smooth_l1:.6g}"
