"""Checks of the command verify: compare training runs on synthetic data.

A check returns figures with limits; it fails if a figure is out of range or NaN.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ssd_train.config import TrainConfig
from ssd_train.data.batches import EvalLoader
from ssd_train.data.dataset import DetectionDataset
from ssd_train.data.drawn import SHAPE_CLASSES, draw_shapes_set, write_drawn_set
from ssd_train.data.labels import read_labelled
from ssd_train.data.records import Detections
from ssd_train.data.transforms import EvalTransform, to_input
from ssd_train.deploy.agreement import MAX_UNMATCHED_FRACTION, Agreement, compare
from ssd_train.deploy.detector import Detector
from ssd_train.deploy.engines.gluon import GluonEngine
from ssd_train.deploy.engines.onnx import OnnxEngine
from ssd_train.deploy.engines.symbol import SymbolEngine
from ssd_train.deploy.export import Proof, export
from ssd_train.deploy.scoring import pictures_of
from ssd_train.environment import Environment
from ssd_train.errors import SsdTrainError
from ssd_train.model.anchors import anchor_layout, make_anchors
from ssd_train.model.net import build_net
from ssd_train.model.pretrained import read_arrays, saved_parameters
from ssd_train.model.targets import TargetEncoder
from ssd_train.progress import Progress
from ssd_train.published import published_folders
from ssd_train.training.checkpoint import LAST, STATE, Checkpoints
from ssd_train.training.circumstances import circumstances
from ssd_train.training.devices import one_context
from ssd_train.training.engine import Evaluator, evaluate
from ssd_train.training.job import prepare
from ssd_train.training.run import Trained, train
from ssd_train.training.saved_model import HISTORY, SavedModel

SIDE, BATCH, EPOCHS = 128, 8, 6
STEPS_AFTER = 3  # steps to resume: few, because on GPUs rounding errors differ between runs and accumulate
VALIDATED = 16  # validation images
SETTINGS = {
    "base_network": "mobilenet0.25",
    "image_shape": SIDE,
    "use_pretrained_model": 0,
    "mini_batch_size": BATCH,
    "epochs": EPOCHS,
    "validation_interval": EPOCHS,
    "learning_rate": 0.002,
    "augmentation": "flip",
    "num_workers": 1,
    "checkpoint_minutes": 1e-6,  # after each step
}
# BatchNorm uses the statistics of each device's part of a batch; with frozen layers, the gradients of the parts add up
# to the gradient of the batch. sgd: its step is proportional to the gradient, so that rounding errors stay small. All
# negatives are used, because the selection of hard ones depends on rounding while all scores are nearly equal.
LINEAR = {
    "negative_mining_ratio": 1000,
    "optimizer": "sgd",
    "freeze_layer_pattern": "gamma|beta",
    "epochs": 2,
    "validation_interval": 2,
}

MOST_LOSS_LEFT = 0.8  # loss of the last epoch / loss of the first
MOST_AMP_APART = 0.25  # relative difference of the losses in 16 and 32 bits
MOST_DEVICES_APART = 0.01  # distance of weights / distance trained: sums in another order
MOST_RESUME_APART_GPU = 0.05  # the same; on the CPU 0
MOST_LOSS_APART = 0.01  # relative difference of validation SmoothL1 on two devices
MOST_SAVED_APART = 1e-4  # the same for one model on one device
LEAST_TENSORS = 100  # in a network
ONNX = ("onnx", "onnxruntime")


class Figure(NamedTuple):
    """Measured value with inclusive limits; None: no limit."""

    name: str
    value: float
    most: Optional[float] = None
    least: Optional[float] = None

    @property
    def is_met(self) -> bool:
        """Return whether the value is finite and within the limits."""
        above = self.least is None or self.value >= self.least
        return bool(math.isfinite(self.value) and above and (self.most is None or self.value <= self.most))

    def to_json(self) -> Dict[str, Any]:
        """Return the entry of the JSON file; a value that is not finite becomes null."""
        return {**self._asdict(), "value": self.value if math.isfinite(self.value) else None, "met": self.is_met}

    def __str__(self) -> str:
        limits = {"at least": self.least, "at most": self.most}
        text = ", ".join(f"{word} {limit:g}" for word, limit in limits.items() if limit is not None)
        return f"{self.name} {self.value:.4g} ({text})"


class NotRun(Exception):
    """Raised if a check does not apply to this machine; the message is the reason."""


class Snapshot:
    """Stop request that never stops, but copies the checkpoints once.

    Args:
        checkpoints: Folder of the checkpoints.
        target: Folder of the copy.
        when: Number of epochs, and of steps in the next epoch, after which to copy.
    """

    def __init__(self, checkpoints: Path, target: Path, when: Tuple[int, int]) -> None:
        self.checkpoints, self.target, self.when = checkpoints, target, when

    def __call__(self) -> bool:
        for newest in published_folders(self.checkpoints / "state")[:1]:
            state = json.loads((newest / STATE).read_text("utf-8"))
            if not self.target.exists() and (state["epoch"], state["tally"]["steps"]) >= self.when:
                shutil.copytree(self.checkpoints, self.target)
        return False


class Checks:
    """Checks of the command verify; most use the model that `training` trains.

    Args:
        folder: Folder for all files.
        devices: Names of devices, such as gpu:0; the first two are used.
        pictures: Number of training images.
    """

    def __init__(self, folder: Path, devices: Sequence[str], pictures: int) -> None:
        self.folder, self.devices = folder, list(devices[:2])
        self.on_gpu = devices[0].startswith("gpu")
        self.steps = -(-pictures // BATCH)  # per epoch
        sets = {"train": draw_shapes_set(pictures, seed=1), "validation": draw_shapes_set(VALIDATED, seed=2)}
        self.datasets = {
            name: write_drawn_set(folder / name, drawn, SHAPE_CLASSES, name) for name, drawn in sets.items()
        }
        self.inputs = np.stack([to_input(sample.image, SIDE) for sample in sets["validation"]])
        self.model_dir = folder / "training" / "model"

    def training(self) -> List[Figure]:
        """Train on all devices with a checkpoint after each step; the loss must fall."""
        when = divmod(EPOCHS * self.steps - STEPS_AFTER, self.steps)
        snapshot = Snapshot(self.folder / "training" / "checkpoints", self.folder / "snapshot", when)
        self._train("training", self.devices, SETTINGS, snapshot)
        rows = self._history("training")
        return [_loss_left(rows), self._scored_as_saved("training")]

    def restoring(self) -> List[Figure]:
        """Restore a finished run's last checkpoint; the network must have its weights."""
        expected = self._weights("training")
        environment = self._environment(self.folder / "restoring", self.devices)
        shutil.copytree(self.folder / "training" / "checkpoints", self.folder / "restoring" / "checkpoints")
        job = prepare(TrainConfig.from_mapping(SETTINGS), environment, Progress())
        checkpoints = Checkpoints(
            self.folder / "restoring" / "checkpoints", circumstances(job.config, job.learner.devices)
        )
        checkpoints.restore(job.fingerprint, job.learner, environment.model_dir)
        restored = {
            name: parameter.list_data()[0].asnumpy() for name, parameter in saved_parameters(job.learner.net).items()
        }
        differing = sum(not np.array_equal(restored[name], array) for name, array in expected.items())
        return [Figure("tensors", len(restored), least=LEAST_TENSORS), Figure("tensors that differ", differing, most=0)]

    def resuming(self) -> List[Figure]:
        """Repeat the last steps from a checkpoint in an epoch; weights must be equal."""
        end = self._weights("training")
        start = _arrays(published_folders(self.folder / "snapshot" / "state")[0] / LAST)
        shutil.copytree(self.folder / "snapshot", self.folder / "resuming" / "checkpoints")
        self._train("resuming", self.devices)
        apart = _distance(self._weights("resuming"), end) / _distance(start, end)
        return [Figure("difference / distance trained", apart, most=MOST_RESUME_APART_GPU if self.on_gpu else 0.0)]

    def mixed_precision(self) -> List[Figure]:
        """Train with --amp 1, in a subprocess because MXNet cannot disable it again."""
        expected, plain = self._weights("training"), self._history("training")
        folder = self.folder / "amp"
        command = [sys.executable, "-m", "ssd_train", "train", *self._flags(folder), "--amp", "1"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
        if done.returncode:
            raise SsdTrainError((done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1])
        found, rows = self._weights("amp"), self._history("amp")
        apart = rows[-1]["CrossEntropy"] / plain[-1]["CrossEntropy"] - 1
        changed = np.mean([not np.array_equal(found[name], array) for name, array in expected.items()])
        return [
            _loss_left(rows),
            Figure("loss / that of float32 - 1", abs(apart), most=MOST_AMP_APART),
            Figure("share of tensors that differ from float32's", float(changed), least=0.5),
            self._scored_as_saved("amp"),
        ]

    def two_devices(self) -> List[Figure]:
        """Train on one and on two devices; the weights must be nearly equal."""
        if len(self.devices) < 2:
            raise NotRun("found one device, expected two such as gpu:0,gpu:1")
        self._train("one", self.devices[:1], {**LINEAR, "checkpoint_minutes": 0})
        self._train("two", self.devices, {**LINEAR, "checkpoint_minutes": 0})
        start = _first_weights()
        one, two = self._weights("one"), self._weights("two")
        return [
            Figure(
                "difference / distance trained", _distance(one, two) / _distance(start, one), most=MOST_DEVICES_APART
            )
        ]

    def scoring(self) -> List[Figure]:
        """Compare detections on device and CPU, and of `evaluate` and training."""
        loss, detections = self._evaluated("training", self.devices[0])
        cpu_loss, cpu_detections = self._evaluated("training", "cpu")
        detector = Detector(GluonEngine(self.model_dir, self.devices[0]))
        data = read_labelled(*self.datasets["validation"])
        served = [answer.detections for answer in detector.stream(pictures_of(data.labels, data.images))]
        return [
            *_agreement_figures(compare(_rows(cpu_detections), _rows(detections))),
            Figure("SmoothL1 / on the CPU - 1", abs(loss / cpu_loss - 1), most=MOST_LOSS_APART),
            Figure(
                "share of other boxes by evaluate",
                _unmatched_fraction(compare(_rows(detections), _rows(served))),
                most=MAX_UNMATCHED_FRACTION,
            ),
        ]

    def exported_symbol(self) -> List[Figure]:
        """Compare the exported symbol on the device with the model on the CPU."""
        expected = GluonEngine(self.model_dir, "cpu").run(self.inputs)
        return _agreement_figures(compare(expected, SymbolEngine(self.model_dir, self.devices[0]).run(self.inputs)))

    def exported_onnx(self) -> List[Figure]:
        """Compare the ONNX file on the CPU with the model on the device."""
        missing = [name for name in ONNX if not find_spec(name)]
        if missing:
            raise NotRun(f"{' and '.join(missing)} not installed: pip install 'ssd-train[onnx]'")
        path = self.folder / "model.onnx"
        export(self.model_dir, "onnx", path, "pixels", Proof(), Progress())
        expected = GluonEngine(self.model_dir, self.devices[0]).run(self.inputs)
        return _agreement_figures(compare(expected, OnnxEngine(path).run(self.inputs)))

    def _environment(self, folder: Path, devices: Sequence[str]) -> Environment:
        return Environment(
            *self.datasets["train"],
            *self.datasets["validation"],
            *(folder / "model", folder / "output", folder / "checkpoints"),
            devices=",".join(devices),
        )

    def _train(
        self,
        name: str,
        devices: Sequence[str],
        changes: Mapping[str, Any] = SETTINGS,
        should_stop: Any = lambda: False,
    ) -> Trained:
        config = TrainConfig.from_mapping({**SETTINGS, **changes})
        result = train(config, self._environment(self.folder / name, devices), Progress(), should_stop)
        assert isinstance(result, Trained)  # one host
        return result

    def _flags(self, folder: Path) -> List[str]:
        environment = self._environment(folder, self.devices)
        fields = ("train", "labels", "validation", "validation_labels", "model_dir", "output_dir", "checkpoint_dir")
        flags = {**{name: getattr(environment, name) for name in (*fields, "devices")}, **SETTINGS}
        return [part for name, value in flags.items() for part in (f"--{name}", str(value))]

    def _weights(self, name: str) -> Dict[str, np.ndarray]:
        """Return the weights in the newest checkpoint of a run."""
        return _arrays(published_folders(self.folder / name / "checkpoints" / "state")[0] / LAST)

    def _history(self, name: str) -> List[Dict[str, Any]]:
        path = self.folder / name / "model" / HISTORY
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]

    def _evaluated(self, name: str, device: str) -> Tuple[float, List[Detections]]:
        """Evaluate the saved model of a run as in training.

        Returns:
            SmoothL1 and the detections of each image.
        """
        model = SavedModel.load(self.folder / name / "model")
        config, context = model.config, one_context(device)
        data = read_labelled(*self.datasets["validation"])
        layout = anchor_layout(config.base_network, config.image_shape, config.anchor_shares)
        transform = EvalTransform(config.image_shape, TargetEncoder(make_anchors(layout)), config.grayscale)
        loader = EvalLoader(DetectionDataset(data.labels, data.images, config.image_shape), transform, BATCH)
        evaluator = Evaluator(model.build(context), config, context, model.post_nms)
        _, loss, answers = evaluate(evaluator, loader, model.class_names)
        return math.nan if loss is None else loss, [found for _, found in answers]

    def _scored_as_saved(self, name: str) -> Figure:
        """Compare the last validation loss of a run with that of its saved model."""
        loss, _ = self._evaluated(name, self.devices[0])
        apart = abs(self._history(name)[-1]["val_SmoothL1"] / loss - 1)
        return Figure("SmoothL1 of the run / of the saved model - 1", apart, most=MOST_SAVED_APART)


