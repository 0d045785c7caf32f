"""Merge the manifests of several labelling jobs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from ssd_train.data.formats.ground_truth import BOX_TYPE, METADATA, choose_attribute, scan
from ssd_train.data.formats.json_lines import bad_lines_error
from ssd_train.errors import ConfigError, DataError
from ssd_train.prepare.manifest import (
    Labels,
    ManifestLine,
    is_labelled,
    labels_of,
    local_path,
    names_on,
    new_classes,
    read_lines,
    write_lines,
)

ON_DUPLICATE = ("error", "keep-first", "keep-last", "keep-all")


@dataclass
class MergeResult:
    """Counts of a merge.

    Attributes:
        lines_in: lines read from each manifest.
        lines_out: lines written.
        duplicates: lines of an image that an earlier line has.
        renumbered: class id by name if the ids had to change, else empty.
    """

    lines_in: List[int] = field(default_factory=list)
    lines_out: int = 0
    duplicates: int = 0
    renumbered: Dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Input:
    """Manifest and its labels; None if it is not labelled."""

    path: str
    labels: Optional[Labels]


def join(
    paths: Sequence["str | Path"],
    output: "str | Path",
    on_duplicate: str = "error",
    label_attribute: Optional[str] = None,
) -> MergeResult:
    """Write the lines of all manifests, in order, to `output`.

    The labels of each manifest are those of `label_attribute`, if it has boxes under that name, or else of its newest
    job. Labels of other names are renamed. If a class id has different names in different manifests, the first
    manifest's class keeps it, and the other classes get ids above all that are in use.

    Args:
        paths: the manifests.
        output: the new manifest.
        on_duplicate: one of ON_DUPLICATE: raise an error if an image is repeated, or keep its first, last or all lines.
        label_attribute: name of the labels in `output`; None: the name that all manifests use.

    Raises:
        ConfigError: labels have different names and `label_attribute` is None.
        DataError: an image is repeated, a class name conflicts, or a line is unusable; line errors begin with
            file:line.
    """
    inputs = [_input(path, label_attribute) for path in paths]
    attribute = label_attribute or _common_attribute(inputs)
    ids = _new_ids(inputs)
    report = MergeResult([0] * len(inputs), renumbered=ids)
    chosen = _choose(inputs, on_duplicate, report)
    report.lines_out = write_lines(output, _lines(inputs, attribute, ids, chosen))
    return report


def _input(path: "str | Path", label_attribute: Optional[str]) -> _Input:
    manifest = scan(local_path(path))
    if not manifest.attributes and not manifest.faults:
        return _Input(str(path), None)
    named = manifest.attributes.get(label_attribute or "")
    wanted = label_attribute if named is not None and BOX_TYPE in named.kinds else None
    return _Input(str(path), labels_of(manifest, choose_attribute(manifest, wanted, path), path))


def _common_attribute(inputs: Sequence[_Input]) -> str:
    attributes = {i.labels.attribute: i.path for i in inputs if i.labels}
    if len(attributes) > 1:
        listed = ", ".join(f"{name!r} in {path}" for name, path in attributes.items())
        raise ConfigError(f"join: found labels called {listed}, expected --label_attribute NAME to call all of them")
    return next(iter(attributes), "")


def _new_ids(inputs: Sequence[_Input]) -> Dict[str, int]:
    """Return id by name of all classes, in order of ids; empty if no id conflicts.

    An id conflicts if it has different names in different manifests. A name keeps its first id that no earlier name
    has.
    """
    owner: Dict[int, str] = {}
    ids: Dict[str, int] = {}
    displaced: List[str] = []
    by_words: Dict[str, Tuple[str, str]] = {}
    for labels, path in ((i.labels, i.path) for i in inputs if i.labels):
        for class_id, name in sorted(labels.name_of.items()):
            other, other_path = by_words.setdefault(name.strip(), (name, path))
            if other != name:
                raise DataError(
                    f"{path}: has class {name!r}, but {other_path} has {other!r}, expected names that differ in more "
                    "than blanks (prepare relabel --rename makes them one)"
                )
            if owner.setdefault(class_id, name) == name:
                ids.setdefault(name, class_id)
            else:
                displaced.append(name)
    free = max(ids.values(), default=-1) + 1
    for name in displaced:
        if name not in ids:
            ids[name], free = free, free + 1
    return dict(sorted(ids.items(), key=lambda item: item[1])) if displaced else {}


def _choose(inputs: Sequence[_Input], on_duplicate: str, report: MergeResult) -> Dict[str, int]:
    """Return the index, among all lines, of the line to keep for each image.

    Empty if all lines are kept.
    """
    chosen: Dict[str, int] = {}
    first: Dict[str, str] = {}
    faults: List[Tuple[str, str]] = []
    for number, (index, line) in enumerate(_all_lines(inputs)):
        report.lines_in[index] += 1
        name = line.source
        if name in chosen:
            report.duplicates += 1
            faults.append((line.where, f"found image {name!r} again, first at {first[name]}"))
        if name not in chosen or on_duplicate == "keep-last":
            chosen[name] = number
        first.setdefault(name, line.where)
    if faults and on_duplicate == "error":
        raise DataError(f"{bad_lines_error(faults, 'images come again')}; expected each once, or --on_duplicate")
    return {} if on_duplicate == "keep-all" else chosen


def _lines(inputs: Sequence[_Input], attribute: str, ids: Dict[str, int], chosen: Dict[str, int]) -> Iterator[bytes]:
    for number, (index, line) in enumerate(_all_lines(inputs)):
        if not chosen or chosen[line.source] == number:
            labels = inputs[index].labels
            if labels is None or (labels.attribute == attribute and not ids):
                yield line.raw
            else:
                yield _rewritten(line, labels, attribute, ids)


def _all_lines(inputs: Sequence[_Input]) -> Iterator[Tuple[int, ManifestLine]]:
    """Yield each line with the index of its manifest."""
    for index, source in enumerate(inputs):
        for line in read_lines(source.path):
            yield index, line


def _rewritten(line: ManifestLine, labels: Labels, attribute: str, ids: Dict[str, int]) -> bytes:
    """Return the line with the new class ids and the new name of its labels."""

    def edit(copy: Dict[str, Any]) -> None:
        if ids and is_labelled(line, labels.attribute):
            new_classes(line, labels.attribute, names_on(line, labels), ids)(copy)
        _rename(line, copy, labels.attribute, attribute)

    return line.edited(edit)


def _rename(line: ManifestLine, copy: Dict[str, Any], old: str, new: str) -> None:
    """Rename a label and its metadata in `copy`, keeping their positions."""
    renamed = {old: new, old + METADATA: new + METADATA}
    taken = {new, new + METADATA} & set(copy) if old != new else set()
    if taken:
        raise DataError(f"{line.where}: {old!r} cannot be called {new!r}, expected a line without {min(taken)!r}")
    items = [(renamed.get(key, key), value) for key, value in copy.items()]
    copy.clear()
    copy.update(items)
