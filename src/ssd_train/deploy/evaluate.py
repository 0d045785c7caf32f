"""Score a detector, or a file of predictions, against labels."""

from __future__ import annotations

import functools
from collections import defaultdict
from dataclasses import replace
from typing import Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from ssd_train.data.file_names import folded, is_image_name, readings
from ssd_train.data.formats.json_lines import PathLike
from ssd_train.data.labels import LabeledDataset, align_classes
from ssd_train.data.structures import ClassNames, Detections, ImageSource, LabeledImage, Labels
from ssd_train.deploy.detector import Detector, ImageRef
from ssd_train.errors import DataError, locate_errors
from ssd_train.evaluation.metrics import Scores, score_detections
from ssd_train.evaluation.predictions import ImagePredictions, read_any_predictions
from ssd_train.progress import Progress

MISSING_SHOWN = 3


def score_images(
    detector: Detector, data: LabeledDataset, overlap_threshold: float = 0.5, progress: Optional[Progress] = None
) -> Scores:
    """Detect objects in labelled images and score them against the labels.

    Classes are matched by name.

    Raises:
        DataError: the detector lacks a labelled class, images are not found, or an image cannot be decoded.
    """
    labels = align_classes(data.labels, detector.class_names)
    _require_images(labels, data.images)
    predictions = detector.predict_iter(image_refs(labels, data.images))

    def predict() -> Iterator[Tuple[LabeledImage, Detections]]:
        tracked = (progress or Progress()).track(predictions, len(labels), "images")
        for record, prediction in zip(labels.records, tracked):
            yield record, prediction.decoded()[1]

    return score_detections(predict(), detector.class_names, overlap_threshold, detailed=True)


def _require_images(labels: Labels, images: ImageSource) -> None:
    """Raise a DataError with the number of images that are not found, and the first few, before any is read."""
    errors = []
    for record in labels.records:
        try:
            images.locate(record)
        except DataError as error:
            errors.append(str(error))
    if errors:
        raise DataError(f"{len(errors)} of {len(labels)} images are not available: {'; '.join(errors[:MISSING_SHOWN])}")


def image_refs(labels: Labels, images: ImageSource) -> Iterator[ImageRef]:
    """Yield the images of `labels`."""
    for record in labels.records:
        yield ImageRef(record.name, functools.partial(images.read, record), record.where, record.size_wh)


def score_predictions(
    path: PathLike, data: LabeledDataset, class_names: Optional[ClassNames] = None, overlap_threshold: float = 0.5
) -> Scores:
    """Score a file of predictions against the labels of `data`.

    Args:
        path: JSON Lines, COCO results, a .out file or a folder of these. An image without predictions counts as one
            without detections.
        data: the labels; an image is read if they lack its size.
        class_names: class names of ids in the file, unless it has names itself; None: those of the labels.
        overlap_threshold: IoU threshold of the VOC scores.

    Returns:
        The scores, with the numbers of images without predictions and of predictions without labels.

    Raises:
        DataError: a line is malformed, a class id is out of range, predictions fit several images or an image has
            several.
    """
    if class_names is not None:
        data = LabeledDataset(align_classes(data.labels, class_names), data.images)
    labels = data.labels
    detections, unlabelled = read_detections(path, data)

    def read() -> Iterator[Tuple[LabeledImage, Detections]]:
        for record in labels.records:
            predicted = detections.get(record.name)
            yield record, predicted or Detections.from_rows(np.zeros((0, 6)), data.size_of(record))

    return replace(
        score_detections(read(), labels.class_names, overlap_threshold, detailed=True),
        unanswered_images=sum(record.name not in detections for record in labels.records),
        unlabelled_answers=unlabelled,
    )


def read_detections(path: PathLike, data: LabeledDataset) -> Tuple[Dict[str, Detections], int]:
    """Read a file of predictions.

    Args:
        path: as for `score_predictions`.
        data: labels of the images, with the class names of ids in the file; an image is read if they lack its size.

    Returns:
        Detections by image name of the labels, and the number of predictions without labels.
    """
    labels = data.labels
    tables = _read_tables(path, labels)
    with locate_errors(path):
        prediction_of = match_names([record.name for record in labels.records], list(tables))
    detections = {}
    for record in labels.records:
        if record.name in prediction_of:
            size_wh = data.size_of(record)
            table, pixels = tables[prediction_of[record.name]]
            if pixels:
                table = table / np.array([1, 1, *size_wh, *size_wh])
            detections[record.name] = Detections.from_rows(table, size_wh)
    return detections, len(tables) - len(prediction_of)


