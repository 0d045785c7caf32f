"""Too little memory; long runs, which hold no more at their end; the same weights for any number of loader threads."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from helpers.data import shapes_set
from helpers.jobs import SAVING, SOURCE, assert_same, ended, finish, flags, outcome, start

pytestmark = pytest.mark.integration

EPOCHS = 500


def test_train_too_little_memory_is_one_line(data, tmp_path):
    """Address space of 3 GB for a batch that wants more."""
    settings = {"mini_batch_size": 8, "image_shape": 1024, "base_network": "mobilenet1.0", "epochs": 1}
    process = start(flags(data, tmp_path, **settings), ["sh", "-c", 'ulimit -v 3000000; exec "$@"', "sh"])
    printed = ended(process)
    assert process.returncode == 1
    assert re.search(
        r"^error: out of memory with mini_batch_size 8 at image_shape 1024: lower one of them, or take a smaller "
        r"--base_network\n\Z",
        printed,
        re.MULTILINE,
    ), printed


# what the process holds after each epoch: kB of memory, open files, threads
WATCHED = """
import json, os, sys
from ssd_train.cli import arguments
from ssd_train.cli.main import main

class Watching(arguments.LogProgress):
    def info(self, text):
        super().info(text)
        if text.startswith("epoch "):
            status = dict(line.split(":", 1) for line in open("/proc/self/status"))
            row = [int(status["VmRSS"].split()[0]), len(os.listdir("/proc/self/fd")), int(status["Threads"])]
            with open(sys.argv[1], "a") as file:
                file.write(json.dumps(row) + "\\n")

arguments.LogProgress = Watching
sys.exit(main(["train", *sys.argv[2:]]))
"""


@pytest.mark.faults
def test_train_500_epochs_keep_memory_and_files_constant(tmp_path):
    """500 epochs of eight images, each evaluated and saved."""
    data = shapes_set(tmp_path / "train", 8, seed=1), shapes_set(tmp_path / "validation", 2, seed=2)
    settings = {"epochs": EPOCHS, "mini_batch_size": 8, "optimizer": "sgd", "num_workers": 1}
    command = [sys.executable, "-c", WATCHED, str(tmp_path / "rows"), *flags(data, tmp_path, **settings)]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SOURCE)}
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1200)
    printed = done.stdout.decode()
    assert done.returncode == 0, printed
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert len(rows) == EPOCHS
    settled, end = rows[EPOCHS // 10 : EPOCHS // 5], rows[-EPOCHS // 10 :]
    memory, files, threads = (([row[i] for row in settled], [row[i] for row in end]) for i in range(3))
    assert sum(memory[1]) / len(memory[1]) < 1.03 * sum(memory[0]) / len(memory[0]), (memory[0][0], memory[1][-1])
    assert max(files[1]) <= max(files[0]) and max(threads[1]) <= max(threads[0])
    assert len(printed) < 300 * EPOCHS, "more than a few lines an epoch"
    checkpoints = [path for path in (tmp_path / "checkpoints").iterdir() if path.name != ".lock"]
    assert len(checkpoints) == 3 and len(list((tmp_path / "model").glob("weights-*"))) == 1


@pytest.mark.faults
@pytest.mark.parametrize("workers", [1, 4])
def test_train_any_number_of_loader_threads_gives_the_same_weights(data, tmp_path, workers):
    for count in (0, workers):
        finish(flags(data, tmp_path / str(count), **{**SAVING, "num_workers": count, "augmentation": "strong"}))
    assert_same(outcome(tmp_path / str(workers)), outcome(tmp_path / "0"))
