"""Images that are missing, or go bad while a run is on its way."""

from __future__ import annotations

import shutil

import pytest
from helpers.data import HeardProgress, small_config
from helpers.jobs import assert_nothing_dead, command, lines_of, refused

from ssd_train.cli.train import train
from ssd_train.environment import Environment
from ssd_train.errors import DataError

pytestmark = pytest.mark.integration


def without(data, folder, name):
    """The training set without the image of line 3, in a folder of its own."""
    training, validation = data
    images = folder / "images"
    images.mkdir()
    for file in training.images.iterdir():
        if file.name != name:
            (images / file.name).write_bytes(file.read_bytes())
    return training._replace(images=images), validation


def name_of(manifest, number):
    return lines_of(manifest)[number - 1]["source-ref"].rsplit("/", 1)[-1]


def test_train_missing_image_is_an_error_before_the_first_step(data, tmp_path, capsys):
    name = name_of(data[0].manifest, 3)
    refused(
        capsys, command(without(data, tmp_path, name), tmp_path), rf".*output.manifest:3: image .*{name}.* not found"
    )


@pytest.mark.parametrize(
    "workers, spoil, expected",
    [
        pytest.param(0, lambda path: path.unlink(), r"image .* cannot be read \(No such file", id="gone"),
        pytest.param(2, lambda path: path.write_bytes(path.read_bytes()[:400]), "cut off", id="cut-off"),
    ],
)
def test_train_image_damaged_during_the_run_is_an_error_with_its_line(data, tmp_path, workers, spoil, expected):
    name = name_of(data[0].manifest, 5)
    training, validation = without(data, tmp_path, "none")

    class Spoiling(HeardProgress):
        def info(self, text):
            super().info(text)
            if text.startswith("epoch 1/"):
                spoil(training.images / name)

    environment = Environment(*training, *validation, tmp_path / "model", tmp_path / "output")
    config = small_config(epochs=3, cache_images=0, num_workers=workers)
    with pytest.raises(DataError, match=f"output.manifest:5: .*{expected}"):
        train(config, environment, Spoiling())
    assert_nothing_dead(tmp_path / "model")
    assert (tmp_path / "model" / "config.json").exists(), "the model of the first epoch"


@pytest.mark.parametrize("side, workers", [("train", 2), ("validation", 0)])
def test_train_image_damaged_during_the_run_is_skipped_on_demand(data, tmp_path, side, workers):
    """Told once, named, and the run comes to its end."""
    (training, validation), files = data, {}
    for name, drawn in (("train", training), ("validation", validation)):
        files[name] = shutil.copytree(drawn.images, tmp_path / name)
    index, manifest = ("train", "validation").index(side), data[("train", "validation").index(side)].manifest
    victim = files[side] / name_of(manifest, 3)

    class Spoiling(HeardProgress):
        def info(self, text):
            super().info(text)
            if text.startswith("epoch 1/"):
                victim.write_bytes(victim.read_bytes()[:300])

    progress = Spoiling()
    sides = [files["train"], training.manifest, files["validation"], validation.manifest]
    environment = Environment(*sides, tmp_path / "model", tmp_path / "output")
    train(small_config(epochs=3, cache_images=0, num_workers=workers, on_bad_data="skip"), environment, progress)
    ending = ("another takes its place", "scores are without it")[index]
    told = [warning for warning in progress.warnings if warning.startswith("left out")]
    assert len(told) == 1 and "output.manifest:3: " in told[0] and told[0].endswith(ending), told
    assert (tmp_path / "output" / "report.html").exists()


def test_train_folder_removed_during_the_run_is_an_error_even_with_skip(data, tmp_path):
    training, validation = data
    images = shutil.copytree(training.images, tmp_path / "images")

    class Removing(HeardProgress):
        def info(self, text):
            super().info(text)
            if text.startswith("epoch 1/"):
                shutil.rmtree(images)

    environment = Environment(images, training.manifest, *validation, tmp_path / "model", tmp_path / "output")
    with pytest.raises(DataError, match="of 12 images cannot be used any more, expected most of them"):
        train(small_config(epochs=3, cache_images=0, on_bad_data="skip"), environment, Removing())
    assert_nothing_dead(tmp_path / "model")