def match_names(names: Sequence[str], predictions: Sequence[str]) -> Dict[str, str]:
    """Match the image names of labels and predictions.

    In order of precedence, two names match if they are equal, if one is the end of the other's path (the longest such),
    or if they have the same last part that is unique in both lists. The last also applies to parts that are equal after
    normalisation.

    Args:
        names: image names of the labels.
        predictions: image names of the predictions, without repetitions.

    Returns:
        Name in `predictions` by name in `names`; names without a match are missing.

    Raises:
        DataError: an image fits several predictions equally well, a prediction fits several images, or nothing matches.
    """
    matched = {name: name for name in set(names) & set(predictions)}
    matched.update(
        _match_by_tail(
            [name for name in dict.fromkeys(names) if name not in matched],
            [prediction for prediction in predictions if prediction not in matched],
        )
    )
    alike = _grouped_by_basename(predictions)
    for basename, group in _grouped_by_basename(names).items():
        if len(group) == len(alike[basename]) == 1:
            matched.setdefault(group[0], alike[basename][0])
    _match_folded(names, predictions, matched)
    if names and predictions and not matched:
        raise DataError(
            f"found no prediction for any label, e.g. {predictions[0]!r}, expected names such as {names[0]!r}"
        )
    return matched


def _match_folded(names: Sequence[str], predictions: Sequence[str], matched: Dict[str, str]) -> None:
    """Add pairs of names with the same, unique last part after normalisation.

    Normalisation removes differences in case and Unicode form, URL and Windows path syntax, and a suffix that only one
    of the names has.
    """
    for key in (_folded_basename, _folded_stem):
        groups: Dict[str, Tuple[List[str], List[str]]] = defaultdict(lambda: ([], []))
        for position, group in enumerate((names, predictions)):
            for name in dict.fromkeys(group):
                groups[key(name)][position].append(name)
        taken = set(matched.values())
        for mine, theirs in groups.values():
            if len(mine) == len(theirs) == 1 and mine[0] not in matched and theirs[0] not in taken:
                if key is _folded_basename or not is_image_name(theirs[0]):
                    matched[mine[0]] = theirs[0]


def _folded_basename(name: str) -> str:
    try:
        return folded(readings(name)[-1][-1])
    except DataError:
        return name


def _folded_stem(name: str) -> str:
    base = _folded_basename(name)
    return base.rpartition(".")[0] if is_image_name(base) else base


def _match_by_tail(names: Sequence[str], predictions: Sequence[str]) -> Dict[str, str]:
    """Match pairs of names where one path ends with the other."""
    ending_so: Dict[str, List[str]] = defaultdict(list)
    for prediction in predictions:
        for tail in _tails(prediction):
            ending_so[tail].append(prediction)
    offered = set(predictions)
    owners: Dict[str, str] = {}
    matched = {}
    for name in names:
        fitting = ending_so.get(name) or [tail for tail in _tails(name) if tail in offered][:1]
        if len(fitting) > 1:
            raise DataError(f"found predictions {fitting[0]!r} and {fitting[1]!r}, both fit {name!r}, expected one")
        for prediction in fitting:
            if prediction in owners:
                raise DataError(
                    f"found prediction {prediction!r}, it fits {owners[prediction]!r} and {name!r}, expected one"
                )
            owners[prediction] = name
            matched[name] = prediction
    return matched


def _tails(name: str) -> Iterator[str]:
    """Yield the ends of a path, longest first: ``a/b/c`` gives ``b/c`` and ``c``."""
    while "/" in name:
        name = name.split("/", 1)[1]
        yield name


def _grouped_by_basename(names: Iterable[str]) -> Dict[str, List[str]]:
    groups: Dict[str, List[str]] = defaultdict(list)
    for name in dict.fromkeys(names):
        groups[name.rsplit("/", 1)[-1]].append(name)
    return groups


def _read_tables(path: PathLike, labels: Labels) -> Dict[str, Tuple[np.ndarray, bool]]:
    """Return rows (N, 6) float64 by image name, and whether they are in pixels.

    Raises:
        DataError: a class id or name is unknown; begins with file:line.
    """
    tables = {}
    class_names = labels.class_names
    for prediction in read_any_predictions(path, labels):
        rows = prediction.rows
        if prediction.names or any(isinstance(row[0], str) for row in rows):
            rows = [[_class_id(row[0], prediction, class_names), *row[1:]] for row in rows]
        table = np.array(rows, dtype=np.float64).reshape(-1, 6)
        if len(table) and table[:, 0].max() >= len(class_names):
            raise DataError(
                f"{prediction.where}: found class id {int(table[:, 0].max())}, expected less than {len(class_names)} "
                f"({', '.join(class_names)})"
            )
        tables[prediction.image] = table, prediction.pixels
    return tables


def _class_id(value: "int | str", prediction: ImagePredictions, class_names: ClassNames) -> int:
    """Return the class id of a class name in a prediction, or of its own class id."""
    name = value if isinstance(value, str) else prediction.names.get(value)
    if name is None:
        return int(value)
    with locate_errors(prediction.where):
        return class_names.index(name)
