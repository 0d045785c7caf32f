"""Which records are held out for validation: by content, so that no picture stands on both sides, and repeatably.

An image's key is a hash of its bytes, or its name where the bytes are not at hand. Records that share a key, or a group
(frames of one video), belong together: each connected component of these two relations goes to one side as a whole. The
component's smallest key, hashed to a number in 0..1, decides: neither the order of the lines nor other records matter.
"""

from __future__ import annotations

import hashlib
import re
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from ssd_train.cpus import available_cpus
from ssd_train.data.patience import glances_in_order
from ssd_train.data.records import ImageSource, LabelSet, Record
from ssd_train.environment import read_seconds
from ssd_train.errors import ConfigError, DataError
from ssd_train.progress import Progress

ContentHash = Callable[[Record], Optional[str]]


def split_by_hash(
    labels: LabelSet,
    fraction: float,
    content_hash: ContentHash,
    group_regex: Optional[str] = None,
    progress: Optional[Progress] = None,
) -> Tuple[LabelSet, LabelSet]:
    """Return (training, validation) with about `fraction` of the records in validation, and at least one in each.

    `content_hash` gives the hash of a record's image, or None where the image is not at hand; threads ask it. Records
    whose names match `group_regex` (searched; its first group, or all that matches) with the same text stay together.

    Raises:
        ConfigError: `fraction` is not between 0 and 1, or `group_regex` is no regex or matches no name.
        DataError: all records belong together, so that nothing can be held out.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"validation_fraction: found {fraction}, expected a number between 0 and 1")
    components = _components(_keys(labels.records, content_hash, group_regex, progress))
    if len(components) < 2:
        raise DataError(
            f"{labels.source}: found {len(labels)} images that are all the same or of one group, "
            "expected at least two to hold one out"
        )
    # the members of the first `count` components in the order of their numbers are held out
    ordered = sorted(components.items(), key=lambda item: _unit_hash(item[0]))
    below = sum(_unit_hash(key) < fraction for key in components)
    count = min(max(below, 1), len(components) - 1)
    held_out = {index for _, members in ordered[:count] for index in members}
    sides = [index in held_out for index in range(len(labels))]
    return labels.subset([not side for side in sides]), labels.subset(sides)


def hash_of_image(source: ImageSource) -> ContentHash:
    """A `content_hash` that reads images from `source`; an image that cannot be had has none."""

    def content_hash(record: Record) -> Optional[str]:
        """SHA-256 of the encoded image in hex; None for one that cannot be had."""
        try:
            return hashlib.sha256(source.read(record)).hexdigest()
        except DataError:
            return None

    return content_hash


def classes_missing_from(labels: LabelSet, others: LabelSet) -> List[str]:
    """Names of classes that have boxes in `others` and none in `labels`; the two share their class names."""
    counts = zip(labels.class_names, labels.boxes_per_class(), others.boxes_per_class())
    return [name for name, here, there in counts if there and not here]


def _keys(
    records: Sequence[Record], content_hash: ContentHash, group_regex: Optional[str], progress: Optional[Progress]
) -> List[List[str]]:
    """The keys of each record; two records with a key in common belong together."""
    groups: List[Optional[str]] = [None] * len(records)
    if group_regex:
        groups = name_groups([record.name for record in records], group_regex, progress=progress)
    digests = glances_in_order(content_hash, records, available_cpus(), read_seconds())
    keys = []
    for record, group, digest in zip(records, groups, digests):
        own = f"name {record.name}" if digest is None else f"content {digest}"
        keys.append([own] if group is None else [own, f"group {group}"])
    return keys


def name_groups(
    names: Sequence[str], group_regex: str, setting: str = "split_group", progress: Optional[Progress] = None
) -> List[Optional[str]]:
    """What `group_regex` finds in each name: its first group, or all that matches, or None. `progress` is told which,
    and how many groups there are. A ConfigError that begins with the name of the `setting` when it is no regex or finds
    nothing at all."""
    try:
        pattern = re.compile(group_regex)
    except re.error as error:
        raise ConfigError(f"{setting}: found {group_regex!r}, expected a regular expression ({error})") from None
    matches = [pattern.search(name) for name in names]
    if not any(matches):
        example = repr(names[0]) if names else "none"
        raise ConfigError(f"{setting}: {group_regex!r} matches no name, expected some to match; the first is {example}")
    groups = [match and match.group(min(pattern.groups, 1)) for match in matches]
    if progress:
        counted = "what its first bracket matches" if pattern.groups else "the whole match"
        progress.say(
            f"{setting}: {len(set(groups) - {None})} groups by {counted}, "
            f"in {len(names) - groups.count(None)} of {len(names)} names"
        )
    return groups


def _components(keys: List[List[str]]) -> Dict[str, List[int]]:
    """Smallest key of each connected component -> indices of its records."""
    parent: Dict[str, str] = {}

    def root(key: str) -> str:
        """The key that stands for the component of `key` so far."""
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]  # halve the path, or a long chain costs a square
            key = parent[key]
        return key

    for own in keys:
        for key in own[1:]:
            low, high = sorted((root(own[0]), root(key)))
            parent[high] = low  # so that a root is the smallest key of its component
    components: Dict[str, List[int]] = {}
    for index, own in enumerate(keys):
        components.setdefault(root(own[0]), []).append(index)
    return components


def _unit_hash(key: str) -> float:
    """A number in 0..1 that depends on `key` only."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
