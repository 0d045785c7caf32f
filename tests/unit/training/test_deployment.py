"""The deployment files that training keeps: compared on the user's own pictures, and a failure that ends no run."""

from __future__ import annotations

import numpy as np
import pytest
from builders import HeardProgress, label_set, memory_images, small_config
from nets import talking_model

from ssd_train import framework
from ssd_train.data.batches import EvalLoader
from ssd_train.data.dataset import DetectionDataset
from ssd_train.data.drawn import draw_shapes_set
from ssd_train.data.transforms import EvalTransform, to_input
from ssd_train.deploy import artifact
from ssd_train.deploy.artifact import is_current
from ssd_train.deploy.symbol_file import make_symbol
from ssd_train.errors import DataError
from ssd_train.training import deployment
from ssd_train.training.deployment import keep_deployable

mx = framework.mxnet()
SIDE, BOX = 128, [20, 20, 60, 60]
IMAGES = [sample.image for sample in draw_shapes_set(8, seed=3)]


def no_targets(boxes, class_ids):
    return np.zeros(1, np.float32), np.zeros((1, 4), np.float32)


def validation(boxes, images=IMAGES):
    labels = label_set(boxes, size_wh=(160, 120))
    dataset = DetectionDataset(labels, memory_images(labels, images[: len(boxes)]), SIDE)
    return EvalLoader(dataset, EvalTransform(SIDE, no_targets), 4)


@pytest.fixture
def folder(tmp_path):
    talking_model(tmp_path / "model", ("cat", "dog"))
    return tmp_path / "model"


def test_files_are_compared_on_validation_pictures_with_objects(folder, monkeypatch):
    asked = []

    class Asked(artifact.GluonEngine):
        def run(self, pictures):
            asked.append(pictures)
            return super().run(pictures)

    monkeypatch.setattr(artifact, "GluonEngine", Asked)
    progress = HeardProgress()
    keep_deployable(folder, validation([[], [BOX], [], [BOX], [BOX], [BOX], [BOX]]), small_config(), progress)
    expected = np.stack([to_input(IMAGES[index], SIDE) for index in (1, 3, 4, 5)])
    assert len(asked) == 1 and progress.warnings == []
    np.testing.assert_array_equal(asked[0], expected)
    assert is_current(folder) and (folder / "code" / "inference.py").is_file()


def test_what_answers_differently_is_told_and_not_published(folder, monkeypatch):
    def wrong(model):
        symbol, weights, states = make_symbol(model)
        return symbol, {name: array * 1.5 for name, array in weights.items()}, states

    monkeypatch.setattr(artifact, "make_symbol", wrong)
    before, progress = sorted(path.name for path in folder.iterdir()), HeardProgress()
    keep_deployable(folder, validation([[BOX]] * 4), small_config(), progress)
    (warning,) = progress.warnings
    assert warning.startswith(f"no deployment files: {folder}: ")
    assert warning.endswith("; the model itself is not affected")
    assert sorted(path.name for path in folder.iterdir()) == before


def test_without_a_picture_to_compare_on_there_is_nothing_to_publish(folder):
    with pytest.raises(DataError, match="none of the images with boxes can be used any more"):
        keep_deployable(folder, validation([[], []]), small_config(), HeardProgress())
    assert not is_current(folder) and deployment.PICTURES > 1
