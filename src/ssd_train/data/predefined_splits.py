"""Splits that a dataset defines itself.

These are the lists in VOC's ImageSets/Main, and train, val and test of a data.yaml.
Readers put them into `Labels.sets`; this module selects the ones that a job uses.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Dict, FrozenSet, List, Optional, Sequence, Set, Tuple

from ssd_train.data.file_names import folded, is_hidden, is_image_name
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
        by_stem: Dict[str, List[Tuple[Tuple[str, ...], str]]] = {}
        for name, file in files.items():
            path = Path(file).absolute()
            if root in path.parents:
                for listed in (path.relative_to(root), Path(name)):  # lists name annotations or images
                    parts = tuple(folded(part) for part in listed.with_suffix("").parts)
                    by_stem.setdefault(parts[-1], []).append((parts, name))
        for lists in sorted(folder.glob("*.txt")):
            entries = [] if is_hidden(lists.name) else _entries(lists)
            members = sets.setdefault(set_name(lists.stem), set()) if entries else set()
            for entry in entries:
                members.update(_meant(entry, by_stem.get(entry[-1], [])))
    members_of = {name: frozenset(members) for name, members in sets.items() if members}
    return members_of, ", ".join(map(str, folders)) if members_of else ""


def _meant(entry: Tuple[str, ...], candidates: Sequence[Tuple[Tuple[str, ...], str]]) -> List[str]:
    """Return the names whose paths share the longest tail with a list entry."""
    for first in range(len(entry)):
        wanted = entry[first:]
        fitting = [name for parts, name in candidates if parts[-len(wanted) :] == wanted]
        if fitting:
            return fitting
    return []


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
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: found byte 0x{error.object[error.start]:02x}, expected UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}), expected a list of images") from None
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if lines and all(len(line.split()) > 1 and line.split()[-1] in _FLAGS for line in lines):
        return []
    entries = []
    for line in lines:
        parts = [part for part in line.strip("\"'").replace("\\", "/").split("/") if part not in ("", ".", "..")]
        if parts:
            last = parts[-1].rpartition(".")[0] if is_image_name(parts[-1]) else parts[-1]
            entries.append(tuple(folded(part) for part in (*parts[:-1], last)))
    return entries


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
