"""Two processes under Horovod, built against MXNet by `make test-horovod`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from helpers import together
from helpers.data import SMALL, flags_of, shapes_set, small_config
from helpers.environments import own_venv
from helpers.jobs import free_port, plain_environment
from helpers.together import SETTINGS, assert_alike, learn, make_learner

from ssd_train.training.distributed.communicator import Communicator

pytestmark = pytest.mark.horovod


def horovodrun(folder: Path, *arguments: object) -> str:
    """What two processes `python ARGUMENTS` on this host wrote."""
    venv = own_venv(".venv-horovod", "3.8", "test-horovod")
    start = ["horovodrun", "--gloo", "-np", "2", "-H", "localhost:2", "--network-interface", "lo", "python"]
    done = subprocess.run(
        [*start, *map(str, arguments)],
        env=plain_environment(PATH=f"{venv / 'bin'}:{os.environ['PATH']}"),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_two_with_half_the_batch_learn_what_one_with_the_whole_does(tmp_path):
    settings = ["batch=2", "mini_batch_size=4", f"rendezvous_port={free_port()}"]
    horovodrun(tmp_path, Path(together.__file__), tmp_path / "{}.npz", "algo-1", *settings)
    two = [dict(np.load(tmp_path / f"{rank}.npz")) for rank in range(2)]
    whole = make_learner(small_config(**SETTINGS), Communicator())
    _, seen = learn(whole, 4)
    assert_alike(two[0], whole)
    for name in set(two[0]) - {"seen", "rank"}:
        np.testing.assert_array_equal(two[0][name], two[1][name], err_msg=name)
    assert not set(two[0]["seen"]) & set(two[1]["seen"]) and {*two[0]["seen"], *two[1]["seen"]} == set(seen)


def test_a_job_has_one_writer(tmp_path):
    shapes = shapes_set(tmp_path / "shapes", 12, seed=1)
    given = {**SMALL, "train": shapes.images, "labels": shapes.manifest, "rendezvous_port": free_port()}
    log = horovodrun(tmp_path, "-m", "ssd_train", "train", *flags_of(given))
    assert log.count("training is complete: ") == 1 and log.count("this host has finished") == 1
    assert (tmp_path / "model" / "config.json").exists()