def _arrays(path: Path) -> Dict[str, np.ndarray]:
    return {name: array.asnumpy() for name, array in read_arrays(path).items()}


def _first_weights() -> Dict[str, np.ndarray]:
    """Return the initial weights of the runs."""
    config = TrainConfig.from_mapping(SETTINGS)
    net = build_net(config.base_network, config.image_shape, list(SHAPE_CLASSES), config.seed, config.anchor_shares)
    return {name: parameter.data().asnumpy() for name, parameter in saved_parameters(net).items()}


def _distance(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> float:
    """Return the L2 distance of two sets of weights; NaN for different networks."""
    if first.keys() != second.keys():
        return math.nan
    return math.sqrt(
        sum(float(((array - second[name]).astype(np.float64) ** 2).sum()) for name, array in first.items())
    )


def _loss_left(rows: Sequence[Mapping[str, Any]]) -> Figure:
    left = rows[-1]["CrossEntropy"] / rows[0]["CrossEntropy"]
    return Figure("loss of the last epoch / of the first", left, most=MOST_LOSS_LEFT)


def _rows(detections: Sequence[Detections]) -> np.ndarray:
    """Return detections as network output (N, M, 6), padded with -1."""
    rows = np.full((len(detections), max(len(each.scores) for each in detections), 6), -1.0)
    for row, each in zip(rows, detections):
        row[: len(each.scores)] = np.column_stack([each.class_ids, each.scores, each.boxes])
    return rows


def _unmatched_fraction(agreement: Agreement) -> float:
    return agreement.unmatched / agreement.rows if agreement.rows else math.nan


def _agreement_figures(agreement: Agreement) -> List[Figure]:
    return [
        Figure("boxes", agreement.rows, least=1),
        Figure("share of boxes that differ", _unmatched_fraction(agreement), most=MAX_UNMATCHED_FRACTION),
    ]
