"""Tests of two processes that train together, by MXNet's parameter server on loopback."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.data import HeardProgress, small_config
from helpers.jobs import HOSTS, ParameterServer
from helpers.together import EPOCHS, IMAGES, SETTINGS, assert_alike, learn, make_learner

from ssd_train.environment import Environment
from ssd_train.errors import ConfigError
from ssd_train.training.distributed.communicator import Communicator, init_distributed

TOGETHER = Path(sys.modules[learn.__module__].__file__)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Return the final results of two workers with two images per step."""
    folder = tmp_path_factory.mktemp("two")
    with ParameterServer() as server:
        for host in HOSTS:
            server.start([TOGETHER, folder / "{}.npz", host, f"rendezvous_port={server.port}"])
        server.finish()
    return [dict(np.load(folder / f"{rank}.npz")) for rank in range(2)]


@pytest.fixture(scope="module")
def whole():
    """Return training step, results and images of one worker with the whole batch."""
    train_step = make_learner(small_config(**SETTINGS), Communicator())
    return (train_step, *learn(train_step, 4))


def test_two_hosts_learn_the_same_as_one_with_the_whole_batch(two, whole):
    assert_alike(two[0], whole[0])


def test_two_hosts_have_the_same_weights(two):
    for name in two[0]:
        if name not in ("seen", "rank"):
            np.testing.assert_array_equal(two[0][name], two[1][name], err_msg=name)


def test_two_hosts_losses_and_counts_equal_the_whole_batch(two, whole):
    for found, row in zip(two[0]["results"], whole[1]):
        expected = [row[name] for name in sorted(row) if "seconds" not in name]
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_two_hosts_see_each_image_once(two, whole):
    assert not set(two[0]["seen"]) & set(two[1]["seen"])
    assert {*two[0]["seen"], *two[1]["seen"]} == set(whole[2]) and len(whole[2]) == EPOCHS * 12 > EPOCHS * IMAGES


def test_two_hosts_first_is_rank_0(two):
    assert [int(one["rank"]) for one in two] == [0, 1]


def alone(host="algo-1", hosts=("algo-1",)):
    return Environment(Path("."), host=host, hosts=hosts)


@pytest.fixture
def variables(monkeypatch):
    """Remove all variables of launchers; return a setter."""
    for name in ("DMLC_ROLE", "DMLC_NUM_WORKER", "OMPI_COMM_WORLD_SIZE", "HOROVOD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch.setenv


def test_join_one_host_gives_trivial_communication(variables):
    config, cluster = init_distributed(small_config(), alone(), HeardProgress())
    with cluster:
        assert (cluster.rank, cluster.size, cluster.is_main_process) == (0, 1, True)
        assert cluster.allreduce_sum([1, 2.5]).tolist() == [1, 2.5] and cluster.broadcast_from_rank0(lambda: "x") == "x"
    assert config == small_config()


def test_join_dist_kvstore_on_one_host_warns_and_uses_device(variables):
    heard = HeardProgress()
    config, _ = init_distributed(small_config(kv_store="dist_sync"), alone(), heard)
    assert config.kv_store == "device" and len(heard.warnings) == 1
    assert heard.warnings[0].startswith("kv_store: found 'dist_sync'")


@pytest.mark.parametrize(
    "hosts, set_, settings, expected",
    [
        pytest.param(("algo-1", "algo-2"), {}, {}, "hosts: found algo-1, algo-2 ", id="no-engine"),
        pytest.param(
            ("algo-1",),
            {"DMLC_ROLE": "worker", "DMLC_NUM_WORKER": "2"},
            {},
            "hosts: found algo-1 among algo-1, ",
            id="workers-of-other-hosts",
        ),
        pytest.param(
            ("algo-1", "algo-2"),
            {"OMPI_COMM_WORLD_SIZE": "2"},
            {"kv_store": "dist_async"},
            "kv_store: found 'dist_async' ",
            id="async-under-mpi",
        ),
    ],
)
def test_join_incompatible_launcher_raises(variables, hosts, set_, settings, expected):
    for name, value in set_.items():
        variables(name, value)
    with pytest.raises(ConfigError) as error:
        init_distributed(small_config(**settings), alone(hosts=hosts), HeardProgress())
    assert str(error.value).startswith(expected)
