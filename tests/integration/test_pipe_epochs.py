"""Whole jobs in Pipe mode whose epochs do not have as many images as the first pass."""

from __future__ import annotations

import json
import re
import signal

import pytest
from helpers.data import SMALL, FifoWriter, HeardProgress, samples, shapes_set, small_config
from helpers.jobs import failure_of, make_opt_ml

from ssd_train.cli.main import main
from ssd_train.cli.train import train
from ssd_train.data.labels import load_labels
from ssd_train.environment import Environment
from ssd_train.errors import TrainingInterrupted
from ssd_train.training.schedule import learning_rate

pytestmark = pytest.mark.integration

IMAGES, BATCH, STEPS = 10, 4, 3
# a disk of a kilobyte: nothing can be kept, each epoch is read from its own FIFO
STREAMED = {
    "learning_rate": 0.001,
    "mini_batch_size": BATCH,
    "pipe_spill_gb": 1e-6,
    "pipe_buffer_mb": 1,
    "pipe_timeout": 20,
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The samples of the training stream, and a validation set."""
    folder = tmp_path_factory.mktemp("drawn")
    made = shapes_set(folder / "train", IMAGES, 1, empty_fraction=0.0)
    data = load_labels(made.images, made.manifest)
    pieces = samples(data.labels.records, data.images, data.labels.class_names)
    return pieces, shapes_set(folder / "validation", 4, 2, empty_fraction=0.0)


@pytest.fixture
def hosted(drawn, tmp_path, monkeypatch):
    """`hosted(counts)` is a SageMaker job of an epoch for each of `counts`, the images of its FIFO, after a first pass
    over all; its exit code and its folder."""
    before = signal.getsignal(signal.SIGTERM)
    for name in ("SM_OUTPUT_DIR", "SM_MODEL_DIR", "SM_OUTPUT_DATA_DIR", "SM_HPS"):
        monkeypatch.delenv(name, raising=False)
    pieces, validation = drawn

    def job(counts):
        settings = {**SMALL, **STREAMED, "epochs": len(counts), "validation_interval": len(counts)}
        channels = {"validation": validation.images, "validation_labels": validation.manifest.parent}
        base = make_opt_ml(tmp_path / "ml", settings, channels, pipes=["train"])
        monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(base))
        streams = [pieces, *((pieces * 2)[:count] for count in counts)]
        with FifoWriter(base / "input" / "data" / "train", streams):
            return main([]), base

    yield job
    signal.signal(signal.SIGTERM, before)


def history_of(model_dir):
    return [json.loads(line) for line in (model_dir / "history.jsonl").read_text().splitlines()]


def test_train_pipe_epochs_shorter_and_longer_than_the_first_pass_completes(hosted, capsys):
    code, base = hosted([IMAGES, 5, 14])
    said = capsys.readouterr()
    assert code == 0, said.err
    batches = re.findall(r"epoch=\d+, batch=(\d+) train cross_entropy", said.out)
    assert [int(batch) + 1 for batch in batches] == [STEPS, 2, STEPS]
    warned = [re.findall(r"\d+", line) for line in said.out.splitlines() if "in the stream" in line]
    assert [[int(n) for n in numbers] for numbers in warned] == [
        [2, 5, IMAGES, 2, STEPS],
        [3, 14, IMAGES, STEPS, STEPS],
    ]
    config = small_config(**STREAMED, epochs=3)
    rates = [learning_rate(config, epoch, step, STEPS) for epoch, step in enumerate((2, 1, 2))]
    assert [row["learning_rate"] for row in history_of(base / "model")] == rates


def test_train_pipe_epoch_without_a_record_fails_with_its_fifo(hosted):
    code, base = hosted([IMAGES, 0])
    assert code == 2
    assert failure_of(base).startswith("train_2: found no record")


class StopsInEpoch2(HeardProgress):
    """Asks for the end of the run once `steps` batches of epoch 2 have come."""

    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def track(self, items, total, what):
        for item in items:
            self.left -= what.startswith("epoch 2/")
            yield item

    def __call__(self):
        return self.left <= 0


@pytest.mark.parametrize("images", [pytest.param(6, id="as-many-steps-as-were-made"), pytest.param(2, id="fewer")])
def test_train_pipe_resumed_inside_an_epoch_that_is_now_shorter_ends_the_epoch(drawn, tmp_path, images):
    """The checkpoint has two steps of epoch 2; the job that goes on gets a stream that has no third."""
    pieces, validation = drawn
    config = small_config(**STREAMED, epochs=3, validation_interval=3)

    def run(name, counts, progress, should_stop=lambda: False):
        places = {"model_dir": tmp_path / "model", "output_dir": tmp_path / name / "output"}
        (tmp_path / name).mkdir()
        channel = tmp_path / name / "train"
        held = {"validation": validation.images, "validation_labels": validation.manifest}
        environment = Environment(channel, **held, **places, checkpoint_dir=tmp_path / "checkpoints")
        with FifoWriter(channel, [pieces, *(pieces[:count] for count in counts)]):
            return train(config, environment, progress, should_stop)

    stops = StopsInEpoch2(2)
    with pytest.raises(TrainingInterrupted, match="epoch 1, step 2 of the next"):
        run("first", [IMAGES] * 3, stops, stops)
    progress = HeardProgress()
    trained = run("second", [images, IMAGES], progress)

    assert trained.epochs == 3
    rates = [learning_rate(config, epoch, step, STEPS) for epoch, step in enumerate((2, 1, 2))]
    assert [row["learning_rate"] for row in history_of(tmp_path / "model")] == rates
    assert [re.findall(r"\d+", line)[:2] for line in progress.warnings if "stream" in line] == [["2", str(images)]]
