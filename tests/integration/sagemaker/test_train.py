"""The real `train` command runs entry_point/train.py to a saved model, and shows its user why when it cannot."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from helpers.builtin_nets import archive_of, write_artifact
from helpers.data import FifoWriter, samples
from helpers.environments import ROOT, copy_package, pack
from helpers.jobs import failure_of

from ssd_train.data.image_io import decode
from ssd_train.data.labels import load_labels
from ssd_train.deploy.detector import Detector
from ssd_train.sagemaker_metrics import METRIC_DEFINITIONS

pytestmark = pytest.mark.sagemaker

# what a job of the built-in algorithm brings along, and flags spelt as AWS's examples do
BROUGHT = {"num_classes": "3", "kv_store": "-", "_tuning_objective_metric": "", "early-stopping": "False"}
SETTINGS = {**BROUGHT, "image_shape": "3,128,128", "freeze_layer_pattern": "", "lr_scheduler_step": "1"}


@pytest.fixture(scope="module")
def job(toolkit, shapes, tmp_path_factory):
    """A job that ran to its end: its folder, and how it ended."""
    labels = tmp_path_factory.mktemp("labels")
    shutil.copy(shapes.manifest, labels)
    base = tmp_path_factory.mktemp("job") / "ml"
    toolkit.make_job(base, {"train": shapes.images, "labels": labels}, SETTINGS)
    return base, toolkit.run(base)


@pytest.mark.slice
def test_it_succeeds(job):
    base, finished = job
    assert finished.code == 0, finished.log
    assert (base / "output" / "success").exists() and not (base / "output" / "failure").exists()


@pytest.mark.slice
def test_nothing_is_installed(job):
    """requirements.txt names only what the container holds, and pip looks no further."""
    assert "Requirement already satisfied: tqdm" in job[1].log
    assert not re.search(r"Collecting|Downloading|Looking in indexes.*\n.*ERROR", job[1].log)


@pytest.mark.slice
def test_the_model_is_saved_and_detects(job, shapes):
    base, _ = job
    description = json.loads((base / "model" / "config.json").read_text())
    assert description["class_names"] == ["disc", "square", "triangle"]
    detector = Detector.load(base / "model")
    picture = sorted(shapes.images.iterdir())[0]
    assert len(detector(decode(picture.read_bytes(), picture.name)))
    assert (base / "output" / "data" / "report.html").exists()
    assert (base / "checkpoints").iterdir()


@pytest.mark.slice
def test_every_metric_is_found_once_an_epoch(job):
    for definition in METRIC_DEFINITIONS:
        found = re.findall(definition["Regex"], job[1].log)
        assert len(found) == 2 and all(float(value) >= 0 for value in found), definition["Name"]


@pytest.mark.slice
def test_notebooks_parse_the_log_of_a_job(job):
    """As AWS's notebooks on Ground Truth and on birds do, line by line."""
    messages = job[1].lines
    (final,) = [line for line in messages if "Final configuration" in line]
    assert final.split("num_training_samples': u'")[1].split("'")[0] == "19", "a fifth of 24 is held out"
    scores = [line for line in messages if "validation mAP <score>=(" in line]
    assert [float(line.split("validation mAP <score>=(")[1][:-1]) for line in scores]
    assert [float(line[line.find("(") + 1 : line.find(")")]) for line in scores]


@pytest.mark.slice
def test_the_last_line_of_the_program_is_its_summary(job):
    own = [line for line in job[1].lines if line and "sagemaker" not in line.lower()]
    assert own[-1].startswith("training is complete: best model of epoch ") and own[-1].endswith("/model")
    assert any("image_shape: found '3,128,128'" in line for line in own)


def test_streams_train(container, shapes, tmp_path):
    """Pipe mode: an augmented manifest through real FIFOs, written as SageMaker frames it."""
    data = load_labels(shapes.images, shapes.manifest)
    names = ",".join(data.labels.class_names)
    base = container.make_job(tmp_path / "ml", {}, {"class_names": names, "pipe_timeout": 60}, pipes=["train"])
    with FifoWriter(base / "input" / "data" / "train", [samples(data.labels.records, data.images)]):
        finished = container.run(base)
    assert finished.code == 0, finished.log
    description = json.loads((base / "model" / "config.json").read_text())
    assert description["class_names"] == names.split(",")


def refused(toolkit, base, channels, settings=()):
    """The failure text of a job that cannot run; the toolkit's exit code is always 1, ours is in its log."""
    finished = toolkit.run(toolkit.make_job(base, channels, dict(settings)))
    assert finished.code == 1, finished.log
    found = failure_of(base)
    assert f"error: {found[:500]}" in finished.log and len(found) <= 1024
    assert "ExitCode 2" in finished.log
    assert not list((base / "model").iterdir()) and not (base / "output" / "success").exists()
    return found


@pytest.mark.slice
def test_bad_hyperparameters_are_all_named(toolkit, shapes, tmp_path):
    settings = {"base_network": "alexnet", "learning_rate": "5", "mini_batch_sise": 8, "epochs": "many"}
    found = refused(toolkit, tmp_path / "ml", {"train": shapes.images.parent}, settings)
    for part in ("base_network: found 'alexnet', expected one of", "learning_rate: found '5', expected", "epochs: "):
        assert part in found
    assert "mini_batch_sise: unknown setting, did you mean mini_batch_size?" in found


def test_a_bad_label_is_named_with_its_line(container, shapes, tmp_path):
    lines = shapes.manifest.read_text().splitlines()
    lines[4] = lines[4].replace('"width"', '"wide"')
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "output.manifest").write_text("\n".join(lines))
    found = refused(container, tmp_path / "ml", {"train": shapes.images, "labels": labels})
    assert "output.manifest:5: " in found and "width" in found


def test_a_missing_channel_is_named(container, shapes, tmp_path):
    found = refused(container, tmp_path / "ml", {"images": shapes.images})
    assert found == "channels: found images, expected one called train"


def test_train_job_crash_is_one_line(container, shapes, tmp_path):
    engine = copy_package(tmp_path) / "training" / "engine.py"
    engine.write_text(
        f"{engine.read_text()}\n\ndef train_one_epoch(*arguments):\n    raise ZeroDivisionError('a fault')\n"
    )
    archive = pack(tmp_path / "sourcedir.tar.gz", [ROOT / "entry_point", tmp_path / "ssd_train"])
    faulty = container._replace(archive=archive)
    base = faulty.make_job(tmp_path / "ml", {"train": shapes.images.parent})
    finished = faulty.run(base)
    assert finished.code == 1 and "Traceback" in finished.log
    assert re.fullmatch(r"ZeroDivisionError: a fault \(engine.py:\d+; see the log\)", failure_of(base))


def test_a_vgg_archive_of_the_builtin_algorithm_is_trained_on(container, shapes, tmp_path):
    """Its model.tar.gz in the channel `model`, as the algorithm's own incremental training has it."""
    write_artifact(tmp_path / "artifact", "vgg-16", 300)
    (tmp_path / "model").mkdir()
    archive_of(tmp_path / "artifact", tmp_path / "model" / "model.tar.gz")
    base = tmp_path / "ml"
    settings = {"base_network": "vgg-16", "epochs": "1", "image_shape": "128", "mini_batch_size": "4"}
    container.make_job(base, {"train": shapes.manifest.parent, "model": tmp_path / "model"}, settings)
    ended = container.run(base)
    assert ended.code == 0, ended.log
    assert "detector of the built-in algorithm, 59 of 63 tensors loaded" in ended.log
