"""A detector, or a file of its answers, scored against labels."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Sequence

import numpy as np

from ssd_train.data.boxes import SizeWH
from ssd_train.data.formats.jsonl import PathLike
from ssd_train.data.labels import LabelledImages, matched_to
from ssd_train.data.predictions import read_answers
from ssd_train.data.records import ClassNames, Detections, ImageSource, LabelSet, Record
from ssd_train.deploy.detector import Detector, Picture
from ssd_train.errors import DataError
from ssd_train.progress import Progress
from ssd_train.training.metrics import MeanAveragePrecision, Scores


def score_images(
    detector: Detector, data: LabelledImages, overlap_threshold: float = 0.5, progress: Optional[Progress] = None
) -> Scores:
    """Score what `detector` says of the images of `data` against their labels, whose classes are matched by name.

    Raises:
        DataError: a labelled class is not the detector's, or an image cannot be looked at.
    """
    labels = matched_to(data.labels, detector.class_names)
    metric = MeanAveragePrecision(detector.class_names)
    answers = detector.stream(pictures_of(labels, data.images))
    for record, answer in zip(labels.records, (progress or Progress()).track(answers, len(labels), "images")):
        if answer.detections is None:
            raise DataError(answer.error)
        metric.update(answer.detections, record)
    return metric.compute(overlap_threshold)


def pictures_of(labels: LabelSet, images: ImageSource) -> Iterator[Picture]:
    """The pictures that `labels` are of."""
    for record in labels.records:
        yield Picture(record.name, lambda record=record: images.read(record), record.where, record.size_wh)


def score_predictions(
    path: PathLike,
    labels: LabelSet,
    sizes: Callable[[Record], SizeWH],
    class_names: Optional[ClassNames] = None,
    overlap_threshold: float = 0.5,
) -> Scores:
    """Score a file of answers (see `data.predictions`) against `labels`.

    path          JSON Lines; an image without a line counts as one in which nothing is detected
    sizes         (width, height) of a record's image, asked for when its `size_wh` is None
    class_names   what the class ids of the answers mean: the model's; those of the labels by default

    The numbers of images without a line and of lines without a label are part of the Scores.

    Raises:
        DataError: a bad line, a class id beyond the class names, or answers that fit several images or one image twice.
    """
    if class_names is not None:
        labels = matched_to(labels, class_names)
    tables = _read_tables(path, labels.class_names)
    try:
        answer_of = match_names([record.name for record in labels.records], list(tables))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    metric = MeanAveragePrecision(labels.class_names)
    for record in labels.records:
        table = tables[answer_of[record.name]] if record.name in answer_of else np.zeros((0, 6))
        metric.update(Detections.from_rows(table, record.size_wh or sizes(record)), record)
    return replace(
        metric.compute(overlap_threshold),
        unanswered_images=sum(record.name not in answer_of for record in labels.records),
        unlabelled_answers=len(tables) - len(answer_of),
    )


def match_names(names: Sequence[str], answers: Sequence[str]) -> Dict[str, str]:
    """Which of `answers` (image names, each once) belongs to which of `names` of labelled images; not all need to.

    The same name goes first; then one that is the end of the other's path, the longest such; then the same last part of
    the path, where it is the only one of its kind on either side.

    Raises:
        DataError: an image that several answers fit equally well, an answer that fits several images, or nothing fits.
    """
    matched = {name: name for name in set(names) & set(answers)}
    matched.update(
        _match_by_tail(
            [name for name in dict.fromkeys(names) if name not in matched],
            [answer for answer in answers if answer not in matched],
        )
    )
    alike = _grouped_by_basename(answers)
    for basename, group in _grouped_by_basename(names).items():
        if len(group) == len(alike[basename]) == 1:
            matched.setdefault(group[0], alike[basename][0])
    if names and answers and not matched:
        raise DataError(f"found no answer to any label, e.g. {answers[0]!r}, expected names such as {names[0]!r}")
    return matched


def _match_by_tail(names: Sequence[str], answers: Sequence[str]) -> Dict[str, str]:
    """Pairs of which one name is the end of the other's path."""
    ending_so: Dict[str, List[str]] = defaultdict(list)
    for answer in answers:
        for tail in _tails(answer):
            ending_so[tail].append(answer)
    offered = set(answers)
    owners: Dict[str, str] = {}
    matched = {}
    for name in names:
        fitting = ending_so.get(name) or [tail for tail in _tails(name) if tail in offered][:1]
        if len(fitting) > 1:
            raise DataError(f"found answers {fitting[0]!r} and {fitting[1]!r}, both fit {name!r}, expected one")
        for answer in fitting:
            if answer in owners:
                raise DataError(f"found answer {answer!r}, it fits {owners[answer]!r} and {name!r}, expected one")
            owners[answer] = name
            matched[name] = answer
    return matched


def _tails(name: str) -> Iterator[str]:
    """The ends of a path, longest first, without the whole: ``a/b/c`` gives ``b/c`` and ``c``."""
    while "/" in name:
        name = name.split("/", 1)[1]
        yield name


def _grouped_by_basename(names: Iterable[str]) -> Dict[str, List[str]]:
    groups: Dict[str, List[str]] = defaultdict(list)
    for name in dict.fromkeys(names):
        groups[name.rsplit("/", 1)[-1]].append(name)
    return groups


def _read_tables(path: PathLike, class_names: ClassNames) -> Dict[str, np.ndarray]:
    """Rows (N, 6) float64 of each image; a DataError with file:line for a class that has no name."""
    tables = {}
    for answer in read_answers(path):
        table = np.array(answer.rows, dtype=np.float64).reshape(-1, 6)
        if len(table) and table[:, 0].max() >= len(class_names):
            raise DataError(
                f"{answer.where}: found class id {int(table[:, 0].max())}, expected less than {len(class_names)} "
                f"({', '.join(class_names)})"
            )
        tables[answer.image] = table
    return tables
