"""ReportData: the content of a report, filled by training, with its title and verdict; `report.py` renders it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from ssd_train.boxes import SizeWH, areas
from ssd_train.data.structures import ClassNames, Detections, LabeledImage, LabelIssue, Labels
from ssd_train.visualization.html import finite, number

# edges of the box size histogram: the square root of box area over image area, 0..1
RELATIVE_SIZE_EDGES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
_LOCATIONS_SHOWN = 3


@dataclass(frozen=True)
class Sample:
    """A validation image with its labels and detections.

    `image` is RGB uint8 (H, W, 3) of any size, or a function that returns it, so that only images shown are read.
    """

    name: str
    image: Union[np.ndarray, Callable[[], np.ndarray]]
    truth: LabeledImage
    detections: Detections

    def load_image(self) -> np.ndarray:
        """Return the image, RGB uint8 (H, W, 3)."""
        return self.image() if callable(self.image) else self.image


@dataclass(frozen=True)
class Reason:
    """A reason to skip or repair lines of the labels, with the number of lines and their first locations."""

    text: str
    count: int
    locations: Tuple[str, ...] = ()


@dataclass(frozen=True)
class SubsetSummary:
    """Statistics of a labelled data set.

    Attributes:
        boxes_per_class: counts (num_classes,).
        relative_sizes: histogram of box sizes by RELATIVE_SIZE_EDGES, without images of unknown size.
        size_deciles: 0, 10 ... 100 % quantiles of the same sizes; empty without any.
        image_sizes: number of images by (width, height), without images of unknown size.
    """

    name: str
    images: int
    background_images: int
    boxes_per_class: Tuple[int, ...]
    relative_sizes: Tuple[int, ...] = ()
    image_sizes: Mapping[SizeWH, int] = field(default_factory=dict)
    skipped: Tuple[Reason, ...] = ()
    repaired: Tuple[Reason, ...] = ()
    size_deciles: Tuple[float, ...] = ()


@dataclass(frozen=True)
class ReportData:
    """The content of a report; only title and class names are required.

    Attributes:
        command: command line of the run.
        seconds: duration of the training.
        random_weights: True if no pretrained weights were used.
        history: per epoch "epoch", "CrossEntropy", "SmoothL1", "learning_rate", "images_per_second" and, if evaluated,
            "VOC07", "mAP" (COCO), "mAP@0.5", "val_CrossEntropy", "val_SmoothL1".
        scores: the JSON of `evaluation.results.Scores`: "mAP", "mAP@0.5", "mAP@0.75", "VOC07", "VOC_area",
            "per_class", "best_f1", "false_positives_per_background_image", "images", "background_images", "boxes", and
            of its details "intervals", "by_size", "confusion".
        curves: class name -> {"recall": [...], "precision": [...], "score": [...]}, 0..1, at an IoU of 0.5.
        score_curve: the same of all classes together.
        samples: validation images; some are shown, all are searched for missed objects and false positives.
        threshold: minimum score of a detection to draw.
        run_id: identity of the run; `check_report` refuses to replace the report of another one.
    """

    title: str
    class_names: ClassNames
    started: str = ""
    command: str = ""
    seconds: Optional[float] = None
    random_weights: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    scores: Optional[Mapping[str, Any]] = None
    curves: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    score_curve: Optional[Mapping[str, Sequence[float]]] = None
    data: Sequence[SubsetSummary] = ()
    samples: Sequence[Sample] = ()
    best_epoch: Optional[int] = None
    threshold: float = 0.3
    notes: Sequence[str] = ()
    run_id: str = ""


def summarise(name: str, labels: Labels) -> SubsetSummary:
    """Return the statistics of `labels`; `name` is the split ("train" or "validation")."""
    sizes = Counter(record.size_wh for record in labels.records if record.size_wh is not None)
    relative = _relative_sizes(labels.records)
    return SubsetSummary(
        name=name,
        images=len(labels),
        background_images=sum(record.is_background for record in labels.records),
        boxes_per_class=tuple(int(count) for count in labels.boxes_per_class()),
        relative_sizes=tuple(int(count) for count in np.histogram(relative, RELATIVE_SIZE_EDGES)[0]),
        size_deciles=tuple(np.percentile(relative, range(0, 101, 10)).tolist()) if len(relative) else (),
        image_sizes=dict(sizes.most_common()),
        skipped=_reasons(labels.skipped),
        repaired=_reasons(labels.repaired),
    )


def _relative_sizes(records: Sequence[LabeledImage]) -> np.ndarray:
    """Return the square roots (N,) of box area over image area, without images of unknown size."""
    sizes = [np.sqrt(areas(r.boxes) / (r.size_wh[0] * r.size_wh[1])) for r in records if r.size_wh is not None]
    return np.concatenate(sizes) if sizes else np.zeros(0)


def _reasons(lines: Sequence[LabelIssue]) -> Tuple[Reason, ...]:
    """Group the lines by reason, the most frequent first."""
    locations: Dict[str, list] = {}
    for line in lines:
        locations.setdefault(line.reason, []).append(f"{line.where} ({line.detail})" if line.detail else line.where)
    ordered = sorted(locations.items(), key=lambda item: -len(item[1]))
    return tuple(Reason(text, len(group), tuple(group[:_LOCATIONS_SHOWN])) for text, group in ordered)


_NAMES_SHOWN = 4
# folders that are called so in every data set
_COMMON_FOLDERS = {
    *("images", "image", "labels", "annotations", "manifests", "train", "training", "val", "valid", "validation"),
    *("data", "dataset", "datasets", "input", "opt", "ml", "tmp", "home", ".", "..", "/"),
}
# from these on, figures of a split are no longer called rough, and a class no longer small
FEW_IMAGES, FEW_BOXES, FEW_BOXES_OF_CLASS, FEW_TRAINING_BOXES = 50, 100, 10, 50
# width of an interval of mAP@0.5 up to which it is not called rough
ROUGH_WIDTH = 0.1
# mAP@0.5 from which more epochs are not advised, and a rise of mAP in the second half of a run that calls for them
HIGH_MAP, SMALL_RISE = 0.9, 0.01
# sides of boxes in pixels of the network's input: smaller ones are hard to find
SMALL_SIDE = 24
_LARGEST_SHAPE = 512


def report_title(class_names: ClassNames, source: "PurePath | str") -> str:
    """Return a title of the classes and the folder of the data, e.g. "Detector of apple and pear, trained on fruit"."""
    names = [PurePath(part).stem for part in PurePath(source).parts]
    name = next((name for name in reversed(names) if name.lower() not in _COMMON_FOLDERS), "")
    return f"Detector of {_listed(list(class_names))}" + (f", trained on {name}" if name else "")


def _listed(names: Sequence[str]) -> str:
    """Return "a", "a and b", or the first names and the number of the others."""
    shown = list(names[:_NAMES_SHOWN]) if len(names) > _NAMES_SHOWN + 1 else list(names)
    if len(shown) < len(names):
        shown.append(f"{len(names) - len(shown)} more classes")
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def verdict(data: ReportData) -> str:
    """Return in a sentence how many objects are found, how many detections are false, and the weakest class."""
    scores = data.scores
    if scores is None or not scores.get("boxes"):
        return "The model was not scored: there are no validation images with objects."
    best = scores.get("best_f1") or {}
    recall, precision = finite(best.get("recall")), finite(best.get("precision"))
    if not recall or precision is None:
        return "Finds no object: not one detection matches a label."
    weakest = _weakest_class(data)
    closing = f"; weakest: {weakest}" if weakest else ""
    return f"Finds {_fraction(recall)} objects, {_false_fraction(1 - precision)}{closing}."


def _fraction(value: float) -> str:
    """Return a share as "8 of 10", near 0 and 1 as "97 of 100"."""
    if value >= 1:
        return "all"
    if 0.1 <= value < 0.95:
        return f"{round(10 * value)} of 10"
    return f"{min(max(round(100 * value), 1), 99)} of 100"


def _false_fraction(value: float) -> str:
    if value <= 0:
        return "no detection is false"
    if value > 0.5:
        return f"{_fraction(value)} detections are false"
    return f"1 in {round(1 / value)} detections is false"


def _weakest_class(data: ReportData) -> Optional[str]:
    """Return the class with the lowest AP@0.5, of several."""
    precision = [
        (finite(row.get("AP@0.5")), name) for name, row in ((data.scores or {}).get("per_class") or {}).items()
    ]
    known = [(value, name) for value, name in precision if value is not None]
    return min(known)[1] if len(known) > 1 else None


def next_steps(data: ReportData) -> List[str]:
    """Return advice by rule, the most important first; empty if no rule applies."""
    return [*_training_steps(data), *_data_steps(data), *_if_figures_are_rough(data)]


def _training_steps(data: ReportData) -> Iterator[str]:
    value = finite((data.scores or {}).get("mAP@0.5"))
    if value is not None and value < 0.05:
        yield (
            "The model has learned next to nothing: look at the labels (`ssd-train prepare sheet`, `ssd-train check`), "
            "then train longer, from pretrained weights; if the loss did not fall, with another `--learning_rate`."
        )
    if data.random_weights:
        yield (
            "Training began with random weights, which takes many times more images and epochs: "
            "`--use_pretrained_model 1` or `--pretrained FILE` starts from trained ones."
        )
    epochs = [value for value in (finite(row.get("epoch")) for row in data.history) if value is not None]
    last_is_best = data.best_epoch is not None and len(epochs) > 1 and data.best_epoch >= max(epochs)
    if last_is_best and (value is None or value < HIGH_MAP) and _still_rising(data.history):
        yield f"The best epoch is the last, more epochs may help: `--epochs {2 * int(max(epochs))}`."


def _still_rising(history: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether mAP rose by SMALL_RISE or more since the first half of the run; True if it was not measured there.

    The last epoch alone tells nothing: with a learning rate that falls to 0 it is nearly always the best.
    """
    scores = [(finite(row.get("epoch")), finite(row.get("mAP"))) for row in history]
    known = [(epoch, score) for epoch, score in scores if epoch is not None and score is not None]
    first_half = [score for epoch, score in known if epoch <= len(history) / 2]
    return not first_half or known[-1][1] - max(first_half) >= SMALL_RISE


