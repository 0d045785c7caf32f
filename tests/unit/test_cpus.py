"""CPUs by affinity and control groups, whose files are drawn up in a folder."""

from __future__ import annotations

import os

import pytest

from ssd_train.cpus import available_cpus


def cgroups(root, **files):
    for name, text in files.items():
        path = root.joinpath(*name.split("__"))
        path = path.with_name(path.name.replace("_DOT_", "."))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2, V1 = "0::/job/part\n", "5:memory:/x\n4:cpu,cpuacct:/job\n0::/\n"


@pytest.mark.parametrize(
    "files, expected",
    [
        pytest.param({}, 8, id="no-cgroups"),
        pytest.param({"proc__self__cgroup": V2}, 8, id="no-limit-file"),
        pytest.param({"proc__self__cgroup": V2, "sys__fs__cgroup__cpu_DOT_max": "max 100000"}, 8, id="v2-unlimited"),
        pytest.param({"proc__self__cgroup": V2, "sys__fs__cgroup__cpu_DOT_max": "300000 100000"}, 3, id="v2-container"),
        pytest.param(
            {"proc__self__cgroup": V2, "sys__fs__cgroup__job__cpu_DOT_max": "250000 100000"}, 2, id="v2-above"
        ),
        pytest.param({"proc__self__cgroup": V2, "sys__fs__cgroup__cpu_DOT_max": "50000 100000"}, 1, id="half-a-cpu"),
        pytest.param(
            {"proc__self__cgroup": V2, "sys__fs__cgroup__cpu_DOT_max": "9900000 100000"}, 8, id="more-than-cpus"
        ),
        pytest.param(
            {
                "proc__self__cgroup": V1,
                "sys__fs__cgroup__cpu,cpuacct__job__cpu_DOT_cfs_quota_us": "400000\n",
                "sys__fs__cgroup__cpu,cpuacct__job__cpu_DOT_cfs_period_us": "100000\n",
            },
            4,
            id="v1",
        ),
        pytest.param(
            {
                "proc__self__cgroup": V1,
                "sys__fs__cgroup__cpu,cpuacct__cpu_DOT_cfs_quota_us": "-1\n",
                "sys__fs__cgroup__cpu,cpuacct__cpu_DOT_cfs_period_us": "100000\n",
            },
            8,
            id="v1-unlimited",
        ),
    ],
)
def test_cpus_are_those_of_the_affinity_within_the_quota(tmp_path, monkeypatch, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert available_cpus(cgroups(tmp_path, **files)) == expected
