"""Split a manifest at random, reproducibly for a seed.

Lines of one image, or of one group such as the frames of a video, stay together. Stratified parts are filled by
iterative stratification (Sechidis, Tsoumakas, Vlahavas: On the Stratification of Multi-Label Data, 2011): the rarest
class first, each unit into the part that needs it most.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, FrozenSet, List, Optional, Sequence, Tuple

import numpy as np

from ssd_train.data.split import group_names
from ssd_train.errors import ConfigError, DataError
from ssd_train.prepare.manifest import Labels, ManifestLine, is_labelled, local_path, names_on, read_classes, read_lines
from ssd_train.progress import Progress
from ssd_train.storage.atomic import open_atomic

ROUNDING = 1e-6
BACKGROUND, UNLABELLED = "(no object)", "(not labelled)"  # kinds that are no classes


@dataclass(frozen=True)
class SplitOptions:
    """Options of a split.

    Attributes:
        fractions: fraction of each part, above 0, sum 1. If the sum is less, one more part has the rest.
        seed: of the shuffle.
        group: regular expression; images with the same match in their names (first group, or the whole match) stay
            together.
        stratify: distribute each class, and images without objects, evenly.
        label_attribute: labels used to stratify; None: those of the newest job.
    """

    fractions: Sequence[float]
    seed: int = 0
    group: str = ""
    stratify: bool = False
    label_attribute: Optional[str] = None

    def __post_init__(self) -> None:
        fractions = tuple(self.fractions)
        if len(fractions) == 1 or sum(fractions) < 1 - ROUNDING:
            fractions = (*fractions, 1 - sum(fractions))
        if not (all(part > 0 for part in fractions) and abs(sum(fractions) - 1) <= ROUNDING):  # false for NaN too
            raise ConfigError(f"fractions: found {list(self.fractions)}, expected positive fractions whose sum is 1")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed: found {self.seed}, expected an integer from 0 to {2**32 - 1}")
        object.__setattr__(self, "fractions", fractions)


def split(
    path: "str | Path", outputs: Sequence["str | Path"], how: SplitOptions, progress: Optional[Progress] = None
) -> List[int]:
    """Write each line of a manifest to one of `outputs`, in random order.

    Lines are shuffled as well as distributed, because training in Pipe mode reads them in order and must not read one
    class after the other. The whole manifest is held in memory.

    Args:
        path: the manifest.
        outputs: a new manifest per fraction.
        how: the options.
        progress: reports the groups.

    Returns:
        The number of lines of each part.

    Raises:
        ConfigError: the numbers of outputs and fractions differ, outputs are repeated, or `how.group` matches no image.
        DataError: a line is unusable, or there are too few lines or groups to fill each part.
    """
    targets = [local_path(output) for output in outputs]
    if len(targets) != len(how.fractions) or len(set(targets)) != len(targets):
        raise ConfigError(
            f"outputs: found {', '.join(map(str, outputs))}, expected {len(how.fractions)} different files"
        )
    raw, sources, kinds = _read(path, how)
    order = np.random.RandomState(how.seed).permutation(len(raw))
    units = _units(order, sources, how.group, progress)
    parts = assign(_table(units, kinds), np.array([len(unit) for unit in units]), how.fractions)
    part_of_line = {line: part for unit, part in zip(units, parts) for line in unit}
    counts = np.bincount(list(part_of_line.values()), minlength=len(targets)).tolist()
    if min(counts) == 0:
        raise DataError(f"{path}: found {len(raw)} lines in {len(units)} groups, too few for parts of {how.fractions}")
    with ExitStack() as stack:
        files = [stack.enter_context(open_atomic(target)) for target in targets]
        for line in order.tolist():
            files[part_of_line[line]].write(raw[line] + b"\n")
    return counts


def assign(table: np.ndarray, sizes: np.ndarray, fractions: Sequence[float]) -> List[int]:
    """Return the part of each unit of lines.

    Without kinds (K = 0) and with units of one line, the parts have exactly their rounded numbers of lines.

    Args:
        table: number of lines of each unit that have a kind of object (U, K).
        sizes: number of lines of each unit (U,).
        fractions: fraction of each part.
    """
    bounds = np.rint(np.cumsum([0, *fractions]) * sizes.sum())
    lines_lacking = np.diff(bounds)  # (P,)
    lacking = np.outer(fractions, table.sum(axis=0))  # (P, K)
    parts = np.full(len(sizes), -1)
    while (parts < 0).any():
        left = np.flatnonzero(parts < 0)
        counts = table[left].sum(axis=0)
        kind = int(np.argmin(np.where(counts > 0, counts, np.inf))) if counts.any() else None
        pool = left if kind is None else left[table[left, kind] > 0]
        for unit in pool[np.argsort(-sizes[pool], kind="stable")]:
            wanted = lines_lacking if kind is None else lacking[:, kind]
            part = np.lexsort((lines_lacking, wanted))[-1]
            parts[unit] = part
            lines_lacking[part] -= sizes[unit]
            lacking[part] -= table[unit]
    return parts.tolist()


def _read(path: "str | Path", how: SplitOptions) -> Tuple[List[bytes], List[str], List[FrozenSet[str]]]:
    """Return bytes, image and kinds of each line; kinds are empty unless stratified."""
    labels = read_classes(path, how.label_attribute) if how.stratify else None
    raw, sources, kinds = [], [], []
    for line in read_lines(path):
        raw.append(line.raw)
        sources.append(line.source)
        kinds.append(frozenset() if labels is None else _kinds(line, labels))
    return raw, sources, kinds


def _kinds(line: ManifestLine, labels: Labels) -> FrozenSet[str]:
    if not is_labelled(line, labels.attribute):
        return frozenset([UNLABELLED])
    return frozenset(names_on(line, labels) or [BACKGROUND])


def _units(order: np.ndarray, sources: Sequence[str], group: str, progress: Optional[Progress]) -> List[List[int]]:
    """Return the groups of lines that must stay together, in the order of `order`."""
    groups = group_names(sources, group, "group", progress) if group else [None] * len(sources)
    units: Dict[Tuple[str, str], List[int]] = {}
    for line in order.tolist():
        name = groups[line]
        units.setdefault(("image", sources[line]) if name is None else ("group", name), []).append(line)
    return list(units.values())


def _table(units: Sequence[Sequence[int]], kinds: Sequence[FrozenSet[str]]) -> np.ndarray:
    """Return the number of lines of each unit with each kind of object (U, K)."""
    columns = {kind: column for column, kind in enumerate(sorted(frozenset().union(*kinds)))}
    table = np.zeros((len(units), len(columns)), np.int64)
    for row, unit in enumerate(units):
        for line in unit:
            for kind in kinds[line]:
                table[row, columns[kind]] += 1
    return table
