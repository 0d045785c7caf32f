"""A job on two hosts: one writes, all stop and go on together, and when one dies the other ends too, in time."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import numpy as np
import pytest
from helpers import together
from helpers.data import SMALL, DrawnSet, FifoWriter, samples, shapes_set, small_config
from helpers.jobs import HOSTS, ParameterServer, describe, failure_of, last_weights, make_opt_ml

from ssd_train.data.labels import load_labels
from ssd_train.training.distributed.communicator import Communicator

pytestmark = pytest.mark.integration

TIMEOUT = 8  # --heartbeat_timeout
in_test_integration = pytest.mark.sagemaker  # minutes in all; `make test` keeps the first


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return shapes_set(tmp_path_factory.mktemp("shapes"), 24, seed=1)


@pytest.fixture
def server() -> Iterator[ParameterServer]:
    with ParameterServer() as one:
        yield one


def start(
    server: ParameterServer, folder: Path, channel: Path, other: "Path | None" = None, **settings: Any
) -> List[Any]:
    """A job on both hosts, on `channel`, or the second on `other`; the processes, whose bases are `folder`/HOST."""
    given = {**SMALL, "mini_batch_size": 2, "heartbeat_timeout": TIMEOUT, "rendezvous_port": server.port, **settings}
    workers = []
    for host in HOSTS:
        base = folder / host
        if not base.exists():
            make_opt_ml(base, given, {"train": other if other and host == HOSTS[1] else channel}, HOSTS)
        describe(base, "hyperparameters", {name: json.dumps(value) for name, value in given.items()})
        describe(base, "resourceconfig", {"current_host": host, "hosts": HOSTS, "network_interface_name": "lo"})
        workers.append(server.start(["-m", "ssd_train"], SAGEMAKER_BASE_DIR=str(base)))
    return workers


def start_piped(server: ParameterServer, folder: Path, validation: DrawnSet, **settings: Any) -> None:
    """A job on both hosts that reads its training images from FIFOs below `folder`/HOST, too many to keep."""
    channels = {"validation": validation.images, "validation_labels": validation.manifest.parent}
    pipe = {"pipe_spill_gb": 1e-6, "pipe_buffer_mb": 1, "pipe_timeout": 30}
    given = {
        **SMALL,
        "mini_batch_size": 2,
        "heartbeat_timeout": TIMEOUT,
        "rendezvous_port": server.port,
        **pipe,
        **settings,
    }
    for host in HOSTS:
        base = make_opt_ml(folder / host, given, channels, HOSTS, pipes=["train"])
        describe(base, "resourceconfig", {"current_host": host, "hosts": HOSTS, "network_interface_name": "lo"})
        server.start(["-m", "ssd_train"], SAGEMAKER_BASE_DIR=str(base))


def wait_until(condition: Callable[[], Any], workers: List[Any], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        for worker in workers:
            assert worker.poll() is None, worker.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def states(folder: Path) -> List[Path]:
    """The finished checkpoints of the first host."""
    return sorted((folder / HOSTS[0]).glob("checkpoints/state-*/checksums.json"))


def epochs_made(folder: Path) -> List[int]:
    """The finished epochs of each of them; a state may be replaced meanwhile."""
    found = []
    for path in states(folder):
        with contextlib.suppress(OSError):
            found.append(json.loads((path.parent / "state.json").read_text())["epoch"])
    return found


def test_two_hosts_one_writes(server, shapes, tmp_path):
    """Also with dist_async, where hosts make steps of their own and still end with the same weights."""
    start(server, tmp_path, shapes.images.parent, kv_store="dist_async", optimizer="sgd")
    logs = server.finish()
    first, second = (tmp_path / host for host in HOSTS)
    assert json.loads((first / "model" / "config.json").read_text())["settings"]["kv_store"] == "dist_async"
    assert "training is complete: " in logs[0] and "#quality_metric" in logs[0]
    weights = re.search("weights at the end, on all 2 hosts: SHA-256 (\\w{12})\n", logs[0])[1]
    done = f"this host has finished: final weights SHA-256 {weights}; the model is on {HOSTS[0]}"
    assert logs[1].splitlines()[-1] == done
    assert "#quality_metric" not in logs[1]
    assert states(tmp_path)
    for place in ("model", "checkpoints", "output/data"):
        assert not list((second / place).iterdir()), "the second host writes nothing"


@in_test_integration
@pytest.mark.parametrize("kv_store", ["dist_sync", "dist_async"])
def test_two_hosts_streams_of_different_lengths_end_the_epoch_together(server, shapes, tmp_path, kv_store):
    """In epoch 1 the second host's stream is the shorter, in epoch 2 the first's, and in epoch 3 both are whole."""
    data = load_labels(shapes.images, shapes.manifest)
    pieces = samples(data.labels.records, data.images, data.labels.class_names)[:12]  # three steps of four
    counts = {HOSTS[0]: [12, 12, 3, 12], HOSTS[1]: [12, 6, 12, 12]}
    start_piped(server, tmp_path, shapes_set(tmp_path / "held", 4, 2), kv_store=kv_store, epochs=3)
    with contextlib.ExitStack() as writers:
        for host in HOSTS:
            streams = [pieces[:count] for count in counts[host]]
            channel = tmp_path / host / "input" / "data" / "train"
            writer = writers.enter_context(FifoWriter(channel, streams))
        log, _ = server.finish()
    assert writer.finished == [0, 1, 2, 3], "what the others could not use was read all the same"
    steps = [int(batch) + 1 for batch in re.findall(r"epoch=\d+, batch=(\d+) train cross_entropy", log)]
    assert steps == ([2, 1, 3] if kv_store == "dist_sync" else [3, 1, 3])
    assert re.search("weights at the end, on all 2 hosts: SHA-256", log)
    warned = [line for line in log.splitlines() if "on every host" in line]
    assert len(warned) == (2 if kv_store == "dist_sync" else 0), log


def learned_together(server: ParameterServer, folder: Path, *settings: str) -> "List[Dict[str, np.ndarray]]":
    """What each of two hosts, by rank, has after the steps of together.py."""
    for host in HOSTS:
        server.start([Path(together.__file__), folder / "{}.npz", host, *settings, f"rendezvous_port={server.port}"])
    server.finish()
    return [dict(np.load(folder / f"{rank}.npz")) for rank in range(len(HOSTS))]


@in_test_integration
def test_two_hosts_with_two_devices_each_equal_the_whole_batch(server, tmp_path):
    """dist_device_sync adds up the devices of each host first; the sum is that of one device with the whole batch."""
    two = learned_together(server, tmp_path, "kv_store=dist_device_sync", "devices=cpu:1,cpu:2")
    whole = together.make_learner(small_config(**together.SETTINGS), Communicator())
    together.learn(whole, 4)
    for found in two:
        together.assert_alike(found, whole)


@in_test_integration
@pytest.mark.parametrize("epochs", [0, 200])
def test_dist_async_adam_resumed_moves_by_the_rate(server, tmp_path, epochs):
    """Its moments, which are on the servers, begin anew. With the old count of updates, the bias of empty moments was
    not corrected: weights moved several times as far as in the first steps of a new run."""
    rate = 1e-4
    course = {"optimizer": "adam", "learning_rate": rate, "lr_schedule": "constant", "warmup_epochs": 0, "epochs": 300}
    settings = [f"{name}={value}" for name, value in course.items()]
    found = learned_together(server, tmp_path, "kv_store=dist_async", *settings, f"resumed_after={epochs}")[0]
    before = together.weights(together.make_learner(small_config(**{**together.SETTINGS, **course}), Communicator()))
    moved = max(float(np.abs(found[name] - array).max()) for name, array in before.items())
    updates = together.EPOCHS * 3 * len(HOSTS)
    assert 0.5 * updates * rate < moved < 1.1 * updates * rate


@in_test_integration
@pytest.mark.parametrize(
    "host, number, expected",
    [
        pytest.param(1, signal.SIGKILL, "host 127.0.0.2 is gone: ", id="a-worker-is-killed"),
        pytest.param(0, signal.SIGKILL, "host 127.0.0.1 is gone: ", id="the-leader-is-killed"),
        pytest.param(
            1, signal.SIGSTOP, "host 127.0.0.2 does not answer: no sign of life for ", id="a-worker-is-silent"
        ),
    ],
)
def test_two_hosts_one_dead_ends_the_other_in_time(server, shapes, tmp_path, host, number, expected):
    workers = start(server, tmp_path, shapes.images.parent, epochs=1000)
    wait_until(lambda: states(tmp_path), workers)
    os.kill(workers[host].pid, number)
    died = time.monotonic()
    log, _ = workers[1 - host].communicate(timeout=60)
    assert time.monotonic() - died < TIMEOUT + 2  # and what a busy machine adds
    assert workers[1 - host].returncode == 1
    told = failure_of(tmp_path / HOSTS[1 - host])
    assert told.startswith(expected) and f"error: {told}" in log


@in_test_integration
def test_two_hosts_with_different_data_end_with_an_error(server, shapes, tmp_path):
    others = shapes_set(tmp_path / "others", 24, seed=2)
    workers = start(server, tmp_path, shapes.images.parent, others.images.parent)
    logs = [worker.communicate(timeout=90)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [1, 1], logs
    fault = "127.0.0.2: found training labels different from 127.0.0.1, expected the same on all hosts"
    assert failure_of(tmp_path / HOSTS[1]).startswith(fault)
    assert failure_of(tmp_path / HOSTS[0]).startswith(f"host 127.0.0.2 failed: {fault}")


@in_test_integration
def test_two_hosts_error_of_rank_0_ends_both_with_its_exit_code(shapes, tmp_path):
    """A resume with another setting, which the first host alone can see."""
    with ParameterServer() as server:
        start(server, tmp_path, shapes.images.parent, epochs=1)
        server.finish()
    with ParameterServer() as server:
        workers = start(server, tmp_path, shapes.images.parent, epochs=1, seed=5)
        logs = [worker.communicate(timeout=90)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [2, 2], logs
    fault = "cannot resume with other settings: setting seed: found 5, the checkpoint has "
    assert fault in failure_of(tmp_path / HOSTS[0])
    told = failure_of(tmp_path / HOSTS[1])
    assert told.startswith(f"host {HOSTS[0]} failed: ") and fault in told


@in_test_integration
@pytest.mark.parametrize("epoch", [0, 1], ids=["before-a-score", "after-a-score"])
def test_two_hosts_stopped_and_resumed_have_the_same_weights(shapes, tmp_path, epoch):
    """SIGTERM reaches one host alone, within an epoch; resumed, the run ends as if nothing had been."""
    settings = {"epochs": 3, "checkpoint_minutes": 0.0001}
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    with ParameterServer() as server:
        start(server, unbroken, shapes.images.parent, **settings)
        server.finish()
    with ParameterServer() as server:
        workers = start(server, broken, shapes.images.parent, **settings)
        wait_until(lambda: len(states(broken)) > 1 and epoch in epochs_made(broken), workers)
        workers[1].send_signal(signal.SIGTERM)
        logs = [worker.communicate(timeout=90)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [143, 143], logs
    stopped = re.search(r"stopped on request (after epoch \d(?:, step \d+)?)", failure_of(broken / HOSTS[0]))
    with ParameterServer() as server:
        start(server, broken, shapes.images.parent, **settings)
        assert f"resuming {stopped[1]}" in server.finish()[0]
    last = [last_weights(base / HOSTS[0] / "checkpoints").read_bytes() for base in (unbroken, broken)]
    assert last[0] == last[1]
