"""CPUs by affinity and control groups, whose files are drawn up in a folder."""

from __future__ import annotations

import os

import pytest
from helpers.jobs import PROCESS, V1, V2, drawn_up

from ssd_train.data.loaders import default_workers
from ssd_train.resources import available_cpus, cpu_flags

QUOTA_1, PERIOD_1 = (f"sys/fs/cgroup/cpu,cpuacct/{{}}cpu.cfs_{what}_us" for what in ("quota", "period"))


@pytest.mark.parametrize(
    "files, expected",
    [
        pytest.param({}, 8, id="no-cgroups"),
        pytest.param({PROCESS: V2}, 8, id="no-limit-file"),
        pytest.param({PROCESS: V2, "sys/fs/cgroup/cpu.max": "max 100000\n"}, 8, id="v2-unlimited"),
        pytest.param({PROCESS: V2, "sys/fs/cgroup/cpu.max": "300000 100000"}, 3, id="v2-container"),
        pytest.param({PROCESS: V2, "sys/fs/cgroup/job/cpu.max": "250000 100000"}, 2, id="v2-above"),
        pytest.param({PROCESS: V2, "sys/fs/cgroup/cpu.max": "50000 100000"}, 1, id="half-a-cpu"),
        pytest.param({PROCESS: V2, "sys/fs/cgroup/cpu.max": "9900000 100000"}, 8, id="more-than-cpus"),
        pytest.param(
            {PROCESS: V1, QUOTA_1.format("job/"): "400000\n", PERIOD_1.format("job/"): "100000\n"}, 4, id="v1"
        ),
        pytest.param({PROCESS: V1, QUOTA_1.format(""): "-1\n", PERIOD_1.format(""): "100000\n"}, 8, id="v1-unlimited"),
        pytest.param({PROCESS: V1, QUOTA_1.format(""): "100000\n"}, 8, id="v1-half-of-it"),
    ],
)
def test_available_cpus_is_affinity_limited_by_quota(tmp_path, monkeypatch, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert available_cpus(drawn_up(tmp_path, files)) == expected


@pytest.mark.parametrize(
    "files, expected",
    [
        ({}, set()),
        ({"proc/cpuinfo": "processor\t: 0\nflags\t\t: fpu avx512_bf16\n\nflags\t\t: fpu\n"}, {"fpu", "avx512_bf16"}),
        ({"proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd bf16\n"}, set()),
    ],
    ids=["no-linux", "x86", "arm"],
)
def test_cpu_flags_are_those_of_the_first_processor(tmp_path, files, expected):
    assert cpu_flags(drawn_up(tmp_path, files)) == expected


def test_available_cpus_without_affinity_uses_cpu_count(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert available_cpus() == default_workers() == 1
