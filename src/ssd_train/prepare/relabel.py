"""Rename, merge, drop or renumber the classes of a manifest."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Collection, Dict, Iterable, Iterator, Mapping, Optional, Sequence

from ssd_train.data.structures import ClassNames
from ssd_train.errors import ConfigError
from ssd_train.prepare.manifest import Labels, is_labelled, names_on, new_classes, read_classes, read_lines, write_lines

EMPTY_LINE_ACTIONS = ("background", "drop")


@dataclass(frozen=True)
class RelabelRules:
    """Rules for new classes.

    Attributes:
        from_keys: keys of the line whose values, joined by blanks, name all its boxes; empty: the names stay.
        rename: new name by name, applied at once, so that a=b b=a swaps two names. Classes with the same new name are
            merged.
        drop: names, after renaming, whose boxes are removed.
        when_empty: an image that loses its last box becomes "background", or "drop" removes its line.
        renumber: number the remaining classes from 0 without gaps. Else the ids stay, and merged classes get their
            lowest id.
    """

    from_keys: Sequence[str] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    drop: Sequence[str] = ()
    when_empty: str = "background"
    renumber: bool = False

    def __post_init__(self) -> None:
        if not (self.from_keys or self.rename or self.drop or self.renumber):
            raise ConfigError("relabel: found nothing to do, expected --from_keys, --rename, --drop or --renumber")


@dataclass
class RelabelResult:
    """Result of relabelling.

    Attributes:
        ids: class id by new name.
        boxes: number of boxes by new name.
        boxes_dropped: boxes removed.
        lines_in: lines read.
        lines_out: lines written.
    """

    ids: Dict[str, int]
    boxes: Dict[str, int]
    boxes_dropped: int = 0
    lines_in: int = 0
    lines_out: int = 0


def relabel(
    path: "str | Path", output: "str | Path", how: RelabelRules, label_attribute: Optional[str] = None
) -> RelabelResult:
    """Write a manifest with new classes to `output`.

    Lines without box labels of the chosen job stay as they are. Names made from keys are numbered in alphabetical
    order.

    Args:
        path: the manifest.
        output: the new manifest.
        how: the rules.
        label_attribute: the labels to change; None: those of the newest job.

    Raises:
        ConfigError: a name in `rename` or `drop` is unknown, or no class would be left.
        DataError: a line cannot be read, or has boxes and lacks one of the keys.
    """
    labels = read_classes(path, label_attribute)
    ids = _new_ids(_ids_by_keys(path, labels, how.from_keys) if how.from_keys else labels.id_of, how)
    report = RelabelResult(ids, dict.fromkeys(ids, 0))
    report.lines_out = write_lines(output, _lines(path, labels, how, report))
    return report


def _lines(path: "str | Path", labels: Labels, how: RelabelRules, report: RelabelResult) -> Iterator[bytes]:
    for line in read_lines(path):
        report.lines_in += 1
        if not is_labelled(line, labels.attribute):
            yield line.raw
            continue
        names = [how.rename.get(name, name) for name in names_on(line, labels, how.from_keys)]
        kept = [name for name in names if name in report.boxes]
        report.boxes_dropped += len(names) - len(kept)
        if kept or not names or how.when_empty == "background":
            for name in kept:
                report.boxes[name] += 1
            yield line.edited(new_classes(line, labels.attribute, names, report.ids))


def _ids_by_keys(path: "str | Path", labels: Labels, keys: Sequence[str]) -> Dict[str, int]:
    labelled = (line for line in read_lines(path) if is_labelled(line, labels.attribute))
    names = sorted({name for line in labelled for name in names_on(line, labels, keys)})
    return {name: class_id for class_id, name in enumerate(names)}


def _new_ids(ids: Mapping[str, int], how: RelabelRules) -> Dict[str, int]:
    """Return id by name of the remaining classes, in the order of `ids`."""
    _refuse_unknown("rename", how.rename, ids)
    renamed: Dict[str, int] = {}
    for name, class_id in ids.items():
        renamed.setdefault(how.rename.get(name, name), class_id)
    _refuse_unknown("drop", how.drop, renamed)
    kept = {name: class_id for name, class_id in renamed.items() if name not in how.drop}
    if not kept:
        raise ConfigError(f"relabel: no class would be left of {', '.join(map(repr, ids))}, expected at least one")
    ClassNames(tuple(kept))  # raises an error for a blank name
    return {name: number for number, name in enumerate(kept)} if how.renumber else kept


def _refuse_unknown(flag: str, names: Iterable[str], known: Collection[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"{flag}: found {unknown[0]!r}, expected one of {', '.join(map(repr, known))}")
