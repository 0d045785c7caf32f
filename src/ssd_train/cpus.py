"""CPUs that this process may use. A container sees all of its machine's and is held to a quota of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator, List


def available_cpus(root: Path = Path("/")) -> int:
    """The number of CPUs that this process may run on, at least 1: those of its affinity, within the quotas of its
    control groups, whose files are read below `root`."""
    if hasattr(os, "sched_getaffinity"):
        cpus = len(os.sched_getaffinity(0))
    else:  # macOS
        cpus = os.cpu_count() or 1
    # A share of a CPU is rounded down: a thread that the quota puts to sleep holds up all others at the next barrier.
    return max(1, min([cpus] + [int(quota) for quota in _cgroup_quotas(root)]))


def _cgroup_quotas(root: Path) -> Iterator[float]:
    """CPUs allowed by each control group above this process (version 2 or 1); none where there is no limit."""
    groups = root / "proc/self/cgroup"
    if not groups.is_file():
        return
    for line in groups.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, names = root / "sys/fs/cgroup", ["cpu.max"]
        elif "cpu" in controllers.split(","):
            mount, names = root / "sys/fs/cgroup" / controllers, ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        for folder in _with_parents(mount, path):
            files = [folder / name for name in names]
            if all(file.is_file() for file in files):
                quota, period = " ".join(file.read_text().strip() for file in files).split()
                if quota not in ("max", "-1"):
                    yield int(quota) / int(period)


def _with_parents(mount: Path, path: str) -> List[Path]:
    # Inside a container the path may name a folder of the host; the limit is then at the mount itself.
    parts = [part for part in path.split("/") if part not in ("", "..")]
    return [mount.joinpath(*parts[:count]) for count in range(len(parts) + 1)]
