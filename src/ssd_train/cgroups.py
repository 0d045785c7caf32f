"""Limits that control groups set on this process: a container's, and those of every group above the process."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, List, Sequence


def limits(controller: str, version_2: Sequence[str], version_1: Sequence[str], root: Path) -> Iterator[List[str]]:
    """The words in the files of a `controller` ("cpu", "memory"), for each control group above this process that has
    all of them and lets them be read; none where there are no such groups.

    version_2, version_1    names of the files, in groups of either kind
    root                    the folder below which /proc and /sys are
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
