"""Training and validation splits: held out by content, or defined by the dataset itself.

Held out: the split is reproducible, and no image is in both parts. The key of an image is a hash of its bytes, or its
name if the bytes are not available. Records that share a key or a group (such as the frames of a video) belong
together: each connected component of these two relations goes to one split as a whole. The component's smallest key,
hashed to a number in 0..1, decides which. So the result depends neither on the order of the lines nor, as a rule, on
other records.

Defined by the dataset: the lists in VOC's ImageSets/Main, train, val and test of a data.yaml, or folders of these names
that hold all images. Labels have them in `Labels.sets`; `select_split` and others select the ones that a job uses.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from typing import Callable, Dict, FrozenSet, List, Optional, Sequence, Set, Tuple

from ssd_train.data.structures import ImageSource, LabeledImage, Labels
from ssd_train.environment import read_seconds
from ssd_train.errors import ConfigError, DataError
from ssd_train.parallel import map_files
from ssd_train.progress import Progress
from ssd_train.resources import available_cpus

ContentHash = Callable[[LabeledImage], str]


def split_by_hash(
    labels: Labels,
    fraction: float,
    content_hash: ContentHash,
    group_regex: Optional[str] = None,
    progress: Optional[Progress] = None,
) -> Tuple[Labels, Labels]:
    """Split labels into training and validation.

    Args:
        labels: The labels.
        fraction: Approximate fraction of records in validation; each split gets at least one.
        content_hash: Function that returns the SHA-256 of a record's image in hex, or "" if it is not available; called
            by threads.
        group_regex: Regular expression searched in the names. Records with the same match (its first group, or all of
            it) stay together.
        progress: Progress display.

    Returns:
        (training, validation).

    Raises:
        ConfigError: `fraction` is not between 0 and 1, or `group_regex` is invalid or matches no name.
        DataError: All records belong together, so that none can be held out.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"validation_fraction: found {fraction}, expected a number between 0 and 1")
    components = _components(_keys(labels.records, content_hash, group_regex, progress))
    if len(components) < 2:
        raise DataError(
            f"{labels.source}: found {len(labels)} images that are all the same or of one group, "
            "expected at least two to hold one out"
        )
    # hold out the `count` components with the smallest hashes
    hashes = {key: _unit_hash(key) for key in components}
    below = sum(value < fraction for value in hashes.values())
    count = min(max(below, 1), len(components) - 1)
    held_out = {index for key in sorted(hashes, key=hashes.__getitem__)[:count] for index in components[key]}
    is_held_out = [index in held_out for index in range(len(labels))]
    return labels.subset([not held for held in is_held_out]), labels.subset(is_held_out)


def fold_of_each(
    labels: Labels,
    folds: int,
    content_hash: ContentHash,
    group_regex: Optional[str] = None,
    progress: Optional[Progress] = None,
) -> List[int]:
    """Return the fold, from 0, of each record for cross-validation; records that belong together share one.

    Args:
        labels: The labels.
        folds: Number of folds, at least 2. In order of their hashes, components go to the smallest fold.
        content_hash: As for `split_by_hash`.
        group_regex: As for `split_by_hash`.
        progress: Progress display.

    Raises:
        ConfigError: `group_regex` is invalid or matches no name.
        DataError: There are fewer components than folds.
    """
    components = _components(_keys(labels.records, content_hash, group_regex, progress))
    if len(components) < folds:
        raise DataError(
            f"{labels.source}: found {len(components)} images that differ or are of different groups, "
            f"expected at least {folds}, one for each fold"
        )
    sizes, fold_of = [0] * folds, [0] * len(labels)
    for _, members in sorted(components.items(), key=lambda item: _unit_hash(item[0])):
        smallest = sizes.index(min(sizes))
        sizes[smallest] += len(members)
        for index in members:
            fold_of[index] = smallest
    return fold_of


def image_hash(source: ImageSource) -> ContentHash:
    """Return a `content_hash` function that reads images from `source`."""

    def content_hash(record: LabeledImage) -> str:
        """Return the SHA-256 of the encoded image in hex, or "" if it is not available."""
        try:
            return hashlib.sha256(source.read(record)).hexdigest()
        except DataError:
            return ""

    return content_hash


def unseen_classes(labels: Labels, others: Labels) -> List[str]:
    """Return the names of classes with boxes in `others` but not in `labels`.

    Both must have the same class names.
    """
    counts = zip(labels.class_names, labels.boxes_per_class(), others.boxes_per_class())
    return [name for name, here, there in counts if there and not here]


def _keys(
    records: Sequence[LabeledImage], content_hash: ContentHash, group_regex: Optional[str], progress: Optional[Progress]
) -> List[List[str]]:
    """Return the keys of each record; records with a common key belong together."""
    groups: List[Optional[str]] = [None] * len(records)
    if group_regex:
        groups = group_names([record.name for record in records], group_regex, progress=progress)
    digests = map_files(content_hash, records, available_cpus(), read_seconds())
    shown = (progress or Progress()).track(digests, len(records), "checking images")
    keys = []
    for record, group, digest in zip(records, groups, shown):
        own = f"content {digest}" if digest else f"name {record.name}"
        keys.append([own] if group is None else [own, f"group {group}"])
    return keys


