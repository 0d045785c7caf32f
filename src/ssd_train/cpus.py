"""CPUs that this process may use. A container sees all of its machine's and is held to a quota of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator

from ssd_train import cgroups


def available_cpus(root: Path = Path("/")) -> int:
    """The number of CPUs that this process may run on, at least 1: those of its affinity, within the quotas of its
    control groups, whose files are read below `root`."""
    if hasattr(os, "sched_getaffinity"):
        cpus = len(os.sched_getaffinity(0))
    else:  # macOS
        cpus = os.cpu_count() or 1
    # A share of a CPU is rounded down: a thread that the quota puts to sleep holds up all others at the next barrier.
    return max(1, min([cpus] + [int(quota) for quota in _quotas(root)]))


def _quotas(root: Path) -> Iterator[float]:
    """CPUs allowed by each control group above this process; none where there is no limit."""
    for quota, period in cgroups.limits("cpu", ["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"], root):
        if quota not in ("max", "-1"):
            yield int(quota) / int(period)
