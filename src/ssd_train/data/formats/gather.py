"""What every format does with a label once it is read: fit its boxes, notice repeats, and count what is left out."""

from __future__ import annotations

from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from ssd_train.data.boxes import as_boxes
from ssd_train.data.formats.fields import CROWD, BoxLabel, fit_boxes
from ssd_train.data.formats.jsonl import bad_lines_error
from ssd_train.data.records import MAX_CLASSES, NOTHING_IGNORED, ClassNames, Ignored, LabelSet, Record, Skipped
from ssd_train.errors import ConfigError, DataError

DUPLICATE = "duplicate line"
BAD_LINE = "bad line"
NO_BOX_LEFT = "no box of the image is usable"

ON_BAD = ("error", "skip")


class NoUsableLine(DataError):
    """Labels of which no line can be used; `skipped` tells of each line why."""

    def __init__(self, message: str, skipped: Sequence[Skipped]) -> None:
        super().__init__(message)
        self.skipped = tuple(skipped)


class Gather:
    """Gathers records, and beside them what was skipped, mended or bad, into a LabelSet.

    - Boxes are clipped to their image, or left out where too little remains (`fields.fit_box`); each is told.
    - An image all of whose boxes had to be left out is skipped: it shows something, so it is no background.
    - An image that comes again with the same boxes is skipped; with other boxes it is bad: which one is true?
    - Bad labels are one DataError that names the first few, or with `on_bad` "skip" are skipped like the rest.
    """

    def __init__(self, source: str, on_bad: str = "error") -> None:
        if on_bad not in ON_BAD:
            raise ConfigError(f"on_bad_data: found {on_bad!r}, expected 'error' or 'skip'")
        self.source = source
        self.on_bad = on_bad
        self.records: List[Record] = []
        self._skipped: List[Skipped] = []
        self._mended: List[Skipped] = []
        self._bad: List[Tuple[str, DataError]] = []
        self._seen: Dict[str, Record] = {}

    def add(self, where: str, name: str, label: BoxLabel, mended: Sequence[Tuple[str, str]] = ()) -> None:
        """Take the label of one image; a DataError without a place when it contradicts an earlier one.

        `mended` is (reason, detail) of what the format itself left out or changed.
        """
        objects, ignored, lost = label, NOTHING_IGNORED, []  # type: ignore[var-annotated]
        if label.kinds:
            objects, regions = label.split()
            ignored, lost = fit_ignored(regions)
        fitted = fit_boxes(objects.boxes, objects.class_ids, objects.size_wh)
        changes = [*mended, *fitted.changes, *lost]
        if (label.boxes or mended) and not fitted.rows and (objects.boxes or not len(ignored)):
            self.mend(where, changes)
            self.skip(where, NO_BOX_LEFT, name)
            return
        ids = np.asarray(fitted.class_ids, np.int64)
        record = Record(name, as_boxes(fitted.rows), ids, label.size_wh, where, ignored)
        first = self._seen.setdefault(name, record)
        if first is record:
            self.mend(where, changes)
            self.records.append(record)
        elif _same_labels(first, record):
            self.skip(where, DUPLICATE, f"as {first.where}")
        else:
            raise DataError(
                f"found image {name!r} with other boxes than at {first.where}, expected its boxes once",
                "conflicting-duplicate",
            )

    def skip(self, where: str, reason: str, detail: str = "") -> None:
        """Leave out a label for one of a few fixed reasons."""
        self._skipped.append(Skipped(where, reason, detail))

    def fault(self, where: str, fault: DataError) -> None:
        """Note a bad label."""
        self._bad.append((where, fault))

    def label_set(self, class_names: ClassNames, details: Optional[Dict[str, str]] = None) -> LabelSet:
        """All that was gathered; a DataError if there are bad labels that must not be skipped, or no record at all."""
        if self._bad and self.on_bad == "error":
            raise bad_lines_error(self._bad)
        skipped = self._skipped + [Skipped(where, BAD_LINE, str(fault), fault.code) for where, fault in self._bad]
        if not self.records:
            found = f"{self.source}: no line can be used, expected labelled images; {_reasons(skipped)}"
            raise NoUsableLine(found, skipped)
        return LabelSet(
            tuple(self.records), class_names, tuple(skipped), tuple(self._mended), self.source, details or {}
        )

    def mend(self, where: str, changes: Sequence[Tuple[str, str]]) -> None:
        """Tell of (reason, detail) that something was left out, changed or assumed at `where`."""
        self._mended += [Skipped(where, reason, detail) for reason, detail in changes]