def compile_regex(regex: str, setting: str) -> "re.Pattern[str]":
    """Compile a regular expression; raises a ConfigError that starts with `setting` if it is invalid."""
    try:
        return re.compile(regex)
    except re.error as error:
        raise ConfigError(f"{setting}: found {regex!r}, expected a regular expression ({error})") from None


def group_names(
    names: Sequence[str], group_regex: str, setting: str = "split_group", progress: Optional[Progress] = None
) -> List[Optional[str]]:
    """Return the group of each name: the first group or the whole match of the regex.

    Args:
        names: Names of images.
        group_regex: Regular expression to search.
        setting: Name of the setting, for messages.
        progress: Output for the number of groups.

    Returns:
        For each name its group, or None if it does not match.

    Raises:
        ConfigError: The regular expression is invalid or matches no name; the message starts with `setting`.
    """
    pattern = compile_regex(group_regex, setting)
    matches = [pattern.search(name) for name in names]
    if not any(matches):
        example = repr(names[0]) if names else "none"
        raise ConfigError(f"{setting}: {group_regex!r} matches no name, expected some to match; the first is {example}")
    groups = [match and match.group(min(pattern.groups, 1)) for match in matches]
    if progress:
        counted = "what its first bracket matches" if pattern.groups else "the whole match"
        progress.info(
            f"{setting}: {len(set(groups) - {None})} groups by {counted}, "
            f"in {len(names) - groups.count(None)} of {len(names)} names"
        )
    return groups


def _components(keys: List[List[str]]) -> Dict[str, List[int]]:
    """Return the smallest key of each connected component -> indices of its records."""
    parent: Dict[str, str] = {}

    def root(key: str) -> str:
        """Return the current root of the component of `key`."""
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]  # path halving: long chains would take quadratic time
            key = parent[key]
        return key

    for own in keys:
        for key in own[1:]:
            low, high = sorted((root(own[0]), root(key)))
            parent[high] = low  # the root is always the smallest key of its component
    components: Dict[str, List[int]] = {}
    for index, own in enumerate(keys):
        components.setdefault(root(own[0]), []).append(index)
    return components


def _unit_hash(key: str) -> float:
    """Hash `key` to a number in 0..1."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


TRAIN, VALIDATION, BOTH, TEST = "train", "val", "trainval", "test"
_NAMES = {name: name for name in (TRAIN, VALIDATION, BOTH, TEST)}
_NAMES.update({"training": TRAIN, "valid": VALIDATION, "validation": VALIDATION, "testing": TEST})


def set_name(name: str) -> str:
    """Return the canonical name of a split: Valid -> val."""
    return _NAMES.get(name.lower(), name)


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

    Both are returned if `alone` is true and there are train and val with different images, or val and images of no
    split, to train on. Otherwise trainval is returned if it exists, else train, else all records that are not in test.
    Data without splits is returned whole.

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
    if alone and VALIDATION in sets and kept - sets[VALIDATION]:
        return of_names(labels, kept - sets[VALIDATION]), of_names(labels, sets[VALIDATION])
    if not kept:
        raise DataError(
            f"{labels.source}: found images of the set test only, expected some to train on; --split test takes them"
        )
    return of_names(labels, kept), None


def validation_split(labels: Labels) -> Labels:
    """Return the val split of data given for validation, or all if there is none."""
    members = labels.sets.get(VALIDATION)
    return of_names(labels, members) if members else labels


def split_of_folders(name: str) -> str:
    """Return the split that a folder in the path `name` is called after; "" if none: valid/a.jpg -> val."""
    splits = (set_name(folder) for folder in name.split("/")[:-1])
    return next((split for split in splits if split in (TRAIN, VALIDATION, TEST)), "")


def with_folder_splits(labels: Labels) -> Labels:
    """Add the splits of folders called train, val or test, if all images are in such folders and in several of them."""
    sets: Dict[str, Set[str]] = {}
    for record in labels.records:
        sets.setdefault(split_of_folders(record.name), set()).add(record.name)
    if labels.sets or "" in sets or len(sets) < 2:
        return labels
    members = {name: frozenset(names) for name, names in sets.items()}
    return dataclasses.replace(labels, sets=members, details={**labels.details, "sets": labels.source})


def describe_mixed_folders(labels: Labels) -> str:
    """Describe folders called after splits whose images are not kept apart, because other images are of no split."""
    folders = sorted({record.name.split("/")[0] for record in labels.records}) if not labels.sets else []
    named = [name for name in folders if set_name(name) in (TRAIN, VALIDATION, TEST)]
    if len(named) < 2:
        return ""
    return (
        f"{labels.source}: found images outside the folders {', '.join(named)}, so all are mixed and split anew; one "
        "folder for each of --train and --validation keeps them apart"
    )


def describe_splits(labels: Labels) -> str:
    """Describe the splits in one line; "" if there are none."""
    if not labels.sets:
        return ""
    counts = ", ".join(f"{name} {len(members)}" for name, members in sorted(labels.sets.items()))
    return f"sets of {labels.details.get('sets', labels.source)}: {counts}"
