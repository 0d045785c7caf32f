"""The real toolkit with the estimator's parameter server: on one host, on two, and on two of which one dies."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence

import pytest
from helpers.data import shapes_set
from helpers.jobs import HOSTS, describe, free_port

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
