"""A run that is killed and started again ends as the unbroken one, bit for bit; another run is refused by name."""

from __future__ import annotations

import fcntl
import json
import random
import re
import shutil
import signal
import time

import pytest
from helpers import jobs
from helpers.data import shapes_set
from helpers.jobs import assert_same, finish, kill_after, outcome, run_here, start

from ssd_train.cli.main import main
from ssd_train.storage.atomic import finished_dirs
from ssd_train.storage.lock import LOCK

pytestmark = pytest.mark.integration

OPTIMIZERS = {
    "sgd": {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.001},
    "adam": {"optimizer": "adam", "mini_batch_size": 3, "amp": 1},
    "averaged": {
        "amp": 1,
        "ema_decay": 0.9,
        "auto_anchors": "true",
        "classification_loss": "focal",
        "label_smoothing": 0.1,
    },
    "weighted": {"class_weights": "balanced"},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return shapes_set(folder / "train", 14, seed=1), shapes_set(folder / "validation", 5, seed=2)


def flags(data, folder, **settings):
    return jobs.flags(data, folder, **{"epochs": 3, "augmentation": "strong", "learning_rate": 0.005, **settings})


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory):
    """The folder of a run that nothing disturbed, by optimizer."""
    found = {}

    def run(optimizer):
        if optimizer not in found:
            found[optimizer] = tmp_path_factory.mktemp(f"unbroken-{optimizer}")
            run_here(flags(data, found[optimizer], **OPTIMIZERS[optimizer]))
        return found[optimizer]

    return run


@pytest.mark.parametrize(
    "optimizer", ["sgd", *(pytest.param(name, marks=pytest.mark.slow) for name in ("adam", "averaged", "weighted"))]
)
def test_resume_killed_between_epochs_equals_the_unbroken_run(data, unbroken, tmp_path, optimizer):
    command = flags(data, tmp_path, **OPTIMIZERS[optimizer])
    kill_after(command, "^epoch 2/3", delay=0.15)
    printed = run_here(command)
    assert re.search(r"^resuming after epoch [12]", printed, re.MULTILINE) and "epoch 1/3" not in printed
    assert_same(outcome(tmp_path), outcome(unbroken(optimizer)))


@pytest.mark.slow
def test_resume_killed_at_random_moments_equals_the_unbroken_run(data, unbroken, tmp_path):
    """With a checkpoint after every step, each run is killed within its training, until one comes to its end."""
    command = flags(data, tmp_path, checkpoint_minutes=0.0001, **OPTIMIZERS["adam"])
    dice = random.Random(4)
    for _ in range(3):
        kill_after(command, "^training on", delay=dice.uniform(0.2, 1.5))
    finish(command)
    assert_same(outcome(tmp_path), outcome(unbroken("adam")))


@pytest.mark.slow
def test_resume_killed_inside_an_epoch_equals_the_unbroken_run(data, unbroken, tmp_path):
    """Killed as soon as a checkpoint stands that was made after a step of an epoch."""
    command = flags(data, tmp_path, checkpoint_minutes=0.0001, **OPTIMIZERS["adam"])
    kill_when(command, lambda: steps_of_newest_state(tmp_path / "checkpoints") > 0)
    assert re.search(r"^resuming after epoch \d, step \d of the next", finish(command), re.MULTILINE)
    assert_same(outcome(tmp_path), outcome(unbroken("adam")))


def kill_when(command, there):
    """Start a run and kill it as soon as `there()`, however fast the machine."""
    process = start(command)
    until = time.monotonic() + 100
    while not there() and time.monotonic() < until:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def steps_of_newest_state(checkpoints):
    """Steps that the newest checkpoint has made of an epoch; 0 where there is none."""
    folders = finished_dirs(checkpoints / "state")
    return json.loads((folders[0] / "state.json").read_text())["tally"]["steps"] if folders else 0


