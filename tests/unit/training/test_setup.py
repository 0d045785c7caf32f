"""Tests of building a run: settings and data reach the loaders and the model."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.data import DrawnSet, HeardProgress, label_set, small_config
from helpers.jobs import free_port

from ssd_train import mxnet_compat
from ssd_train.boxes import cxcywh_to_xyxy, iou_matrix
from ssd_train.config import TrainConfig
from ssd_train.data.structures import ClassNames
from ssd_train.data.synthetic import DrawnSample, write_drawn_set
from ssd_train.environment import Environment
from ssd_train.errors import CheckpointError, ConfigError
from ssd_train.model.anchors import anchor_layout, make_anchors
from ssd_train.model.graphs import _Suppress
from ssd_train.model.targets import TargetEncoder, decode
from ssd_train.progress import Progress
from ssd_train.storage.atomic import write_dir_atomic
from ssd_train.training.distributed.communicator import Communicator, ControlGroup, LocalSync, ProcessGroup
from ssd_train.training.distributed.rendezvous import RankInfo
from ssd_train.training.setup import build_setup, class_weights, resolve_amp, resolve_learning_rate, with_candidates

mx = mxnet_compat.mxnet()


def sided_set(folder, count):
    """Pictures that are red on the left and blue on the right, with a box in the middle."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[:, :32, 0] = image[:, 32:, 2] = 255
    samples = [
        DrawnSample(f"{index}", image, np.array([[24, 16, 40, 32]], np.float32), np.array([0]))
        for index in range(count)
    ]
    return DrawnSet(*write_drawn_set(folder, samples, ClassNames(("middle",)), "sides", "png"))


@pytest.mark.parametrize("augmentation", ["strong", "ssd"])
@pytest.mark.parametrize("mirror", [0, 1])
def test_prepare_with_mirror_0_never_mirrors_an_image(tmp_path, augmentation, mirror):
    sides = [*sided_set(tmp_path / "train", 40), *sided_set(tmp_path / "validation", 1)]
    job = build_setup(
        small_config(augmentation=augmentation, mirror=mirror),
        Environment(*sides, tmp_path / "model", tmp_path / "output"),
        Progress(),
    )
    pictures = np.concatenate([batch.images for batch in job.train_loader.epoch(0)]).astype(float)
    redness = pictures[..., 0] - pictures[..., 2]
    columns = np.arange(redness.shape[2])
    red, blue = (((sign * redness > 60) * columns).sum((1, 2)) / (sign * redness > 60).sum((1, 2)) for sign in (1, -1))
    mirrored = np.count_nonzero(red > blue)
    assert len(pictures) == 40
    assert mirrored > 5 if mirror else mirrored == 0


def crowd(side, per_row, size):
    """A picture of `per_row` x `per_row` objects, a little off the centres of a grid."""
    random, step = np.random.RandomState(0), side / per_row
    centres = [((column + 0.5) * step, (row + 0.5) * step) for row in range(per_row) for column in range(per_row)]
    centres = np.array(centres) + random.uniform(-0.2, 0.2, (len(centres), 2)) * (step - size)
    boxes = np.concatenate([centres - size / 2, centres + size / 2], axis=1)
    return label_set([boxes.tolist()], size_wh=(side, side), class_names=("thing",))


def recall_of_perfect_scores(config, labels):
    """Return the fraction of objects that suppression keeps if each anchor predicts its target."""
    anchors = make_anchors(anchor_layout(config.base_network, config.image_shape))
    (record,) = labels.records
    classes, offsets = TargetEncoder(anchors)(record.boxes, record.class_ids)
    logits = 10 * np.eye(2, dtype=np.float32)[classes.astype(int)]
    suppress = _Suppress(1, config.nms_threshold, config.candidates, max(config.post_nms, len(record.boxes)))
    boxes = np.where((classes > 0)[:, None], decode(offsets, anchors), cxcywh_to_xyxy(anchors))
    rows = suppress(mx.nd.array(logits[None]), mx.nd.array(boxes[None])).asnumpy()[0]
    rows = rows[(rows[:, 0] == 0) & (rows[:, 1] > 0.5)]
    return (iou_matrix(record.boxes, rows[:, 2:]) > 0.5).any(axis=1).mean()


@pytest.mark.parametrize(
    "base_network, side, size", [("mobilenet1.0", 512, 51), ("vgg-16", 512, 40), ("vgg-16", 300, 30)]
)
def test_with_candidates_of_64_objects_keeps_all_that_score_perfectly(base_network, side, size):
    labels, progress = crowd(side, 8, size), HeardProgress()
    config = TrainConfig(base_network=base_network, image_shape=side)
    chosen = with_candidates(config, labels, progress)
    assert chosen.nms_topk > 400 and len(progress.lines) == 1
    assert recall_of_perfect_scores(chosen, labels) == 1.0
    assert recall_of_perfect_scores(config, labels) < 0.7  # 400: what is tested would not be needed


