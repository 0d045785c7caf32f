"""Splits that a dataset defines itself.

These are the lists in VOC's ImageSets/Main, and train, val and test of a data.yaml.
Readers put them into `Labels.sets`; this module selects the ones that a job uses.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Dict, FrozenSet, Iterable, List, Optional, Sequence, Set, Tuple

from ssd_train.data.file_names import folded, is_hidden, is_image_name
from ssd_train.data.formats.json_lines import read_text
from ssd_train.data.structures import Labels
from ssd_train.errors import ConfigError, DataError

TRAIN, VALIDATION, BOTH, TEST = "train", "val", "trainval", "test"
_OTHER_NAMES = {"training": TRAIN, "valid": VALIDATION, "validation": VALIDATION, "testing": TEST}
_MAIN = Path("ImageSets", "Main")
_FLAGS = ("-1", "0", "1")  # after each name in the list of a class: absent, difficult, present


def set_name(name: str) -> str:
    """Return the canonical name of a split: valid -> val."""
    return _OTHER_NAMES.get(name.lower(), name)


def voc_sets(roots: Sequence[Path], files: Dict[str, str]) -> Tuple[Dict[str, FrozenSet[str]], str]:
    """Read the splits in VOC's ImageSets/Main.

    A list for one class (cat_train.txt: names with 1, 0 or -1) is not a split.

    Args:
        roots: Folders of labels and images.
        files: Name of each record -> its XML file.

    Returns:
        Split -> names of its records, and the folders of the lists for messages; "" if there are no splits.
    """
    folders = sorted({folder for base in roots for folder in _main_folders(base)})
    sets: Dict[str, Set[str]] = {}
    for folder in folders:
        root = folder.parents[1]
        paths: List[Tuple[Tuple[str, ...], str]] = []
        for name, file in files.items():
            path = Path(file).absolute()
            if root in path.parents:
                for listed in (path.relative_to(root), Path(name)):  # lists name annotations or images
                    paths.append((tuple(folded(part) for part in listed.with_suffix("").parts), name))
        for lists in sorted(folder.glob("*.txt")):
            if not is_hidden(lists.name):
                sets.setdefault(set_name(lists.stem), set()).update(match_paths(_entries(lists), paths))
    members_of = {name: frozenset(members) for name, members in sets.items() if members}
    return members_of, ", ".join(map(str, folders)) if members_of else ""


def match_paths(entries: Iterable[Tuple[str, ...]], paths: Iterable[Tuple[Tuple[str, ...], str]]) -> Set[str]:
    """Return the names of the paths that share the longest tail with an entry of a list.

    Args:
        entries: Parts of each entry, as `split_path` returns them.
        paths: (parts of a path, name).
    """
    by_last: Dict[str, List[Tuple[Tuple[str, ...], str]]] = {}
    for parts, name in paths:
        by_last.setdefault(parts[-1], []).append((parts, name))
    names: Set[str] = set()
    for entry in entries:
        for length in range(len(entry), 0, -1):
            tail = entry[-length:]
            hits = [name for parts, name in by_last.get(entry[-1], ()) if parts[-length:] == tail]
            if hits:
                names.update(hits)
                break
    return names


def split_path(line: str) -> Tuple[str, ...]:
    """Return the normalised parts of a path in a list of images."""
    parts = line.strip().strip("\"'").replace("\\", "/").split("/")
    return tuple(folded(part) for part in parts if part not in ("", ".", ".."))


def _main_folders(folder: Path) -> List[Path]:
    """Return ImageSets/Main in a folder, in its parent, or in one of its subfolders."""
    absolute = folder.absolute()
    above = [folder / _MAIN for folder in (absolute, absolute.parent) if (folder / _MAIN).is_dir()]
    return above or [path for path in absolute.glob(f"*/{_MAIN}") if path.is_dir()]


def _entries(path: Path) -> List[Tuple[str, ...]]:
    """Return the names in a list as normalised path parts.

    A list for one class has none.
    """
    try:
        lines = [line.strip() for line in read_text(path).split("\n") if line.strip()]
    except DataError as fault:
        raise fault.at(path) from None
    if lines and all(len(line.split()) > 1 and line.split()[-1] in _FLAGS for line in lines):
        return []
    entries = [entry for entry in map(split_path, lines) if entry]
    return [(*entry[:-1], entry[-1].rpartition(".")[0] if is_image_name(entry[-1]) else entry[-1]) for entry in entries]


def select_split(labels: Labels, name: str) -> Labels:
    """Return the records of one split; `Labels.others` gets the rest.

    Raises:
        ConfigError: There is no such split.
    """
    members = labels.sets.get(set_name(name))
    if members is None:
        listed = ", ".join(sorted(labels.sets)) or "none: the data names no sets"
        raise ConfigError(f"split: found {name!r}, expected one of the sets of {labels.source}: {listed}")
    return of_names(labels, members)


def of_names(labels: Labels, names: "FrozenSet[str]") -> Labels:
    """Return the records with these names; `Labels.others` gets the rest."""
    keep = [record.name in names for record in labels.records]
    others = tuple(record for record, kept in zip(labels.records, keep) if not kept)
    part = labels.subset(keep)
    return dataclasses.replace(
        part, skipped=labels.skipped, repaired=labels.repaired, sets={}, others=(*labels.others, *others)
    )


def training_split(labels: Labels, alone: bool) -> Tuple[Labels, Optional[Labels]]:
    """Return the training labels, and validation labels if the data defines them.

    Both are returned if there are train and val with different images and `alone` is true. Otherwise trainval is
    returned if it exists, else train, else all records that are not in test. Data without splits is returned whole.

    Args:
        labels: The labels.
        alone: False if the user gives other validation data.

    Returns:
        Training labels, and validation labels or None.

    Raises:
        DataError: There are only test images.
    """
    sets = {name: members for name, members in labels.sets.items() if members}
    if not sets:
        return labels, None
    if alone and TRAIN in sets and VALIDATION in sets and sets[TRAIN] != sets[VALIDATION]:
        return of_names(labels, sets[TRAIN]), of_names(labels, sets[VALIDATION])
    for name in (BOTH, TRAIN):
        if name in sets:
            return of_names(labels, sets[name]), None
    kept = frozenset(record.name for record in labels.records) - sets.get(TEST, frozenset())
    if not kept:
        raise DataError(
            f"{labels.source}: found images of the set test only, expected some to train on; --split test takes them"
        )
    return of_names(labels, kept), None


def validation_split(labels: Labels) -> Labels:
    """Return the val split of data given for validation, or all if there is none."""
    members = labels.sets.get(VALIDATION)
    return of_names(labels, members) if members else labels


def describe_splits(labels: Labels) -> str:
    """Describe the splits in one line; "" if there are none."""
    if not labels.sets:
        return ""
    counts = ", ".join(f"{name} {len(members)}" for name, members in sorted(labels.sets.items()))
    return f"sets of {labels.details.get('sets', labels.source)}: {counts}"