@pytest.mark.slow
def test_resume_of_a_finished_run_changes_nothing(data, unbroken, tmp_path):
    command = flags(data, tmp_path, **OPTIMIZERS["sgd"])
    finish(command)
    before = outcome(tmp_path)
    printed = finish(command)
    assert "resuming after epoch 3" in printed and not re.search("^epoch", printed, re.MULTILINE)
    assert_same(outcome(tmp_path), before)
    assert_same(before, outcome(unbroken("sgd")))


def test_resume_damaged_checkpoint_uses_the_previous(data, unbroken, tmp_path):
    command = flags(data, tmp_path, **OPTIMIZERS["sgd"])
    shutil.copytree(unbroken("sgd") / "checkpoints", tmp_path / "checkpoints")
    newest, before = finished_dirs(tmp_path / "checkpoints" / "state")[:2]
    epoch = json.loads((before / "state.json").read_text())["epoch"]
    data_of = bytearray((newest / "last.params").read_bytes())
    data_of[5000] ^= 16
    (newest / "last.params").write_bytes(bytes(data_of))
    printed = run_here(command)
    assert re.search(r"last.params: .*damaged", printed)
    assert f"resuming after epoch {epoch} " in printed
    assert_same(outcome(tmp_path), outcome(unbroken("sgd")))


