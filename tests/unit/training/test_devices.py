"""Contexts by name, and a batch split over them."""

from __future__ import annotations

import numpy as np
import pytest

from ssd_train import framework
from ssd_train.errors import ConfigError
from ssd_train.training.devices import contexts, split

mx = framework.mxnet()


@pytest.mark.parametrize(
    "devices, expected", [("cpu", ["cpu(0)"]), ("cpu:1", ["cpu(0)"]), ("cpu:3", ["cpu(0)", "cpu(1)", "cpu(2)"])]
)
def test_cpus(devices, expected):
    assert [str(context) for context in contexts(devices)] == expected


def test_auto_is_all_gpus_or_else_the_cpu():
    gpus = mx.context.num_gpus()
    assert contexts() == ([mx.gpu(i) for i in range(gpus)] or [mx.cpu(0)])


@pytest.mark.parametrize(
    "gpus, devices, processes, expected",
    [
        (4, "auto", 1, [[0, 1, 2, 3]]),
        (4, "auto", 4, [[0], [1], [2], [3]]),
        (4, "gpu", 2, [[0, 2], [1, 3]]),
        (4, "gpu:3", 2, [[0, 2], [1]]),
        (0, "auto", 2, [["cpu"], ["cpu"]]),
    ],
)
def test_processes_of_a_machine_share_its_gpus(monkeypatch, gpus, devices, processes, expected):
    """This machine need not have them: an MXNet context is a name until something is put there."""
    monkeypatch.setattr(mx.context, "num_gpus", lambda: gpus)
    found = [contexts(devices, rank, processes) for rank in range(processes)]
    assert [["cpu" if c.device_type == "cpu" else c.device_id for c in own] for own in found] == expected


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 2)
    with pytest.raises(ConfigError, match="found 2 GPUs that MXNet can use, expected 4"):
        contexts("auto", 0, 4)


@pytest.mark.parametrize("devices", ["gpu", "gpu:2", "auto:3"])
def test_gpus_that_are_not_there(devices):
    if mx.context.num_gpus():
        pytest.skip("this machine has GPUs")
    if devices.startswith("auto"):
        assert len(contexts(devices)) == 3, "so many CPU contexts"
        return
    with pytest.raises(ConfigError, match=rf"devices: found 0 GPUs that MXNet can use, expected \d for '{devices}'"):
        contexts(devices)


@pytest.mark.parametrize("devices", ["", "tpu", "cpu:0", "cpu:", "gpu:-1", "cpu:1000", "gpu,gpu", "CPU"])
def test_other_names_are_refused(devices):
    with pytest.raises(ConfigError, match="devices: found .*, expected auto, cpu, gpu, cpu:N or gpu:N"):
        contexts(devices)


@pytest.mark.parametrize("rows, parts", [(8, [4, 4]), (5, [3, 2]), (2, [1, 1])])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_split(rows, parts, dtype):
    array = np.arange(rows * 3).reshape(rows, 3).astype(dtype)
    found = split(array, contexts("cpu:2"))
    assert [len(part) for part in found] == parts
    assert [part.context for part in found] == [mx.cpu(0), mx.cpu(1)]
    assert all(part.dtype == array.dtype for part in found)
    np.testing.assert_array_equal(np.concatenate([part.asnumpy() for part in found]), array)
