"""Deployment files of a model folder: agreement with the model, default handler of SageMaker, kills and damage."""

from __future__ import annotations

import contextlib
import json
import shutil

import numpy as np
import pytest
from helpers.models import CLASSES, drawn_inputs, suppressed, talking_model, undecided_model

from ssd_train import mxnet_compat
from ssd_train.artifacts import symbol_format
from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.artifacts.symbol_format import EXPORT, FILES, INPUT, SHAPES, SYMBOL, WEIGHTS, read_description
from ssd_train.deploy import symbol
from ssd_train.deploy.detector import Detector
from ssd_train.deploy.gluon_backend import GluonEngine
from ssd_train.deploy.parity import compare
from ssd_train.deploy.symbol import ensure_exported, is_up_to_date, make_symbol, publish_symbol, staged_files
from ssd_train.deploy.symbol_backend import SymbolEngine
from ssd_train.errors import SsdTrainError, WeightsError

mx = mxnet_compat.mxnet()
IMAGES = drawn_inputs(4)
OTHER_CLASSES = ("bus", "car")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A model folder with deployment files, and the agreement of the two."""
    folder = tmp_path_factory.mktemp("model")
    talking_model(folder)
    return folder, ensure_exported(folder, IMAGES)


@pytest.fixture
def copied(published, tmp_path):
    return shutil.copytree(published[0], tmp_path / "model")


def by_default_handler(folder, images):
    """Return the rows that the default handler of SageMaker's MXNet container gives.

    default_model_fn of sagemaker_mxnet_serving_container binds the shapes that it reads and sets the weights that it
    finds; its predict_fn returns the one output.
    """
    (entry,) = json.loads((folder / SHAPES).read_text())
    symbol, weights, states = mx.model.load_checkpoint(str(folder / "model"), 0)
    module = mx.mod.Module(symbol, data_names=[entry["name"]], label_names=None)
    module.bind([(entry["name"], entry["shape"])], for_training=False)
    module.set_params(weights, states, allow_missing=True)
    assert len(module.output_names) == 1
    data = mx.nd.array(images.transpose(0, 3, 1, 2).astype(np.float32))
    return module.predict(mx.io.NDArrayIter(data, batch_size=1)).asnumpy()


@pytest.mark.parametrize("change, agree", [({"noise": 1e-6}, True), ({"noise": 1e-6, "shift": 0.5}, False)])
def test_refresh_all_scores_equal_publishes_unless_boxes_differ(tmp_path, monkeypatch, change, agree):
    """Scores are all equal after the first steps; an export sums in another order, as another processor does."""
    undecided_model(tmp_path / "model")
    candidates = [GluonEngine(tmp_path / "model", "cpu").candidates(image) for image in IMAGES]
    rows = np.stack([suppressed(of_image, 400, **change) for of_image in candidates])
    monkeypatch.setattr(SymbolEngine, "run", lambda engine, images: rows)
    with contextlib.nullcontext() if agree else pytest.raises(SsdTrainError, match=str(tmp_path)):
        ensure_exported(tmp_path / "model", IMAGES)
    assert is_up_to_date(tmp_path / "model") == agree


def test_default_handler_on_deployment_files_agrees_with_the_model(published):
    rows = by_default_handler(published[0], IMAGES)
    agreement = compare(GluonEngine(published[0]).run(IMAGES), rows)
    assert agreement.unmatched == 0 and agreement.rows > 50


def test_refresh_new_model_writes_files_and_metadata(published):
    folder = published[0]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*FILES, "config.json", "history.jsonl", json.loads((folder / "config.json").read_text())["weights"]["file"]]
    )
    description = read_description(folder)
    assert (description.class_names.names, description.side, description.kind) == (CLASSES, 128, "symbol")
    assert description.weights == SavedModel.load(folder).sha256
    settings = json.loads((folder / symbol_format.HYPERPARAMETERS).read_text())
    assert settings["image_shape"] == "128" and settings["nms_topk"] == "400" and settings["base_network"]
    assert all(isinstance(value, str) for value in settings.values())


def test_refresh_other_weights_rewrites_weights_and_metadata_only(copied, tmp_path):
    model = SavedModel.load(copied)
    net = model.build()
    for parameter in net.collect_params(".*predictor.*weight").values():
        parameter.set_data(parameter.data() * 0.5)
    model.save(copied, net)
    assert not is_up_to_date(copied)
    before = {name: (copied / name).read_bytes() for name in FILES}
    ensure_exported(copied, IMAGES)
    assert [name for name in FILES if (copied / name).read_bytes() != before[name]] == [WEIGHTS, EXPORT]
    assert is_up_to_date(copied)


@pytest.mark.parametrize("mixed", [SYMBOL, WEIGHTS])
def test_symbol_engine_mixed_networks_raises(copied, tmp_path, mixed):
    talking_model(tmp_path / "other", OTHER_CLASSES)
    ensure_exported(tmp_path / "other", IMAGES)
    shutil.copy(tmp_path / "other" / mixed, copied / mixed)
    with pytest.raises(WeightsError, match=f"{mixed}: found SHA-256"):
        SymbolEngine(copied)
    with pytest.raises(ValueError, match="Find name"):
        by_default_handler(copied, IMAGES[:1])
    assert not is_up_to_date(copied)


def test_detector_load_export_of_other_weights_raises(copied):
    talking_model(copied, OTHER_CLASSES)
    exported_weights, weights = read_description(copied).weights, SavedModel.load(copied).sha256
    with pytest.raises(WeightsError, match=f"^{copied}: .*{exported_weights[:12]}.*{weights[:12]}"):
        Detector.load(copied, engine="symbol")
    assert Detector.load(copied, engine="mxnet").class_names.names == OTHER_CLASSES
    ensure_exported(copied, IMAGES)
    assert Detector.load(copied, engine="symbol").class_names.names == OTHER_CLASSES


def test_publish_symbol_wrong_export_raises_and_changes_nothing(copied, monkeypatch):
    """The export is wrong, as with classes in another order."""

    def swapped(model):
        symbol, weights, states = make_symbol(model)
        for name in weights:
            if "convpredictor0_conv0_bias" in name:
                weights[name] = weights[name] + mx.nd.array(np.arange(len(weights[name])) % 4 == 2) * 9
        return symbol, weights, states

    monkeypatch.setattr(symbol, "make_symbol", swapped)
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    with pytest.raises(SsdTrainError, match=f"^{copied}: "):
        publish_symbol(copied, copied, IMAGES)
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before


def test_prepared_files_killed_leaves_complete_or_detectable_files(published, tmp_path, killed_at):
    old = shutil.copytree(published[0], tmp_path / "old")
    new = shutil.copytree(old, tmp_path / "new")
    model = talking_model(new, OTHER_CLASSES)
    parts = make_symbol(model)
    repaired = set()  # what a kill left: most steps leave the same files, and an export takes seconds
    for step in range(1, 60):
        folder = shutil.copytree(new, tmp_path / str(step))

        def publish(folder=folder):
            with staged_files(model.describe(symbol.KIND, INPUT), folder, parts):
                pass

        died = killed_at(step, publish)
        try:
            names = read_description(folder).class_names.names
        except WeightsError:
            names = None
        assert names in (CLASSES, OTHER_CLASSES, None) and (died or names == OTHER_CLASSES)
        assert SavedModel.load(folder).class_names.names == OTHER_CLASSES
        assert is_up_to_date(folder) == (names == OTHER_CLASSES)
        if not died:
            break
        left = frozenset(
            ".export" if path.name.startswith(".export") else (path.name, path.read_bytes())
            for path in folder.iterdir()
            if path.is_file() or path.name.startswith(".export")
        )
        if names is None and left not in repaired:  # between the first and the last of the five files
            repaired.add(left)
            ensure_exported(folder, IMAGES)
            assert is_up_to_date(folder) and not list(folder.glob(".export*"))
        shutil.rmtree(folder)
    else:
        pytest.fail("60 steps were not enough to publish")
    assert step > 10 and len(repaired) > 1


def test_model_of_flipped_bit_raises(copied):
    """Some bits change nothing, such as those in the name of the checksum."""
    path, good, missed = copied / EXPORT, symbol_format.read_description(copied), 0
    (copied / "config.json").unlink()
    owner, data = symbol_format.owner_of_folder(copied), path.read_bytes()
    assert owner == (good.weights, "symbol")
    for place in range(0, len(data), 3):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 7]) + data[place + 1 :])
        with contextlib.suppress(WeightsError):
            assert symbol_format.owner_of_folder(copied) == owner
            missed += 1
    assert len(data) > 1000 and missed < 10


@pytest.mark.parametrize(
    "damage, place",
    [
        pytest.param(lambda f: (f / EXPORT).unlink(), EXPORT, id="no-description"),
        pytest.param(lambda f: (f / EXPORT).write_text("{"), EXPORT, id="broken-description"),
        pytest.param(lambda f: (f / EXPORT).write_text("[]"), EXPORT, id="other-description"),
        pytest.param(lambda f: (f / SYMBOL).unlink(), SYMBOL, id="no-symbol"),
        pytest.param(
            lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-1]), WEIGHTS, id="cut-off-weights"
        ),
    ],
)
def test_symbol_engine_damaged_files_raises_with_the_file(copied, damage, place):
    damage(copied)
    with pytest.raises(WeightsError, match=f"^{copied}.*{place}"):
        SymbolEngine(copied)
    assert not is_up_to_date(copied)
