"""Tests of device names and of splitting a batch over devices."""

from __future__ import annotations

import numpy as np
import pytest

from ssd_train import mxnet_compat
from ssd_train.devices import contexts, one_context, split_and_load
from ssd_train.errors import ConfigError

mx = mxnet_compat.mxnet()


@pytest.mark.parametrize(
    "devices, expected",
    [("cpu", ["cpu(0)"]), ("cpu:0", ["cpu(0)"]), ("cpu:1", ["cpu(1)"]), ("cpu:3,cpu:1", ["cpu(3)", "cpu(1)"])],
)
def test_contexts_of_cpus_have_the_given_indices(devices, expected):
    assert [str(context) for context in contexts(devices)] == expected


def test_contexts_auto_is_all_gpus_or_the_cpu():
    gpus = mx.context.num_gpus()
    assert contexts() == ([mx.gpu(i) for i in range(gpus)] or [mx.cpu(0)])


@pytest.mark.parametrize(
    "gpus, devices, processes, expected",
    [
        (4, "auto", 1, [[0, 1, 2, 3]]),
        (4, "auto", 4, [[0], [1], [2], [3]]),
        (4, "gpu", 2, [[0, 2], [1, 3]]),
        (4, "gpu:3", 1, [[3]]),
        (4, "gpu:3,gpu:1", 1, [[3, 1]]),
        (4, "gpu:3,gpu:1,gpu:0", 2, [[3, 0], [1]]),
        (0, "auto", 2, [["cpu"], ["cpu"]]),
    ],
)
def test_contexts_processes_split_the_gpus(monkeypatch, gpus, devices, processes, expected):
    """This machine need not have them: an MXNet context is a name until something is put there."""
    monkeypatch.setattr(mx.context, "num_gpus", lambda: gpus)
    found = [contexts(devices, rank, processes) for rank in range(processes)]
    assert [["cpu" if c.device_type == "cpu" else c.device_id for c in own] for own in found] == expected


def test_contexts_more_processes_than_gpus_raises(monkeypatch):
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 2)
    with pytest.raises(ConfigError, match="^devices: found 2 .* 4 "):
        contexts("auto", 0, 4)


@pytest.mark.parametrize(
    "gpus, devices, processes, expected",
    [
        (0, "gpu", 1, "found 0 .*expected 1 .*'gpu'$"),
        (0, "gpu:0", 1, r"found 0 GPUs .*, expected 1 "),
        (2, "gpu:2", 1, r"found 2 GPUs .*, expected 3 for 'gpu:2'$"),
        (2, "gpu:0,gpu:2", 1, r"found 2 GPUs .*, expected 3 "),
        (4, "gpu:0,gpu:1", 3, r"found 4 GPUs .*, expected 3 for 'gpu:0,gpu:1' and 3 processes$"),
    ],
)
def test_contexts_missing_gpus_raise(monkeypatch, gpus, devices, processes, expected):
    monkeypatch.setattr(mx.context, "num_gpus", lambda: gpus)
    with pytest.raises(ConfigError, match=f"^devices: {expected}"):
        contexts(devices, 0, processes)


def test_contexts_auto_without_sagemakers_gpus_raises(monkeypatch):
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 0)
    monkeypatch.setenv("SM_NUM_GPUS", "4")
    with pytest.raises(ConfigError, match="^devices: found 4 GPUs"):
        contexts("auto")
    assert contexts("cpu") == [mx.cpu(0)]
    monkeypatch.setenv("SM_NUM_GPUS", "0")
    assert contexts("auto") == [mx.cpu(0)]


WRONG = [
    "",
    "tpu",
    "gpu:-1",
    "gpu:1000",
    "gpu,gpu",
    "gpu:0,1",
    "gpu:0,cpu:0",
]


@pytest.mark.parametrize("devices", [*WRONG, "gpu:0,", "cpu:1\n", "cpu:1 ,cpu:2"])
def test_contexts_unknown_name_raises(devices):
    for read in (contexts, one_context):
        with pytest.raises(ConfigError, match="^devices: found "):
            read(devices)


def test_one_context_of_several_devices_raises(monkeypatch):
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 2)
    assert [one_context(devices) for devices in ("gpu", "auto", "gpu:1", "cpu:1")] == [
        *(mx.gpu(0), mx.gpu(0), mx.gpu(1), mx.cpu(1))
    ]
    with pytest.raises(ConfigError, match="^devices: found 'gpu:0,gpu:1'"):
        one_context("gpu:0,gpu:1")


@pytest.mark.parametrize("rows, parts", [(8, [4, 4]), (5, [3, 2]), (2, [1, 1])])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_split(rows, parts, dtype):
    array = np.arange(rows * 3).reshape(rows, 3).astype(dtype)
    found = split_and_load(array, contexts("cpu:1,cpu:2"))
    assert [len(part) for part in found] == parts
    assert [part.context for part in found] == [mx.cpu(1), mx.cpu(2)]
    assert all(part.dtype == array.dtype for part in found)
    np.testing.assert_array_equal(np.concatenate([part.asnumpy() for part in found]), array)
