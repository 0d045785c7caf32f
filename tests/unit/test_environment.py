"""Where a run is: the memory that it may still use. (SageMaker's variables and files: test_hosted_environment.py.)"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.jobs import PROCESS, V1, V2, drawn_up

from ssd_train.environment import Environment, available_memory, gluoncv_cache, gluoncv_zoo, payload_limit, zoo_mirror
from ssd_train.errors import ConfigError


def test_environment_defaults_of_a_local_run():
    found = Environment(Path("images"), Path("a.manifest"))
    assert (found.model_dir, found.output_dir) == (Path("model"), Path("output"))
    assert found.checkpoint_dir is found.pretrained is found.validation is None
    assert found.devices == "auto" and not found.on_sagemaker


def test_available_memory_is_at_most_that_of_the_machine():
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < available_memory() <= whole


def free(kilobytes):
    return {"proc/meminfo": f"MemTotal: 9999999 kB\nMemAvailable: {kilobytes} kB\n"}


def group(folder, limit, used):
    return {f"sys/fs/cgroup/{folder}memory.max": limit, f"sys/fs/cgroup/{folder}memory.current": used}


MEGABYTE = 1 << 20
LIMIT_1, USAGE_1 = (f"sys/fs/cgroup/memory/x/memory.{what}_in_bytes" for what in ("limit", "usage"))


@pytest.mark.parametrize(
    "files, expected",
    [
        pytest.param({}, MEGABYTE, id="no-cgroups"),
        pytest.param({PROCESS: V2}, MEGABYTE, id="no-limit-file"),
        pytest.param({PROCESS: V2, **group("", "3000\n", "1000\n")}, 2000, id="v2-container"),
        pytest.param({PROCESS: V2, **group("", "max\n", "1000\n")}, MEGABYTE, id="v2-unlimited"),
        pytest.param({PROCESS: V2, **group("", "1000\n", "3000\n")}, 0, id="over-its-limit"),
        pytest.param(
            {PROCESS: V2, **group("", "max", "9"), **group("job/", "5000", "1000"), **group("job/part/", "max", "10")},
            4000,
            id="v2-above",
        ),
        pytest.param(
            {PROCESS: V2, **group("", "9000", "9"), **group("job/part/", "5000", "2000")}, 3000, id="v2-its-own"
        ),
        pytest.param({PROCESS: V1, LIMIT_1: "7000\n", USAGE_1: "1000\n"}, 6000, id="v1"),
        pytest.param({PROCESS: V1, LIMIT_1: f"{2**63 - 4096}\n", USAGE_1: "1000\n"}, MEGABYTE, id="v1-unlimited"),
        pytest.param({PROCESS: V1, LIMIT_1: "7000\n"}, MEGABYTE, id="v1-half-of-it"),
    ],
)
def test_available_memory_is_limited_by_control_groups(tmp_path, files, expected):
    assert available_memory(drawn_up(tmp_path, {**free(1024), **files})) == expected


@pytest.mark.parametrize("text, expected", [(None, 6 << 20), ("20", 20 << 20)], ids=["an-endpoint", "batch-transform"])
def test_payload_limit_is_that_of_the_container(monkeypatch, text, expected):
    if text is None:
        monkeypatch.delenv("SAGEMAKER_MAX_PAYLOAD_IN_MB", raising=False)
    else:
        monkeypatch.setenv("SAGEMAKER_MAX_PAYLOAD_IN_MB", text)
    assert payload_limit() == expected


@pytest.mark.parametrize("text", ["", "0", "-1", "6.5", "six"])
def test_payload_limit_invalid_is_an_error(monkeypatch, text):
    monkeypatch.setenv("SAGEMAKER_MAX_PAYLOAD_IN_MB", text)
    with pytest.raises(ConfigError, match=f"^SAGEMAKER_MAX_PAYLOAD_IN_MB: found {text!r}"):
        payload_limit()


def test_model_zoo_places_are_gluoncv_s_own_by_default(monkeypatch, tmp_path):
    for name in ("MXNET_HOME", "MXNET_GLUON_REPO", "SSD_TRAIN_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert gluoncv_cache() == tmp_path / ".mxnet" / "models" and gluoncv_zoo() is zoo_mirror() is None
    monkeypatch.setenv("MXNET_HOME", str(tmp_path / "mx"))
    monkeypatch.setenv("MXNET_GLUON_REPO", "http://zoo")
    monkeypatch.setenv("SSD_TRAIN_MIRROR", "http://mirror")
    assert gluoncv_cache() == tmp_path / "mx" / "models" and (gluoncv_zoo(), zoo_mirror()) == (
        "http://zoo",
        "http://mirror",
    )