@pytest.mark.parametrize(
    "settings, expected",
    [
        pytest.param({"nms_topk": 300}, 300, id="given"),
        pytest.param({"nms_topk": "400"}, 400, id="given-as-the-builtin-has-it"),
        pytest.param({"preset_defaults": "builtin"}, 400, id="builtin"),
    ],
)
def test_with_candidates_given_nms_topk_keeps_it(settings, expected):
    config = TrainConfig.from_mapping({"image_shape": 512, "base_network": "vgg-16", **settings})
    assert with_candidates(config, crowd(512, 8, 40), Progress()).nms_topk == expected


@pytest.mark.parametrize("size_wh", [(40, 30), None], ids=["few-objects", "unknown-size"])
def test_with_candidates_few_objects_takes_the_minimum(size_wh):
    labels = label_set([[[1, 1, 20, 20]], []], size_wh=size_wh)
    assert with_candidates(TrainConfig(), labels, Progress()).nms_topk == 400


@pytest.mark.parametrize(
    "setting, expected",
    [("", ()), ("balanced", (4 / 6, 2.0, 1.0)), ("dog=2.5, cat=0.5", (0.5, 2.5, 1.0)), ("owl=3", (1.0, 1.0, 3.0))],
)
def test_class_weights_of_three_cats_and_a_dog(setting, expected):
    box = [1, 1, 20, 20]
    labels = label_set([[box, box], [], [box, box]], [[0, 0], [], [0, 1]], class_names=("cat", "dog", "owl"))
    weights = class_weights(TrainConfig(class_weights=setting), labels, Progress())
    assert weights == pytest.approx(expected)


def test_class_weights_unknown_class_is_refused():
    with pytest.raises(ConfigError, match="'cow'.*cat, dog"):
        class_weights(TrainConfig(class_weights="cow=2"), label_set([[[1, 1, 20, 20]]]), Progress())


def test_build_setup_class_weights_change_the_gradient_and_not_the_evaluation(tmp_path):
    sides = [*sided_set(tmp_path / "train", 4), *sided_set(tmp_path / "validation", 2)]
    losses = {}
    for setting in ("", "middle=4"):
        environment = Environment(*sides, tmp_path / "model", tmp_path / "output")
        setup = build_setup(small_config(class_weights=setting), environment, Progress())
        losses[setting] = [
            *setup.train_step.step(next(setup.train_loader.epoch(0)), 1e-9),
            *setup.evaluator.predict(next(iter(setup.validation_loader)))[1],
        ]
    assert losses["middle=4"][0] > 1.5 * losses[""][0]
    assert losses["middle=4"][1:] == pytest.approx(losses[""][1:], rel=1e-3)


@pytest.mark.parametrize("devices, size", [("cpu", 6), ("cpu:1,cpu:2", 3), ("cpu:1,cpu:2,cpu:3,cpu:4", 2)])
def test_build_setup_evaluates_in_batches_of_a_devices_part(tmp_path, devices, size):
    sides = [*sided_set(tmp_path / "train", 8), *sided_set(tmp_path / "validation", 8)]
    environment = Environment(*sides, tmp_path / "model", tmp_path / "output", devices=devices)
    setup = build_setup(small_config(mini_batch_size=6), environment, Progress())
    assert [len(batch) for batch in setup.validation_loader][0] == size


GPU = SimpleNamespace(device_type="gpu")


@pytest.mark.parametrize(
    "device, native, expected", [(mx.cpu(), True, True), (mx.cpu(), False, False), (GPU, True, False)]
)
@pytest.mark.parametrize("network, faster", [("mobilenet1.0", True), ("mobilenet0.25", False)])
@pytest.mark.parametrize("amp", ["auto", 0, 1])
def test_resolve_amp_is_on_where_bfloat16_is_native_and_faster(
    monkeypatch, device, native, expected, amp, network, faster
):
    monkeypatch.setattr(mxnet_compat, "has_native_bfloat16", lambda: native)
    config = resolve_amp(small_config(amp=amp, base_network=network), device, None, Communicator())
    assert config.amp is (expected and faster if amp == "auto" else bool(amp))