def fit_ignored(label: BoxLabel) -> Tuple[Ignored, List[Tuple[str, str]]]:
    """Regions to be ignored, fitted to their image as boxes are, and what was changed."""
    fitted = fit_boxes(label.boxes, label.class_ids, label.size_wh)
    crowds = [label.kinds[index] == CROWD for index in fitted.kept]
    ids = np.asarray(fitted.class_ids, np.int64)
    return Ignored(as_boxes(fitted.rows), ids, np.asarray(crowds, bool)), fitted.changes


def class_table(places: Mapping[Tuple[int, str], str]) -> Tuple[ClassNames, Dict[int, int]]:
    """Return the class names by the ids of the labels, and id of the labels -> class id.

    `places` has each (id, name) found in the labels and where it stands first. The ids stay as they are; one between
    them that has no name is called class_N. A name under two ids is one class, whose id is the lower one.

    Raises:
        DataError: one id has two names, two names differ only in blanks around them, or an id is too high for a class.
    """
    by_name = _first_ids(places)
    for (class_id, _), place in sorted(places.items()):
        if class_id >= MAX_CLASSES:
            raise DataError(f"{place}: found class id {class_id}, expected less than {MAX_CLASSES}", "bad-class-map")
    names = ClassNames.of_ids({class_id: name for name, class_id in by_name.items()})
    return names, {class_id: by_name[name] for class_id, name in places}


def ordered_classes(places: Mapping[Tuple[int, str], str]) -> Tuple[ClassNames, Dict[int, int], Dict[str, int]]:
    """Return the class names in the order of the labels' ids without a gap, id of the labels -> class id, and name ->
    id of the labels. For formats whose ids are no class ids; `places` and errors as for `class_table`."""
    by_name = _first_ids(places)
    rank = {name: index for index, name in enumerate(by_name)}
    return ClassNames(tuple(by_name)), {class_id: rank[name] for class_id, name in places}, by_name


def _first_ids(places: Mapping[Tuple[int, str], str]) -> Dict[str, int]:
    """Return name -> its lowest id, by rising ids."""
    by_id: Dict[int, Tuple[str, str]] = {}
    by_words: Dict[str, Tuple[str, str]] = {}
    for (class_id, name), place in sorted(places.items()):
        other, other_place = by_id.setdefault(class_id, (name, place))
        if other != name:
            raise DataError(
                f"{place}: calls class {class_id} {name!r}, but {other_place} calls it {other!r}, "
                "expected one name for each id",
                "conflicting-class-map",
            )
        other, other_place = by_words.setdefault(name.strip(), (name, place))
        if other != name:
            raise DataError(
                f"{place}: has class {name!r}, but {other_place} has {other!r}, "
                "expected names that differ in more than blanks",
                "conflicting-class-map",
            )
    first: Dict[str, int] = {}
    for class_id, (name, _) in by_id.items():
        first.setdefault(name, class_id)
    return first


def numbered_classes(count: int) -> Tuple[ClassNames, Dict[int, int]]:
    """class_0, class_1, ... for labels that have ids and no names, and the table that keeps the ids."""
    return ClassNames.of_ids({}, count), {i: i for i in range(count)}


def _same_labels(a: Record, b: Record) -> bool:
    same_boxes = np.array_equal(a.boxes, b.boxes) and np.array_equal(a.class_ids, b.class_ids)
    return a.size_wh == b.size_wh and same_boxes and np.array_equal(a.ignored.boxes, b.ignored.boxes)


def _reasons(skipped: Sequence[Skipped]) -> str:
    if not skipped:
        return "found none"
    reasons = sorted({line.reason for line in skipped})
    counts = [f"{sum(line.reason == reason for line in skipped)} x {reason}" for reason in reasons]
    return f"skipped {', '.join(counts)}; the first at {skipped[0].where}: {skipped[0].detail}"