def _data_steps(data: ReportData) -> Iterator[str]:
    for one in data.data:
        missing = [name for name, count in zip(data.class_names, one.boxes_per_class) if not count]
        if missing:
            effect = "they cannot be learned" if one.name == "train" else "they are not scored"
            yield f"Without any box in the {one.name} split: {_listed(missing)}; {effect}."
    train, side = (
        next((one for one in data.data if one.name == "train"), None),
        finite(data.settings.get("image_shape")),
    )
    pairs = zip(data.class_names, train.boxes_per_class) if train else ()
    few = sorted([pair for pair in pairs if 0 < pair[1] < FEW_TRAINING_BOXES], key=lambda pair: pair[1])
    if few:
        counts = _listed([f"{name} ({count:,})" for name, count in few])
        yield f"Label more objects of classes with fewer than {FEW_TRAINING_BOXES} boxes in training: {counts}."
    fifth = train.size_deciles[2] * side if train and train.size_deciles and side else SMALL_SIDE
    if side and fifth < SMALL_SIDE:
        larger = f"`--image_shape {_LARGEST_SHAPE}`, or " if side < _LARGEST_SHAPE else ""
        yield (
            f"A fifth of the boxes is smaller than {max(fifth, 1):.0f} px in the network's input of {side:.0f} px: "
            f"{larger}detection in tiles (`ssd-train predict --tile`)."
        )


