"""Where a run is: the memory that it may still use. (SageMaker's variables and files: test_hosted_environment.py.)"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ssd_train import environment
from ssd_train.environment import Environment, available_memory, payload_limit
from ssd_train.errors import ConfigError


def test_a_local_run_needs_little():
    found = Environment(Path("images"), Path("a.manifest"))
    assert (found.model_dir, found.output_dir) == (Path("model"), Path("output"))
    assert found.checkpoint_dir is found.pretrained is found.validation is None
    assert found.devices == "auto" and not found.hosted


def test_memory_is_some_and_no_more_than_the_machine_has():
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < available_memory() <= whole


@pytest.mark.parametrize(
    "limit, used, expected",
    [("3000", "1000", 2000), ("max", "1000", None), ("1000", "3000", 0), ("", "", None)],
    ids=["limited", "no-limit", "over-its-limit", "unreadable"],
)
def test_a_control_groups_limit_counts(monkeypatch, limit, used, expected):
    files = {"/sys/fs/cgroup/memory.max": limit, "/sys/fs/cgroup/memory.current": used}
    numbers = {path: int(text) if text.isdigit() else None for path, text in files.items()}
    monkeypatch.setattr(environment, "_number_in", lambda path: numbers.get(path))
    monkeypatch.setattr(environment, "_memory_of_system", lambda: 10**9)
    assert available_memory() == (10**9 if expected is None else expected)


@pytest.mark.parametrize("text, expected", [(None, 6 << 20), ("20", 20 << 20)], ids=["an-endpoint", "batch-transform"])
def test_the_largest_body_is_what_the_container_allows(monkeypatch, text, expected):
    if text is None:
        monkeypatch.delenv("SAGEMAKER_MAX_PAYLOAD_IN_MB", raising=False)
    else:
        monkeypatch.setenv("SAGEMAKER_MAX_PAYLOAD_IN_MB", text)
    assert payload_limit() == expected


@pytest.mark.parametrize("text", ["", "0", "-1", "6.5", "six"])
def test_a_limit_that_is_none_is_refused(monkeypatch, text):
    monkeypatch.setenv("SAGEMAKER_MAX_PAYLOAD_IN_MB", text)
    with pytest.raises(ConfigError, match="SAGEMAKER_MAX_PAYLOAD_IN_MB is"):
        payload_limit()
