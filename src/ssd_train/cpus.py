"""Number of CPUs available to this process: a container sees all CPUs of its host but has a quota."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator

from ssd_train import cgroups


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


def _quotas(root: Path) -> Iterator[float]:
    """Yield the CPU quota of each limited control group of this process."""
    for quota, period in cgroups.limits("cpu", ["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"], root):
        if quota not in ("max", "-1"):
            yield int(quota) / int(period)