@pytest.fixture(scope="module")
def stopped(data, tmp_path_factory):
    """A folder with the checkpoint of a run of one epoch."""
    folder = tmp_path_factory.mktemp("stopped")
    assert main(flags(data, folder, epochs=1)) == 0
    return folder


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"learning_rate": 0.01}, "setting learning_rate: found 0.01, the checkpoint has 0.005"),
        (
            {"seed": 9, "augmentation": "flip"},
            "setting augmentation: found 'flip', .*; setting seed: found 9, the checkpoint has 1",
        ),
        ({"image_shape": 160}, "setting image_shape: found 160, the checkpoint has 128"),
        ({"optimizer": "sgd"}, "setting optimizer: found 'sgd', the checkpoint has 'adam'"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_resume_other_settings_are_an_error_by_name(data, stopped, capsys, settings, expected):
    assert main(flags(data, stopped, **{"epochs": 1, **settings})) == 2
    error = capsys.readouterr().err
    assert re.match(rf"error: .*cannot resume with other settings: .*{expected}.*use another checkpoint_dir", error)


@pytest.mark.parametrize("cpu, other, kept", [({"avx512_bf16"}, (), True), ((), {"amx_bf16"}, False)])
def test_resume_on_another_processor_keeps_amp_or_is_an_error(data, tmp_path, capsys, monkeypatch, cpu, other, kept):
    """Never slower unasked: bfloat16 without the processor's support is an error that names the way on."""

    def run(instructions, **settings):
        monkeypatch.setattr("ssd_train.resources.cpu_flags", lambda root: frozenset(instructions))
        return main(flags(data, tmp_path, **{"amp": None, "base_network": "mobilenet0.5", **settings}))

    assert run(cpu, epochs=1) == 0
    capsys.readouterr()
    code, (printed, errors) = run(other, epochs=2), capsys.readouterr()
    if kept:
        assert code == 2 and re.match(r"error: \S*/checkpoints: .*bf16.*--amp 1", errors) and errors.count("\n") == 1
        assert run(other, epochs=2, amp=1) == 0
        printed = capsys.readouterr().out
        assert re.search("^mixed precision: bfloat16, slower", printed, re.MULTILINE)
    else:
        assert code == 0 and "mixed precision" not in printed
    assert "resuming after epoch 1" in printed
    state = json.loads((finished_dirs(tmp_path / "checkpoints" / "state")[0] / "state.json").read_text())
    assert state["epoch"] == 2 and state["fingerprint"]["setting amp"] is kept
    assert json.loads((tmp_path / "model" / "config.json").read_text())["settings"]["amp"] is kept


def set_of_no_image(drawn, tmp_path):
    """The same labels, whose images are not there: what looks at them is an error."""
    return drawn._replace(images=tmp_path)


def test_resume_other_settings_are_an_error_before_the_data_is_read(data, stopped, tmp_path, capsys):
    gone = [set_of_no_image(drawn, tmp_path) for drawn in data]
    assert main(flags(gone, stopped, epochs=1, learning_rate=0.01)) == 2
    assert "setting learning_rate: found 0.01" in capsys.readouterr().err


def test_resume_other_labels_are_an_error_before_the_network_is_built(data, stopped, tmp_path, capsys, monkeypatch):
    other = [edited(data[0], tmp_path / "less.manifest", one_less), data[1]]
    monkeypatch.setattr("ssd_train.training.setup.net_of", None)
    assert main(flags(other, stopped, epochs=1)) == 2
    assert "the training labels are not those of the checkpoint" in capsys.readouterr().err


@pytest.mark.slow
def test_resume_fewer_epochs_equals_a_run_of_that_many(data, tmp_path):
    """As many as are made, or more: it is told, and the run ends as one that was asked for no more."""
    steady = {"lr_schedule": "constant", "optimizer": "sgd"}
    kill_after(flags(data, tmp_path / "cut", **steady, epochs=9), "^epoch 2/9")
    printed = finish(flags(data, tmp_path / "cut", **steady, epochs=3))
    assert "epochs: found 3, the checkpoint was made for 9\n" in printed
    finish(flags(data, tmp_path / "once", **steady, epochs=3))
    assert_same(outcome(tmp_path / "cut"), outcome(tmp_path / "once"))


def test_resume_fewer_epochs_than_made_are_an_error(data, unbroken, tmp_path, capsys):
    gone = [set_of_no_image(drawn, tmp_path) for drawn in data]
    assert main(flags(gone, unbroken("sgd"), **OPTIMIZERS["sgd"], epochs=2)) == 2
    assert re.search(r"checkpoints: holds epoch 3, expected --epochs to be no less", capsys.readouterr().err)


def test_train_second_run_on_one_folder_is_an_error(data, tmp_path, capsys):
    """As a run in another process locks it."""
    (tmp_path / "checkpoints").mkdir()
    with open(tmp_path / "checkpoints" / LOCK, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert main(flags(data, tmp_path)) == 2
    assert re.match(r"error: \S*/checkpoints: is in use by another run", capsys.readouterr().err)
    assert not (tmp_path / "model").exists()


def test_resume_settings_of_the_machine_may_change(data, stopped):
    assert main(flags(data, stopped, epochs=1, num_workers=0, early_stopping=1)) == 0


def one_less(lines):
    return lines[:-1]


def moved(lines):
    """The first box one pixel further right."""
    return [re.sub(r'"left": ?(\d+)', lambda found: f'"left":{int(found[1]) + 1}', "\n".join(lines), count=1)]


def renamed(lines):
    return [line.replace('"disc"', '"dish"') for line in lines]


def edited(drawn, target, change):
    target.write_text("\n".join(change(drawn.manifest.read_text().splitlines())) + "\n")
    return drawn._replace(manifest=target)


@pytest.mark.parametrize(
    "sides, change, expected",
    [
        ((0,), one_less, "the training labels are not those of the checkpoint"),
        ((0,), moved, "the training labels are not those of the checkpoint"),
        ((1,), one_less, "the validation labels are not those of the checkpoint"),
        ((0, 1), renamed, r"classes: found \['dish', 'square', 'triangle'\]"),
    ],
    ids=["a-line-less", "a-box-moved", "a-line-less-to-score-with", "a-class-renamed"],
)
def test_resume_other_data_is_an_error_by_name(data, stopped, tmp_path, capsys, sides, change, expected):
    other = [edited(drawn, tmp_path / f"{i}.manifest", change) if i in sides else drawn for i, drawn in enumerate(data)]
    assert main(flags(other, stopped, epochs=1)) == 2
    assert re.search(rf"cannot resume with other settings: .*{expected}", capsys.readouterr().err)
