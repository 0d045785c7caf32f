"""The deployment files of a model folder: loaded by SageMaker's default handler, as the model says, whole after a
kill."""

from __future__ import annotations

import contextlib
import json
import shutil

import numpy as np
import pytest
from nets import CLASSES, drawn_inputs, suppressed, talking_model, undecided_model

from ssd_train import framework
from ssd_train.deploy import artifact, exported
from ssd_train.deploy.agreement import LEAST_SCORE, compare
from ssd_train.deploy.artifact import describe, is_current, prepared_files, publish_symbol, refresh
from ssd_train.deploy.detector import Detector
from ssd_train.deploy.engines.gluon import GluonEngine
from ssd_train.deploy.engines.symbol import SymbolEngine
from ssd_train.deploy.exported import EXPORT, FILES, SHAPES, SYMBOL, WEIGHTS, read_description
from ssd_train.deploy.symbol_file import make_symbol
from ssd_train.errors import SsdTrainError, WeightsError
from ssd_train.model.graphs import SCORE_FLOOR
from ssd_train.training.saved_model import SavedModel

mx = framework.mxnet()
PICTURES = drawn_inputs(4)
OTHER_CLASSES = ("bus", "car")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A model folder and what was found when its deployment files were compared."""
    folder = tmp_path_factory.mktemp("model")
    talking_model(folder)
    return folder, refresh(folder, PICTURES)


@pytest.fixture
def copied(published, tmp_path):
    return shutil.copytree(published[0], tmp_path / "model")


def by_default_handler(folder, pictures):
    """Rows as SageMaker's MXNet container makes them: default_model_fn of sagemaker_mxnet_serving_container binds the
    shapes it reads, sets what weights there are, and its predict_fn asks for the one output."""
    (entry,) = json.loads((folder / SHAPES).read_text())
    symbol, weights, states = mx.model.load_checkpoint(str(folder / "model"), 0)
    module = mx.mod.Module(symbol, data_names=[entry["name"]], label_names=None)
    module.bind([(entry["name"], entry["shape"])], for_training=False)
    module.set_params(weights, states, allow_missing=True)
    assert len(module.output_names) == 1
    data = mx.nd.array(pictures.transpose(0, 3, 1, 2).astype(np.float32))
    return module.predict(mx.io.NDArrayIter(data, batch_size=1)).asnumpy()


def test_it_answers_as_the_model(published):
    folder, agreement = published
    assert agreement.rows > 50 and agreement.unmatched == 0
    assert agreement.score_difference < 1e-4 and agreement.box_difference < 0.05
    assert is_current(folder) and refresh(folder, PICTURES) is None
    assert LEAST_SCORE == SCORE_FLOOR


@pytest.mark.parametrize("change, agree", [({"noise": 1e-6}, True), ({"noise": 1e-6, "shift": 0.5}, False)])
def test_scores_that_are_all_equal_leave_no_model_without_deployment_files(tmp_path, monkeypatch, change, agree):
    """As after the first steps; the exported network sums in another order, as on another processor."""
    undecided_model(tmp_path / "model")
    entered = [GluonEngine(tmp_path / "model", "cpu").candidates(picture) for picture in PICTURES]
    rows = np.stack([suppressed(candidates, 400, **change) for candidates in entered])
    monkeypatch.setattr(SymbolEngine, "run", lambda engine, pictures: rows)
    with contextlib.nullcontext() if agree else pytest.raises(SsdTrainError, match="answers differently"):
        refresh(tmp_path / "model", PICTURES)
    assert is_current(tmp_path / "model") == agree


def test_any_number_of_pictures_one_after_another(published):
    engine, model = SymbolEngine(published[0]), GluonEngine(published[0])
    for count in (3, 1, 4, 3):
        compare(model.run(PICTURES[:count]), engine.run(PICTURES[:count])).require("symbol")


def test_the_default_handler_loads_it(published):
    found = by_default_handler(published[0], PICTURES)
    agreement = compare(GluonEngine(published[0]).run(PICTURES), found)
    assert agreement.unmatched == 0 and agreement.rows > 50


def test_what_it_says_of_itself(published):
    folder = published[0]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*FILES, "config.json", "history.jsonl", json.loads((folder / "config.json").read_text())["weights"]["file"]]
    )
    found = read_description(folder)
    assert (found.class_names.names, found.side, found.kind) == (CLASSES, 128, "symbol")
    assert found.weights == SavedModel.load(folder).sha256
    settings = json.loads((folder / exported.HYPERPARAMETERS).read_text())
    assert settings["image_shape"] == "128" and settings["nms_topk"] == "400" and settings["base_network"]
    assert all(isinstance(value, str) for value in settings.values())


def test_the_same_model_gives_the_same_files_however_many_networks_were_made_before(copied):
    first = {name: (copied / name).read_bytes() for name in FILES}
    publish_symbol(copied, copied, PICTURES)
    assert {name: (copied / name).read_bytes() for name in FILES} == first
    assert b"0x" not in first[SYMBOL]  # nothing of this process's memory


def test_other_weights_of_the_same_network_change_one_file_beside_its_description(copied, tmp_path):
    model = SavedModel.load(copied)
    net = model.build()
    for parameter in net.collect_params(".*predictor.*weight").values():
        parameter.set_data(parameter.data() * 0.5)
    model.save(copied, net)
    assert not is_current(copied)
    before = {name: (copied / name).read_bytes() for name in FILES}
    refresh(copied, PICTURES)
    assert [name for name in FILES if (copied / name).read_bytes() != before[name]] == [WEIGHTS, EXPORT]
    assert is_current(copied)


@pytest.mark.parametrize("mixed", [SYMBOL, WEIGHTS])
def test_a_symbol_and_weights_of_two_networks_never_load_together(copied, tmp_path, mixed):
    talking_model(tmp_path / "other", OTHER_CLASSES)
    refresh(tmp_path / "other", PICTURES)
    shutil.copy(tmp_path / "other" / mixed, copied / mixed)
    with pytest.raises(WeightsError, match=f"{mixed}: found SHA-256 .* writes them anew from a model folder"):
        SymbolEngine(copied)
    with pytest.raises(ValueError, match="Find name"):
        by_default_handler(copied, PICTURES[:1])
    assert not is_current(copied)


def test_an_export_of_another_model_is_refused_beside_a_model(copied):
    talking_model(copied, OTHER_CLASSES)
    with pytest.raises(
        WeightsError, match="found an export of weights .* beside a model of weights .*: export the model"
    ):
        Detector.load(copied, engine="symbol")
    assert Detector.load(copied, engine="mxnet").class_names.names == OTHER_CLASSES
    refresh(copied, PICTURES)
    assert Detector.load(copied, engine="symbol").class_names.names == OTHER_CLASSES


def test_what_answers_differently_is_not_published(copied, monkeypatch):
    """A wrong export, such as one with classes in another order."""

    def swapped(model):
        symbol, weights, states = make_symbol(model)
        for name in weights:
            if "convpredictor0_conv0_bias" in name:
                weights[name] = weights[name] + mx.nd.array(np.arange(len(weights[name])) % 4 == 2) * 9
        return symbol, weights, states

    monkeypatch.setattr(artifact, "make_symbol", swapped)
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    with pytest.raises(SsdTrainError, match="the exported network answers differently"):
        publish_symbol(copied, copied, PICTURES)
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before


def test_a_kill_at_any_moment_leaves_files_that_are_whole_or_known_not_to_be(published, tmp_path, killed_at):
    old = shutil.copytree(published[0], tmp_path / "old")
    for step in range(1, 60):
        folder = shutil.copytree(old, tmp_path / str(step))
        model = talking_model(folder, OTHER_CLASSES)
        parts = make_symbol(model)

        def publish(model=model, parts=parts, folder=folder):
            with prepared_files(describe(model, artifact.KIND), folder, parts):
                pass

        died = killed_at(step, publish)
        try:
            found = read_description(folder).class_names.names
        except WeightsError:
            found = None
        assert found in (CLASSES, OTHER_CLASSES, None) and (died or found == OTHER_CLASSES)
        assert SavedModel.load(folder).class_names.names == OTHER_CLASSES
        assert is_current(folder) == (found == OTHER_CLASSES)
        if not died:
            break
        if found is None:  # between the first and the last of the five files
            refresh(folder, PICTURES)
            assert is_current(folder) and not list(folder.glob(".export*"))
        shutil.rmtree(folder)
    else:
        pytest.fail("60 steps were not enough to publish")
    assert step > 10


def test_a_flipped_bit_anywhere_in_their_description_is_told(copied):
    """Or changes nothing that it says: there, the name of the sum."""
    path, good, missed = copied / EXPORT, exported.read_description(copied), 0
    (copied / "config.json").unlink()
    owner, data = exported.model_of(copied), path.read_bytes()
    assert owner == (good.weights, "symbol")
    for place in range(0, len(data), 3):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 7]) + data[place + 1 :])
        with contextlib.suppress(WeightsError):
            assert exported.model_of(copied) == owner
            missed += 1
    assert len(data) > 1000 and missed < 10


def test_a_description_without_a_sum_is_taken_as_it_is(copied):
    document = json.loads((copied / EXPORT).read_text())
    for changed in ({**document, "class_names": ["emu"]}, {**document, "class_names": ["emu"], "sha256": None}):
        (copied / EXPORT).write_text(json.dumps(changed))
        assert is_current(copied) == (changed["sha256"] is None)
    assert read_description(copied).class_names.names == ("emu",)


@pytest.mark.parametrize(
    "damage, expected",
    [
        pytest.param(lambda f: (f / EXPORT).unlink(), "found no model-export.json, expected what", id="no-description"),
        pytest.param(
            lambda f: (f / EXPORT).write_text("{"), "model-export.json: cannot be read", id="broken-description"
        ),
        pytest.param(
            lambda f: (f / EXPORT).write_text("[]"), "model-export.json: cannot be read", id="other-description"
        ),
        pytest.param(lambda f: (f / SYMBOL).unlink(), "model-symbol.json: found SHA-256 no file", id="no-symbol"),
        pytest.param(
            lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-1]),
            "model-0000.params: found",
            id="cut-off",
        ),
    ],
)
def test_damage_is_told(copied, damage, expected):
    damage(copied)
    with pytest.raises(WeightsError, match=expected):
        SymbolEngine(copied)
    assert not is_current(copied)
