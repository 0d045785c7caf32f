"""A SageMaker job without the toolkit, as in a container of one's own: every layout of channels trains."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import tarfile

import numpy as np
import pytest
from helpers.data import SMALL, FifoWriter, samples, shapes_set
from helpers.jobs import failure_of, make_opt_ml

from ssd_train import mxnet_compat
from ssd_train.cli.main import main
from ssd_train.data.labels import load_labels
from ssd_train.prepare.convert import convert

pytestmark = pytest.mark.integration

SETTINGS = {**SMALL, "epochs": 1, "augmentation": "none"}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder with the same pictures and labels as SageMaker's formats have them."""
    folder = tmp_path_factory.mktemp("drawn")
    for name, count, seed in (("train", 12, 1), ("validation", 6, 2)):
        made = shapes_set(folder / name, count, seed, empty_fraction=0.0)
        (folder / f"{name}_images").symlink_to(made.images)
        (folder / f"{name}_labels").mkdir()
        shutil.copy(made.manifest, folder / f"{name}_labels")
        data = load_labels(made.images, made.manifest)
        convert(data, "image_json", folder / f"{name}_annotation")
        (folder / f"{name}_rec").mkdir()
        convert(data, "recordio", folder / f"{name}_rec" / f"{name}.rec")
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run(channels, settings)` is a job from its beginning to its end: its exit code and folder."""
    before = signal.getsignal(signal.SIGTERM)
    for name in ("SM_OUTPUT_DIR", "SM_MODEL_DIR", "SM_OUTPUT_DATA_DIR", "SM_HPS"):
        monkeypatch.delenv(name, raising=False)

    def job(channels, settings=(), name="ml", **more):
        base = make_opt_ml(tmp_path / name, {**SETTINGS, **dict(settings)}, channels, **more)
        monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(base))
        return main([]), base

    yield job
    signal.signal(signal.SIGTERM, before)


def classes_of(base):
    return json.loads((base / "model" / "config.json").read_text())["class_names"]


LAYOUTS = {
    "images-and-manifest": {"train": "train_images", "labels": "train_labels"},
    "manifest-and-images-in-one-channel": {"train": "train"},
    "two-manifests": {
        "train": "train_images",
        "labels": "train_labels",
        "validation": "validation_images",
        "validation_labels": "validation_labels",
    },
    "image-and-json": {
        "train": "train_images",
        "train_annotation": "train_annotation",
        "validation": "validation_images",
        "validation_annotation": "validation_annotation",
    },
    "recordio": {"train": "train_rec", "validation": "validation_rec"},
}


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in ("images-and-manifest", "two-manifests") else [])
        for name in LAYOUTS
    ],
)
def test_train_job_each_layout_of_channels_completes(run, drawn, layout, capsys):
    code, base = run({channel: drawn / place for channel, place in LAYOUTS[layout].items()}, {"num_classes": 3})
    said = capsys.readouterr()
    assert code == 0, said.err
    assert len(classes_of(base)) == 3 and len(list((base / "model").glob("weights-*.params"))) == 1
    held_out = "validation" not in LAYOUTS[layout]
    assert ("train: 12 images" in said.out) != held_out and not (base / "output" / "failure").exists()
    assert said.out.splitlines()[-1].startswith("training is complete: ")


def test_train_job_in_pipe_mode_completes(run, drawn, tmp_path):
    """An augmented manifest as a stream: the class-map does not come along, so the names are a setting."""
    data = load_labels(drawn / "train_images", drawn / "train_labels")
    channel = tmp_path / "ml" / "input" / "data" / "train"
    settings = {"class_names": ",".join(data.labels.class_names), "pipe_timeout": 20, "pipe_spill_gb": 0.1}
    channel.parent.mkdir(parents=True)
    with FifoWriter(channel, [samples(data.labels.records, data.images)]):
        code, base = run({}, settings, pipes=["train"])
    assert code == 0 and classes_of(base) == list(data.labels.class_names)


def packed(base, archive):
    """The model folder as SageMaker packs it at the end of a job."""
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        for file in sorted((base / "model").iterdir()):
            tar.add(file, file.name)
    return archive.parent


def test_train_job_with_a_model_channel_continues_from_the_artifact(run, drawn, tmp_path, capsys):
    """Also with other classes: what both know keeps its rows in the head."""
    code, first = run({"train": drawn / "train"}, name="first")
    channel = packed(first, tmp_path / "artifact" / "model.tar.gz")
    capsys.readouterr()
    fewer = tmp_path / "fewer"
    shutil.copytree(drawn / "train", fewer)
    manifest = fewer / "output.manifest"
    manifest.write_text(manifest.read_text().replace('"triangle"', '"hexagon"'))
    frozen = {"learning_rate": 1e-9, "freeze_layer_pattern": ".*mobilenet.*"}
    code, base = run({"train": fewer, "model": channel}, frozen, name="second")
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "class rows kept: disc, square" in said.out and "model.tar.gz" not in said.err
    assert set(classes_of(base)) == {"disc", "square", "hexagon"}
    old, new = (weights(at) for at in (first, base))
    body = [name for name in new if name.startswith("features.") and name.endswith("weight")]
    assert body and all(np.allclose(old[name], new[name], atol=1e-4) for name in body)


def weights(base):
    (file,) = (base / "model").glob("weights-*.params")
    return {name: array.asnumpy() for name, array in mxnet_compat.mxnet().nd.load(str(file)).items()}


@pytest.mark.parametrize(
    "content, message",
    [
        ({"model_algo_1-0000.params": b"x"}, "expected an artifact of the built-in algorithm"),
        ({"model.tar.gz": b"\x1f\x8b no"}, "model.tar.gz: damaged"),
        ({}, r"found 0 .params"),
        ({"a.params": b"no"}, "a.params: found no readable weights"),
    ],
    ids=["builtin", "damaged", "empty", "not-weights"],
)
def test_train_job_model_channel_without_a_model_is_an_error(run, drawn, tmp_path, content, message):
    channel = tmp_path / "channel"
    channel.mkdir()
    for name, data in content.items():
        (channel / name).write_bytes(data)
    code, base = run({"train": drawn / "train", "pretrained": channel})
    assert code == 2 and message in failure_of(base)


@pytest.fixture
def piped(run, drawn, tmp_path):
    """`piped(settings, pretrained)` is a job whose training channel is a pipe: its exit code, its folder, and the
    numbers of the FIFOs that were opened."""
    data = load_labels(drawn / "train_images", drawn / "train_labels")

    def job(settings, pretrained=None):
        channel = tmp_path / "ml" / "input" / "data" / "train"
        channel.parent.mkdir(parents=True)
        channels = {"pretrained": pretrained} if pretrained else {}
        with FifoWriter(channel, [samples(data.labels.records, data.images)]) as writer:
            code, base = run(channels, {**settings, "pipe_timeout": 20}, pipes=["train"])
            return code, base, list(writer.opened)

    return job


def test_train_job_without_weights_fails_before_any_data_and_names_the_channels(piped, tmp_path, monkeypatch):
    """The model zoo cannot be reached, as under network isolation."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    monkeypatch.setenv("MXNET_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MXNET_GLUON_REPO", f"http://127.0.0.1:{port}/")
    code, base, opened = piped({"use_pretrained_model": 1})
    assert (code, opened) == (2, [])
    failure = failure_of(base)
    assert all(part in failure for part in ("mobilenet0.25", "channel pretrained or model", "use_pretrained_model 0"))
    assert "--pretrained" not in failure


@pytest.mark.parametrize("kind", ["missing", "damaged", "of-another-network"])
def test_train_job_with_weights_that_cannot_be_used_fails_before_any_data(piped, tmp_path, kind):
    channel = tmp_path / "weights"
    channel.mkdir()
    if kind == "damaged":
        (channel / "a.params").write_bytes(b"no")
    if kind == "of-another-network":
        net = mxnet_compat.gluoncv().model_zoo.get_model("mobilenet0.5", pretrained=False)
        net.initialize()
        net(mxnet_compat.mxnet().nd.zeros((1, 3, 32, 32)))
        net.save_parameters(str(channel / "a.params"))
    code, base, opened = piped({}, channel)
    assert (code, opened) == (2, [])
    assert str(base / "input" / "data" / "pretrained") in failure_of(base)


def test_train_job_on_several_hosts_without_a_launcher_is_an_error(run, drawn):
    code, base = run({"train": drawn / "train"}, hosts=("algo-1", "algo-2"))
    assert code == 2 and "hosts: found algo-1, algo-2" in failure_of(base)
