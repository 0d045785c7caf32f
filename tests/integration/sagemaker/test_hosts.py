"""The real toolkit with the estimator's parameter server: on one host, on two, and on two of which one dies."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence

import numpy as np
import pytest
from builders import shapes_set
from hosts import HOSTS, free_port
from opt_ml import describe, failure_of

from ssd_train.data.labels import load_labels
from ssd_train.data.structures import Detections, Labels
from ssd_train.evaluation.metrics import MeanAveragePrecision

pytestmark = pytest.mark.sagemaker

# enough to find some of the drawn shapes
SETTINGS = {
    "epochs": 40,
    "learning_rate": 0.004,
    "mini_batch_size": 2,
    "augmentation": "flip",
    "validation_interval": 10,
}
IMAGES, HELD_OUT = 48, 12
TIMEOUT = 8


class Machines:
    """The machines of a job, each with its own /opt/ml; what is left on them is ended with the block."""

    def __init__(
        self, toolkit: Any, folder: Path, hosts: Sequence[str], channels: Mapping[str, Path], **settings: Any
    ) -> None:
        given = {**SETTINGS, **settings, "heartbeat_timeout": TIMEOUT, "rendezvous_port": free_port()}
        given.update(sagemaker_parameter_server_enabled=True, _ps_port=str(free_port()))
        self.bases: List[Path] = []
        self.processes: List["subprocess.Popen[str]"] = []
        for host in hosts:
            base = toolkit.make_job(folder / host, channels, given, hosts=hosts)
            resources = {"current_host": host, "hosts": hosts, "network_interface_name": "lo"}
            describe(base, "resourceconfig", {**resources, "current_instance_type": "ml.c5.xlarge"})
            self.bases.append(base)
            self.processes.append(toolkit.start(base))

    def __enter__(self) -> "Machines":
        return self

    def __exit__(self, *error: Any) -> None:
        for process in self.processes:
            self.kill(process)
            process.communicate()

    @staticmethod
    def kill(process: "subprocess.Popen[str]") -> None:
        """Everything on a machine: the toolkit, the program, the parameter server."""
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def logs(self) -> List[str]:
        return [process.communicate(timeout=300)[0] for process in self.processes]


class Done(NamedTuple):
    """A job that ran to its end."""

    bases: List[Path]
    logs: List[str]
    codes: List[int]

    def config(self) -> Dict[str, Any]:
        return json.loads((self.bases[0] / "model" / "config.json").read_text())


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Folders of images with their manifests, by channel."""
    folder = tmp_path_factory.mktemp("shapes")
    counts = {"train": IMAGES, "validation": HELD_OUT}
    drawn = {name: shapes_set(folder / name, count, seed=1 + len(name)) for name, count in counts.items()}
    return {name: side.images.parent for name, side in drawn.items()}


def run(toolkit: Any, folder: Path, hosts: Sequence[str], channels: Mapping[str, Path], **settings: Any) -> Done:
    with Machines(toolkit, folder, hosts, channels, **settings) as machines:
        logs = machines.logs()
        return Done(machines.bases, logs, [process.returncode for process in machines.processes])


@pytest.fixture(scope="module")
def two(toolkit, shapes, tmp_path_factory):
    """Two hosts that trained together."""
    return run(toolkit, tmp_path_factory.mktemp("two"), HOSTS, shapes)


@pytest.mark.slice
def test_both_hosts_succeed(two):
    assert two.codes == [0, 0], "\n".join(two.logs)
    for base in two.bases:
        assert (base / "output" / "success").exists() and not (base / "output" / "failure").exists()


@pytest.mark.slice
def test_both_hosts_have_the_same_weights(two):
    found = re.search(r"weights at the end, on all 2 hosts: SHA-256 (\w{12})", two.logs[0])
    assert found and f"this host has finished: final weights SHA-256 {found[1]};" in two.logs[1]


@pytest.mark.slice
def test_each_host_takes_half_of_the_images(two):
    assert f"train: {IMAGES} images" in two.logs[0]
    steps = -(-IMAGES // (2 * SETTINGS["mini_batch_size"]))
    lines = re.findall(r"#quality_metric: host=\S+, epoch=\d+, batch=(\d+) train cross_entropy <loss>=", two.logs[0])
    assert lines == [str(steps - 1)] * SETTINGS["epochs"]


@pytest.mark.slice
def test_one_host_writes_and_tells(two):
    assert (two.bases[0] / "output" / "data" / "report.html").exists() and two.config()
    for place in ("model", "checkpoints", "output/data"):
        assert not list((two.bases[1] / place).iterdir())
    assert "#quality_metric" not in two.logs[1]


@pytest.mark.slice
def test_the_model_is_better_than_chance(two, shapes):
    """Than the luckiest of many detectors that know the boxes of the training images, but do not look at an image."""
    scores = [float(value) for value in re.findall(r"validation mAP <score>=\((\S+)\)", two.logs[0])]
    train, validation = (load_labels(shapes[side], None).labels for side in ("train", "validation"))
    assert max(scores) > max(blind_score(train, validation, seed) for seed in range(200))
    assert two.config()["settings"]["kv_store"] == "dist_sync"


def blind_score(train: Labels, validation: Labels, seed: int) -> float:
    """The VOC07 mAP of all training boxes, scored at random, as the answer to each validation image."""
    random, metric = np.random.RandomState(seed), MeanAveragePrecision(validation.class_names)
    boxes = np.concatenate([record.boxes for record in train.records])
    class_ids = np.concatenate([record.class_ids for record in train.records])
    for record in validation.records:
        metric.update(Detections(boxes, random.uniform(size=len(boxes)), class_ids, record.size_wh), record)
    return metric.compute().voc07


def test_one_host_with_a_parameter_server(container, shapes, tmp_path):
    done = run(container, tmp_path, HOSTS[:1], shapes, epochs=2, validation_interval=1)
    assert done.codes == [0], done.logs[0]
    assert done.config()["settings"]["kv_store"] == "dist_sync" and "training is complete" in done.logs[0]


@pytest.mark.parametrize("dies", [pytest.param(1, id="a-worker"), pytest.param(0, id="the-first-host")])
def test_when_a_host_dies_the_other_ends_in_time(container, shapes, tmp_path, dies):
    """All of it dies at once, as a machine does: program, toolkit, and its part of the parameter server."""
    with Machines(container, tmp_path, HOSTS, shapes, epochs=1000, validation_interval=1) as machines:
        deadline = time.monotonic() + 120
        while not list(machines.bases[0].glob("checkpoints/state-*/checksums.json")):
            assert time.monotonic() < deadline and all(p.poll() is None for p in machines.processes)
            time.sleep(0.1)
        machines.kill(machines.processes[dies])
        died = time.monotonic()
        survivor, base = machines.processes[1 - dies], machines.bases[1 - dies]
        while survivor.poll() is None:
            assert time.monotonic() - died < 60
            time.sleep(0.05)
        assert time.monotonic() - died < TIMEOUT + 2  # and what a busy machine adds
        assert survivor.returncode == 1
        assert failure_of(base).startswith(f"host {HOSTS[dies]} is gone: ")