def _if_figures_are_rough(data: ReportData) -> List[str]:
    scores = data.scores or {}
    images, boxes = finite(scores.get("images")), finite(scores.get("boxes"))
    if not images or boxes is None:
        return []
    per_class = (scores.get("per_class") or {}).items()
    few = [name for name, row in per_class if 0 < (finite(row.get("boxes")) or 0) < FEW_BOXES_OF_CLASS]
    if images >= FEW_IMAGES and boxes >= FEW_BOXES and not few:
        return []
    range_ = interval_of(scores, "mAP@0.5")
    if range_ and range_[1] - range_[0] <= ROUGH_WIDTH:
        effect = f"Validation has fewer than {FEW_BOXES_OF_CLASS} boxes of {_listed(few)}: their figures are rough."
        return [effect] if few else []
    known = f": mAP@0.5 may be anywhere from {number(range_[0], 2)} to {number(range_[1], 2)}" if range_ else ""
    fewest = f"; fewer than {FEW_BOXES_OF_CLASS} of {_listed(few)}" if few else ""
    return [
        f"The figures are rough{known}. They come from {images:,.0f} validation images with {boxes:,.0f} "
        f"boxes{fewest}. Label more of them before you compare two models."
    ]


def interval_of(scores: "dict | object", name: str) -> Optional[Tuple[float, float]]:
    """Return the interval (low, high) of a score; None without one."""
    limits = (scores.get("intervals") or {}).get(name) if isinstance(scores, dict) else None
    return (float(limits[0]), float(limits[1])) if limits else None


def duration_text(seconds: float) -> str:
    """Return e.g. "45 s", "12 min" or "3 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
