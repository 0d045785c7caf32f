"""The CPUs of this process: their number (a container sees all CPUs of its host but has a quota) and instructions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import FrozenSet, Iterator, List, Sequence


def limits(controller: str, version_2: Sequence[str], version_1: Sequence[str], root: Path) -> Iterator[List[str]]:
    """Yield the words in the limit files of each control group above this process.

    Args:
        controller: "cpu" or "memory".
        version_2: Names of the limit files in cgroup v2; groups without them are omitted.
        version_1: The same in cgroup v1.
        root: Root folder of /proc and /sys.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, names = root / "sys/fs/cgroup", version_2
        elif controller in controllers.split(","):
            mount, names = root / "sys/fs/cgroup" / controllers, version_1
        else:
            continue
        for folder in _with_parents(mount, path):
            try:
                yield " ".join((folder / name).read_text() for name in names).split()
            except OSError:
                continue


def _with_parents(mount: Path, path: str) -> List[Path]:
    # Inside a container the path may name a folder of the host; the limit is then at the mount itself.
    parts = [part for part in path.split("/") if part not in ("", "..")]
    return [mount.joinpath(*parts[:count]) for count in range(len(parts) + 1)]


def available_cpus(root: Path = Path("/")) -> int:
    """Return the number of CPUs in this process's affinity, limited by cgroup quotas; at least 1.

    Args:
        root: Root folder of /proc and /sys.
    """
    if hasattr(os, "sched_getaffinity"):
        cpus = len(os.sched_getaffinity(0))
    else:  # macOS
        cpus = os.cpu_count() or 1
    # Rounded down: a thread that is throttled by the quota delays all others at the next barrier.
    return max(1, min([cpus] + [int(quota) for quota in _quotas(root)]))


def computes_bfloat16(root: Path = Path("/")) -> bool:
    """Return whether the CPU has instructions for bfloat16; emulated, it is slower than float32."""
    return bool({"avx512_bf16", "amx_bf16"} & cpu_flags(root))


def cpu_flags(root: Path = Path("/")) -> FrozenSet[str]:
    """Return the instruction set flags of the CPU as Linux names them, such as avx512_bf16; none on other systems.

    Args:
        root: Root folder of /proc.
    """
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())


def _quotas(root: Path) -> Iterator[float]:
    """Yield the CPU quota of each limited control group of this process."""
    for quota, period in limits("cpu", ["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"], root):
        if quota not in ("max", "-1"):
            yield int(quota) / int(period)