@pytest.fixture
def checkpoint_of(tmp_path):
    """`checkpoint_of(value, name)` is a checkpoint folder of a run with this value of a setting, amp by default."""

    def write(value, name="amp"):
        state = json.dumps({"format": 1, "fingerprint": {f"setting {name}": value}})
        write_dir_atomic(tmp_path / "state", lambda folder: (folder / "state.json").write_text(state), keep=0)
        return tmp_path

    return write


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("device, native", [(GPU, False), (mx.cpu(), True)], ids=["gpu", "native-cpu"])
def test_resolve_amp_auto_is_as_the_run_that_is_resumed(monkeypatch, checkpoint_of, device, native, kept):
    monkeypatch.setattr(mxnet_compat, "has_native_bfloat16", lambda: native)
    for network in ("mobilenet1.0", "mobilenet0.25"):
        config = small_config(amp="auto", base_network=network)
        assert resolve_amp(config, device, checkpoint_of(kept), Communicator()).amp is kept


def test_resolve_amp_auto_of_a_run_with_amp_on_a_cpu_without_bfloat16_is_an_error(monkeypatch, checkpoint_of):
    monkeypatch.setattr(mxnet_compat, "has_native_bfloat16", lambda: False)
    with pytest.raises(CheckpointError, match="--amp 1"):
        resolve_amp(small_config(amp="auto"), mx.cpu(), checkpoint_of(True), Communicator())


@pytest.mark.parametrize(
    "settings, weights, expected",
    [
        ({"use_pretrained_model": 0}, None, 0.003),
        ({"use_pretrained_model": 1}, None, 0.001),
        # SageMaker's channel "model" comes with the built-in algorithm's default of use_pretrained_model, 0
        ({"use_pretrained_model": 0}, "model.tar.gz", 0.001),
        ({"use_pretrained_model": 0, "optimizer": "sgd"}, None, 0.001),
        ({"use_pretrained_model": 0, "base_network": "vgg-16"}, None, 0.001),
        ({"use_pretrained_model": 0, "base_network": "resnet-50"}, None, 0.001),
        ({"use_pretrained_model": 0, "learning_rate": 0.0005}, None, 0.0005),
    ],
)
def test_resolve_learning_rate_is_higher_for_random_weights(tmp_path, settings, weights, expected):
    config = TrainConfig(**settings)
    environment = Environment(tmp_path, pretrained=weights and Path(weights))
    assert resolve_learning_rate(config, environment, Communicator()).learning_rate == expected


@pytest.mark.parametrize("given, expected", [("auto", 0.001), (0.01, 0.01)])
def test_resolve_learning_rate_auto_is_as_the_run_that_is_resumed(tmp_path, checkpoint_of, given, expected):
    environment = Environment(tmp_path, checkpoint_dir=checkpoint_of(0.001, "learning_rate"))
    config = TrainConfig(use_pretrained_model=0, learning_rate=given)
    assert resolve_learning_rate(config, environment, Communicator()).learning_rate == expected


@pytest.mark.parametrize(
    "flags, enabled, expected",
    [((), "1", False), (["avx512_bf16"], "1", True), (["amx_bf16"], "1", True), (["avx512_bf16"], "0", False)],
)
def test_has_native_bfloat16_requires_onednn_and_the_instructions(monkeypatch, flags, enabled, expected):
    monkeypatch.setattr("ssd_train.resources.cpu_flags", lambda root: frozenset(flags))
    monkeypatch.setenv("MXNET_MKLDNN_ENABLED", enabled)
    assert mxnet_compat.has_native_bfloat16() == (expected and mx.runtime.Features().is_enabled("MKLDNN"))


@pytest.mark.parametrize(
    "native, amp, expected",
    [
        ((True, True), ("auto", "auto"), (True, True)),
        ((True, False), ("auto", "auto"), (False, False)),
        ((False, True), ("auto", "auto"), (False, False)),
        ((True, False), (1, "auto"), (True, False)),  # refused as other settings that differ
        ((False, False), (1, 1), (True, True)),
    ],
)
def test_resolve_amp_of_two_hosts_is_on_where_bfloat16_is_native_on_both(monkeypatch, native, amp, expected):
    own = threading.local()
    monkeypatch.setattr(mxnet_compat, "has_native_bfloat16", lambda: own.native)
    names, port = ("algo-1", "algo-2"), free_port()

    def resolve(rank):
        own.native = native[rank]
        peers = ControlGroup(RankInfo(rank, len(names), names, "127.0.0.1", port), 30)
        with ProcessGroup(peers, LocalSync()) as cluster:
            return resolve_amp(small_config(amp=amp[rank], base_network="mobilenet1.0"), mx.cpu(), None, cluster).amp

    with ThreadPoolExecutor(len(names)) as pool:
        assert tuple(pool.map(resolve, range(len(names)))) == expected
