"""Data structures for labels, detections and sources of images.

Ground truth and detections are separate types on purpose: a Record has no scores.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Dict, FrozenSet, Iterator, List, Mapping, Optional, Protocol, Sequence, Tuple

import numpy as np

from ssd_train.boxes import SizeWH, as_boxes, find_invalid_box
from ssd_train.errors import DataError

MAX_CLASSES = 10_000  # a higher class id is a mistake, not a class


@dataclass(frozen=True)
class ClassNames:
    """Names of the classes, without background; a class id is an index into `names`.

    A class without a name is called class_N, N being its id (followed by "_" if that name is taken).
    """

    names: Tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        for name in self.names:
            if not isinstance(name, str) or not name.strip():
                raise DataError(f"class names: found {name!r}, expected a name that is not blank")
        twice = [name for name, count in Counter(self.names).items() if count > 1]
        if twice:
            raise DataError(f"class names: found {twice[0]!r} twice, expected each name once")

    @classmethod
    def of_ids(cls, names: Mapping[int, str], count: int = 0) -> "ClassNames":
        """Return class names from a mapping of ids.

        Args:
            names: Class id -> name; missing ids get placeholder names.
            count: Minimum number of classes.
        """
        names_by_id = dict(names)
        taken = set(names_by_id.values())
        for class_id in range(max(max(names_by_id, default=-1) + 1, count)):
            if class_id not in names_by_id:
                name = f"class_{class_id}"
                while name in taken:
                    name += "_"
                names_by_id[class_id] = name
                taken.add(name)
        return cls(tuple(names_by_id[class_id] for class_id in range(len(names_by_id))))

    @property
    def unnamed(self) -> Tuple[int, ...]:
        """Ids of the classes with placeholder names."""
        return tuple(i for i, name in enumerate(self.names) if name.rstrip("_") == f"class_{i}")

    def ids_in(self, others: "ClassNames", by_id: bool = True) -> np.ndarray:
        """Return the id of each class in `others`, int64 (num_classes,), -1 where missing.

        Classes are matched by name. With `by_id`, classes that have a placeholder name on either side are also matched
        by id, unless a name has different ids in the two: then the ids do not mean the same classes.
        """
        position_of = {name: class_id for class_id, name in enumerate(others)}
        ids = np.array([position_of.get(name, -1) for name in self.names], dtype=np.int64)
        own = np.arange(len(self))
        if by_id and ((ids < 0) | (ids == own)).all():
            unnamed = np.isin(own, [*self.unnamed, *others.unnamed])
            ids = np.where((ids < 0) & unnamed & (own < len(others)), own, ids)
        return ids

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __getitem__(self, class_id: int) -> str:
        return self.names[class_id]

    def index(self, name: str) -> int:
        """Return the id of `name`.

        Raises:
            DataError: There is no such class; lists the known names.
        """
        if name not in self.names:
            raise DataError(
                f"class {name!r} is unknown, expected one of {', '.join(map(repr, self.names))}", "unknown-class"
            )
        return self.names.index(name)


@dataclass(frozen=True)
class Ignored:
    """Regions of an image that are neither objects nor background.

    They are difficult objects (VOC) and crowds (COCO). A detection in such a region counts neither as right nor as
    wrong, and an anchor there is neither positive nor negative.

    Attributes:
        boxes: Float32 (M, 4) xyxy pixels.
        class_ids: Int64 (M,), -1 for a class that is not in the class names.
        crowds: Bool (M,), True for a region of many objects, False for a single object.
    """

    boxes: np.ndarray = field(default_factory=lambda: as_boxes([]))
    class_ids: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    crowds: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes", as_boxes(self.boxes))
        object.__setattr__(self, "class_ids", np.asarray(self.class_ids, dtype=np.int64).reshape(-1))
        object.__setattr__(self, "crowds", np.asarray(self.crowds, dtype=bool).reshape(-1))
        if not len(self.boxes) == len(self.class_ids) == len(self.crowds):
            raise DataError(
                f"ignored regions: found {len(self.boxes)} boxes, {len(self.class_ids)} class ids and "
                f"{len(self.crowds)} flags, expected as many"
            )

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, wanted: np.ndarray) -> "Ignored":
        """Return the regions selected by a mask or index array."""
        return Ignored(self.boxes[wanted], self.class_ids[wanted], self.crowds[wanted])


NOTHING_IGNORED = Ignored()


@dataclass(frozen=True)
class LabeledImage:
    """A labelled image.

    Attributes:
        name: Name of the image in the labels, e.g. ``s3://bucket/frames/a.jpg`` or ``frames/a.jpg``.
        boxes: Float32 (N, 4) xyxy pixels; N is 0 for a background image.
        class_ids: Int64 (N,), indices into the ClassNames of the Labels.
        size_wh: (width, height) that the boxes refer to, or None if the labels do not contain it.
        where: ``file:line`` (or ``file``) of the labels, for messages.
        ignored: Regions that are neither objects nor background.
    """

    name: str
    boxes: np.ndarray
    class_ids: np.ndarray
    size_wh: Optional[SizeWH] = None
    where: str = ""
    ignored: Ignored = NOTHING_IGNORED

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes", as_boxes(self.boxes))
        object.__setattr__(self, "class_ids", np.asarray(self.class_ids, dtype=np.int64).reshape(-1))
        where = self.location
        if len(self.boxes) != len(self.class_ids):
            raise DataError(
                f"{where}: found {len(self.boxes)} boxes and {len(self.class_ids)} class ids, expected as many"
            )
        if len(self.class_ids) and self.class_ids.min() < 0:
            raise DataError(f"{where}: found class id {self.class_ids.min()}, expected 0 or more")
        self._check(self.boxes, where)
        if self.ignored is not NOTHING_IGNORED:
            self._check(self.ignored.boxes, where)

    def _check(self, boxes: np.ndarray, where: str) -> None:
        bad = find_invalid_box(boxes, self.size_wh)
        if bad:
            index, fault = bad
            size = "" if self.size_wh is None else f" of {self.size_wh[0]}x{self.size_wh[1]}"
            box = [round(float(v), 2) for v in boxes[index]]
            raise DataError(
                f"{where}: box {index} {fault}{size}: {box}, expected 0 <= x1 < x2 and 0 <= y1 < y2 inside the image"
            )

    @property
    def is_background(self) -> bool:
        """Return True if the image has neither objects nor ignored regions."""
        return not len(self.boxes) and not len(self.ignored)

    @property
    def location(self) -> str:
        """Return the source of the record for messages: `where`, or the name."""
        return self.where or self.name

    @property
    def basename(self) -> str:
        """Last part of the name."""
        return self.name.rsplit("/", 1)[-1]


@dataclass(frozen=True, eq=False)  # arrays have no single ==
class Detections:
    """Detections in one image.

    Attributes:
        boxes: Float32 (N, 4) xyxy pixels of an image of `size_wh`, clipped to it; clipping may leave empty boxes.
        scores: Float32 (N,) in 0..1, descending.
        class_ids: Int64 (N,).
        size_wh: (width, height) of the image.
    """

    boxes: np.ndarray
    scores: np.ndarray
    class_ids: np.ndarray
    size_wh: SizeWH

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes", as_boxes(self.boxes))
        object.__setattr__(self, "scores", np.asarray(self.scores, dtype=np.float32).reshape(-1))
        object.__setattr__(self, "class_ids", np.asarray(self.class_ids, dtype=np.int64).reshape(-1))
        if not len(self.boxes) == len(self.scores) == len(self.class_ids):
            raise DataError(
                f"detections: found {len(self.boxes)} boxes, {len(self.scores)} scores, "
                f"{len(self.class_ids)} class ids, expected as many"
            )
        # a diverged network's NaN must never be evaluated or served
        if not (np.isfinite(self.boxes).all() and np.isfinite(self.scores).all()):
            raise DataError("detections: found NaN or infinity, expected finite boxes and scores")

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, threshold: float) -> "Detections":
        """Return the detections with a score of at least `threshold`."""
        keep = self.scores >= threshold
        return replace(self, boxes=self.boxes[keep], scores=self.scores[keep], class_ids=self.class_ids[keep])

    def to_rows(self) -> List[List[float]]:
        """Return the built-in algorithm's rows [class, score, xmin, ymin, xmax, ymax].

        Coordinates are fractions of the image, 0..1.
        """
        width, height = self.size_wh
        scaled = self.boxes / np.array([width, height, width, height], dtype=np.float32)
        columns = np.concatenate([self.class_ids[:, None], self.scores[:, None], scaled], axis=1)
        return [[float(value) for value in row] for row in columns]

    @classmethod
    def from_network(cls, rows: np.ndarray, size_wh: SizeWH, side: int) -> "Detections":
        """Convert the output of the network for one image; boxes are clipped to the image.

        Args:
            rows: (N, 6) class id, score, x1, y1, x2, y2 in pixels of the network's input; class id -1 marks unused
                rows.
            size_wh: (width, height) of the image.
            side: Input side of the network in pixels.

        Raises:
            DataError: A value is NaN or infinite.
        """
        if not np.isfinite(rows).all():  # a NaN class id would be taken for an unused row
            raise DataError(
                "detections: found NaN or infinity in the network's answer, expected finite scores and boxes"
            )
        rows = rows[rows[:, 0] >= 0]
        limits = np.array([*size_wh, *size_wh], dtype=np.float32)
        return cls(np.clip(rows[:, 2:] * (limits / side), 0, limits), rows[:, 1], rows[:, 0], size_wh)

    @classmethod
    def from_rows(cls, rows: "Sequence[Sequence[float]] | np.ndarray", size_wh: SizeWH) -> "Detections":
        """Convert rows as returned by `to_rows`; sorts by score and clips to the image."""
        table = np.asarray(rows, dtype=np.float64).reshape(-1, 6)
        table = table[np.argsort(-table[:, 1], kind="stable")]
        width, height = size_wh
        scale = np.array([width, height, width, height])
        return cls(np.clip(table[:, 2:], 0, 1) * scale, table[:, 1], table[:, 0], size_wh)


@dataclass(frozen=True)
class LabelIssue:
    """A skipped or repaired line of labels.

    Attributes:
        where: ``file:line``, for messages.
        reason: One of a few fixed texts, so that lines can be counted by it.
        detail: Description.
        code: Code of the DataError, "" if there is no specific one.
    """

    where: str
    reason: str
    detail: str = ""
    code: str = ""


@dataclass(frozen=True)
class Labels:
    """Labels of a dataset, as a reader returns them.

    Attributes:
        records: The labelled images.
        class_names: Names of the class ids.
        skipped: Lines that were skipped.
        repaired: Lines and boxes that were repaired.
        source: File or folder of the labels, for messages.
        details: Further properties, such as the format.
        category_ids: Class name -> category id of a COCO file, whose ids differ from the class ids; otherwise empty.
        sets: Names of the records in each split that the data defines (train, val, test).
        others: Records of other splits, which are not used.
    """

    records: Tuple[LabeledImage, ...]
    class_names: ClassNames
    skipped: Tuple[LabelIssue, ...] = ()
    repaired: Tuple[LabelIssue, ...] = ()
    source: str = ""
    details: Dict[str, str] = field(default_factory=dict)
    category_ids: Dict[str, int] = field(default_factory=dict)
    sets: Dict[str, FrozenSet[str]] = field(default_factory=dict)
    others: Tuple[LabeledImage, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "records", tuple(self.records))
        count = len(self.class_names)
        if self._all_ids.max(initial=-1) >= count:
            record = next(record for record in self.records if record.class_ids.max(initial=-1) >= count)
            raise DataError(f"{record.where}: found class id {record.class_ids.max()}, expected less than {count}")

    def __len__(self) -> int:
        return len(self.records)

    def boxes_per_class(self) -> np.ndarray:
        """Return the number of boxes (num_classes,) of each class."""
        return np.bincount(self._all_ids, minlength=len(self.class_names))

    @functools.cached_property
    def _all_ids(self) -> np.ndarray:
        return np.concatenate([np.zeros(0, np.int64), *(record.class_ids for record in self.records)])

    def unused_ids(self) -> Tuple[int, ...]:
        """Return the ids of classes that have neither a name nor a box.

        They are gaps between the class ids of the labels, or lie above them.
        """
        counts = self.boxes_per_class()
        return tuple(class_id for class_id in self.class_names.unnamed if not counts[class_id])

    def remap_classes(self, class_names: ClassNames, by_id: bool = False) -> "Labels":
        """Return the same labels with class ids that refer to `class_names`.

        Classes are matched by ClassNames.ids_in.

        Raises:
            DataError: A class that has boxes is missing in `class_names`.
        """
        lookup = self.class_names.ids_in(class_names, by_id)
        for class_id, (name, count) in enumerate(zip(self.class_names, self.boxes_per_class())):
            if count and lookup[class_id] < 0:
                label = f"class id {class_id}" if class_id in self.class_names.unnamed else f"class {name!r}"
                raise DataError(
                    f"{self.source}: found {label} ({count} boxes), expected only {', '.join(map(repr, class_names))}"
                )
        records = [
            replace(r, class_ids=lookup[r.class_ids], ignored=_with_ids(r.ignored, lookup)) for r in self.records
        ]
        return replace(self, records=tuple(records), class_names=class_names)

    def sha256(self) -> str:
        """Return the SHA-256 of the names, sizes, boxes and class ids of the images."""
        digest = hashlib.sha256()
        for record in self.records:
            digest.update(f"{record.name}\0{record.size_wh}\0".encode("utf-8", "surrogateescape"))
            digest.update(record.boxes.tobytes() + record.class_ids.tobytes())
        return digest.hexdigest()

    def subset(self, keep: Sequence[bool]) -> "Labels":
        """Return the records for which `keep` is true, without skipped and repaired lines."""
        records = tuple(record for record, wanted in zip(self.records, keep) if wanted)
        return replace(self, records=records, skipped=(), repaired=())


def _with_ids(ignored: Ignored, lookup: np.ndarray) -> Ignored:
    """Map the class ids of ignored regions; -1 stays -1."""
    if not len(ignored):
        return NOTHING_IGNORED
    return Ignored(ignored.boxes, np.append(lookup, -1)[ignored.class_ids], ignored.crowds)


class ImageSource(Protocol):
    """Source of the encoded images of records."""

    def read(self, record: LabeledImage) -> bytes:
        """Return the encoded image.

        Raises:
            DataError: The image is not available; the message names the record's place.
        """

    def locate(self, record: LabeledImage) -> str:
        """Return the place of the image, for messages and reports."""
