"""join: the manifests of several labelling jobs as one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from ssd_train.data.formats.ground_truth_survey import BOX_TYPE, METADATA, choose_attribute, survey
from ssd_train.data.formats.jsonl import bad_lines_error
from ssd_train.data.prepare.classes import Labels, labels_of, names_on, new_classes
from ssd_train.data.prepare.lines import ManifestLine, is_labelled, local_path, read_lines, write_lines
from ssd_train.errors import ConfigError, DataError

ON_DUPLICATE = ("error", "keep-first", "keep-last", "keep-all")


@dataclass
class Joined:
    """What was done: lines read of each manifest and written, images that came again, and the classes, name -> id,
    where ids had to be made anew (else empty)."""

    lines_in: List[int] = field(default_factory=list)
    lines_out: int = 0
    duplicates: int = 0
    renumbered: Dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Input:
    """A manifest and its labels; None where nobody has labelled its images yet."""

    path: str
    labels: Optional[Labels]


def join(
    paths: Sequence["str | Path"],
    output: "str | Path",
    on_duplicate: str = "error",
    label_attribute: Optional[str] = None,
) -> Joined:
    """Write the lines of all manifests, one manifest after the other, to `output`.

    The labels of each are those of its newest job, or of `label_attribute` where it has boxes under that name. Labels
    of other names get that name. Where one class id means different classes, that of the first manifest keeps it, and
    the others get ids above all that are in use. An image that comes again is an error, or its first or last line or
    all of them are kept (`on_duplicate`).

    Raises:
        ConfigError: labels of different names and no `label_attribute`, or an unknown `on_duplicate`.
        DataError: images that come again, or a line that cannot be used; begins with file:line.
    """
    if on_duplicate not in ON_DUPLICATE:
        raise ConfigError(f"on_duplicate: found {on_duplicate!r}, expected one of {', '.join(map(repr, ON_DUPLICATE))}")
    inputs = [_input(path, label_attribute) for path in paths]
    attribute = label_attribute or _common_attribute(inputs)
    ids = _new_ids(inputs)
    report = Joined([0] * len(inputs), renumbered=ids)
    chosen = _choose(inputs, on_duplicate, report)
    report.lines_out = write_lines(output, _lines(inputs, attribute, ids, chosen))
    return report


def _input(path: "str | Path", label_attribute: Optional[str]) -> _Input:
    found = survey(local_path(path))
    if not found.attributes and not found.faults:
        return _Input(str(path), None)
    named = found.attributes.get(label_attribute or "")
    wanted = label_attribute if named is not None and BOX_TYPE in named.kinds else None
    return _Input(str(path), labels_of(found, choose_attribute(found, wanted, path), path))


def _common_attribute(inputs: Sequence[_Input]) -> str:
    attributes = {i.labels.attribute: i.path for i in inputs if i.labels}
    if len(attributes) > 1:
        listed = ", ".join(f"{name!r} in {path}" for name, path in attributes.items())
        raise ConfigError(f"join: found labels called {listed}, expected --label_attribute NAME to call all of them")
    return next(iter(attributes), "")


def _new_ids(inputs: Sequence[_Input]) -> Dict[str, int]:
    """Name -> id of all classes, by rising ids, where an id has different names in different manifests; else none: all
    ids stay. A name keeps its first id, unless another name has had that before."""
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


def _choose(inputs: Sequence[_Input], on_duplicate: str, report: Joined) -> Dict[str, int]:
    """Image -> number of its line among all lines read; empty where all lines are kept."""
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
    """Each line and the index of its manifest."""
    for index, source in enumerate(inputs):
        for line in read_lines(source.path):
            yield index, line


def _rewritten(line: ManifestLine, labels: Labels, attribute: str, ids: Dict[str, int]) -> bytes:
    """The line with the joined classes, if they have other ids, and the joined name of its labels."""

    def edit(copy: Dict[str, Any]) -> None:
        """Change the classes where they differ, then the name."""
        if ids and is_labelled(line, labels.attribute):
            new_classes(line, labels.attribute, names_on(line, labels), ids)(copy)
        _rename(line, copy, labels.attribute, attribute)

    return line.edited(edit)


def _rename(line: ManifestLine, copy: Dict[str, Any], old: str, new: str) -> None:
    """Give a label and its metadata another name, at the place where they stand."""
    renamed = {old: new, old + METADATA: new + METADATA}
    taken = {new, new + METADATA} & set(copy) if old != new else set()
    if taken:
        raise DataError(f"{line.where}: {old!r} cannot be called {new!r}, expected a line without {min(taken)!r}")
    items = [(renamed.get(key, key), value) for key, value in copy.items()]
    copy.clear()
    copy.update(items)
