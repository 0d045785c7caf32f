"""The checks of `verify`: trainings on drawn data, each compared with what has to be equal.

Every check returns figures with their limits, and fails where a figure is outside of them or is NaN.
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
STEPS_AFTER = 3  # of the run that is resumed: few, because on a GPU rounding may differ from run to run and grows
VALIDATED = 16  # pictures
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
# BatchNorm uses the statistics of each device's part of a batch. Frozen layers use fixed ones, and then the gradients
# of the parts add up to that of the batch. sgd: a step is proportional to the gradient, so that rounding stays small.
# All negatives teach: which are the hardest is decided by rounding while all scores are still alike.
LINEAR = {
    "negative_mining_ratio": 1000,
    "optimizer": "sgd",
    "freeze_layer_pattern": "gamma|beta",
    "epochs": 2,
    "validation_interval": 2,
}

MOST_LOSS_LEFT = 0.8  # of the last epoch, as a share of the first's
MOST_AMP_APART = 0.25  # loss in 16 bits, as a share of the loss in 32
MOST_DEVICES_APART = 0.01  # weights, as a share of the distance trained: sums in another order
MOST_RESUME_APART_GPU = 0.05  # the same; on the CPU nothing may differ
MOST_LOSS_APART = 0.01  # SmoothL1 of a validation on two devices
MOST_SAVED_APART = 1e-4  # the same of one net on one device, twice
LEAST_TENSORS = 100  # of a network
ONNX = ("onnx", "onnxruntime")


class Figure(NamedTuple):
    """A figure of a check with its limits, both included; None: no limit on that side."""

    name: str
    value: float
    most: Optional[float] = None
    least: Optional[float] = None

    @property
    def is_met(self) -> bool:
        """Whether the value is a number within the limits."""
        above = self.least is None or self.value >= self.least
        return bool(math.isfinite(self.value) and above and (self.most is None or self.value <= self.most))

    def to_json(self) -> Dict[str, Any]:
        """Return the figure as the JSON file has it, whose value is null where it is no finite number."""
        return {**self._asdict(), "value": self.value if math.isfinite(self.value) else None, "met": self.is_met}

    def __str__(self) -> str:
        limits = {"at least": self.least, "at most": self.most}
        shown = ", ".join(f"{word} {limit:g}" for word, limit in limits.items() if limit is not None)
        return f"{self.name} {self.value:.4g} ({shown})"


class NotRun(Exception):
    """A check that does not apply here; the text says why."""


class Snapshot:
    """Copies a folder of checkpoints once, as soon as its newest was made after `when`: epochs, and steps of the next.
    It is asked between steps, in place of a request to stop."""

    def __init__(self, checkpoints: Path, target: Path, when: Tuple[int, int]) -> None:
        self.checkpoints, self.target, self.when = checkpoints, target, when

    def __call__(self) -> bool:
        for newest in published_folders(self.checkpoints / "state")[:1]:
            state = json.loads((newest / STATE).read_text("utf-8"))
            if not self.target.exists() and (state["epoch"], state["tally"]["steps"]) >= self.when:
                shutil.copytree(self.checkpoints, self.target)
        return False


class Checks:
    """The checks, in a work folder; those after `training` use what it has trained.

    devices     names of the devices, such as gpu:0; the checks use one or two
    pictures    training pictures that are drawn
    """

    def __init__(self, folder: Path, devices: Sequence[str], pictures: int) -> None:
        self.folder, self.devices = folder, list(devices[:2])
        self.on_gpu = devices[0].startswith("gpu")
        self.steps = -(-pictures // BATCH)  # of an epoch
        sets = {"train": draw_shapes_set(pictures, seed=1), "validation": draw_shapes_set(VALIDATED, seed=2)}
        self.places = {name: write_drawn_set(folder / name, drawn, SHAPE_CLASSES, name) for name, drawn in sets.items()}
        self.inputs = np.stack([to_input(sample.image, SIDE) for sample in sets["validation"]])
        self.model_dir = folder / "training" / "model"

    def training(self) -> List[Figure]:
        """The main job on all devices, with a checkpoint after each step."""
        when = divmod(EPOCHS * self.steps - STEPS_AFTER, self.steps)
        snapshot = Snapshot(self.folder / "training" / "checkpoints", self.folder / "snapshot", when)
        self._train("training", self.devices, SETTINGS, snapshot)
        rows = self._history("training")
        return [_loss_left(rows), self._scored_as_saved("training")]

    def restoring(self) -> List[Figure]:
        """The last checkpoint, restored by a job on these devices: its network has the weights that were trained."""
        expected = self._weights("training")
        places = self._environment(self.folder / "restoring", self.devices)
        shutil.copytree(self.folder / "training" / "checkpoints", self.folder / "restoring" / "checkpoints")
        job = prepare(TrainConfig.from_mapping(SETTINGS), places, Progress())
        checkpoints = Checkpoints(
            self.folder / "restoring" / "checkpoints", circumstances(job.config, job.learner.devices)
        )
        checkpoints.restore(job.fingerprint, job.learner, places.model_dir)
        found = {
            name: parameter.list_data()[0].asnumpy() for name, parameter in saved_parameters(job.learner.net).items()
        }
        differing = sum(not np.array_equal(found[name], array) for name, array in expected.items())
        return [Figure("tensors", len(found), least=LEAST_TENSORS), Figure("tensors that differ", differing, most=0)]

    def resuming(self) -> List[Figure]:
        """The last steps made again from a checkpoint inside an epoch: weights and optimizer go on as they were."""
        end = self._weights("training")
        start = _arrays(published_folders(self.folder / "snapshot" / "state")[0] / LAST)
        shutil.copytree(self.folder / "snapshot", self.folder / "resuming" / "checkpoints")
        self._train("resuming", self.devices)
        apart = _distance(self._weights("resuming"), end) / _distance(start, end)
        return [Figure("difference / distance trained", apart, most=MOST_RESUME_APART_GPU if self.on_gpu else 0.0)]

    def mixed_precision(self) -> List[Figure]:
        """The main job with --amp 1, in a process of its own: MXNet cannot switch it off again."""
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
        """Two devices learn what one does."""
        if len(self.devices) < 2:
            raise NotRun("one device named, expected two such as gpu:0,gpu:1")
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
        """The trained model answers on the device as on the CPU, and in `evaluate` as in the evaluation of training."""
        loss, found = self._evaluated("training", self.devices[0])
        plain_loss, plain = self._evaluated("training", "cpu")
        detector = Detector(GluonEngine(self.model_dir, self.devices[0]))
        data = read_labelled(*self.places["validation"])
        served = [answer.detections for answer in detector.stream(pictures_of(data.labels, data.images))]
        return [
            *_agreed(compare(_rows(plain), _rows(found))),
            Figure("SmoothL1 / on the CPU - 1", abs(loss / plain_loss - 1), most=MOST_LOSS_APART),
            Figure(
                "share of other boxes by evaluate",
                _share(compare(_rows(found), _rows(served))),
                most=MAX_UNMATCHED_FRACTION,
            ),
        ]

    def exported_symbol(self) -> List[Figure]:
        """MXNet's deployment files of the trained model answer on the device as the model on the CPU."""
        expected = GluonEngine(self.model_dir, "cpu").run(self.inputs)
        return _agreed(compare(expected, SymbolEngine(self.model_dir, self.devices[0]).run(self.inputs)))

    def exported_onnx(self) -> List[Figure]:
        """The trained model as ONNX file answers on the CPU as the model on the device."""
        missing = [name for name in ONNX if not find_spec(name)]
        if missing:
            raise NotRun(f"{' and '.join(missing)} not installed: pip install 'ssd-train[onnx]'")
        path = self.folder / "model.onnx"
        export(self.model_dir, "onnx", path, "pixels", Proof(), Progress())
        expected = GluonEngine(self.model_dir, self.devices[0]).run(self.inputs)
        return _agreed(compare(expected, OnnxEngine(path).run(self.inputs)))

    def _environment(self, folder: Path, devices: Sequence[str]) -> Environment:
        return Environment(
            *self.places["train"],
            *self.places["validation"],
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
        found = train(config, self._environment(self.folder / name, devices), Progress(), should_stop)
        assert isinstance(found, Trained)  # one host
        return found

    def _flags(self, folder: Path) -> List[str]:
        environment = self._environment(folder, self.devices)
        places = ("train", "labels", "validation", "validation_labels", "model_dir", "output_dir", "checkpoint_dir")
        given = {**{name: getattr(environment, name) for name in (*places, "devices")}, **SETTINGS}
        return [part for name, value in given.items() for part in (f"--{name}", str(value))]

    def _weights(self, name: str) -> Dict[str, np.ndarray]:
        """The last weights of a run, as its newest checkpoint has them."""
        return _arrays(published_folders(self.folder / name / "checkpoints" / "state")[0] / LAST)

    def _history(self, name: str) -> List[Dict[str, Any]]:
        path = self.folder / name / "model" / HISTORY
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]

    def _evaluated(self, name: str, device: str) -> Tuple[float, List[Detections]]:
        """The saved model of a run, evaluated as in training: SmoothL1 and what was found in each picture."""
        model = SavedModel.load(self.folder / name / "model")
        config, context = model.config, one_context(device)
        data = read_labelled(*self.places["validation"])
        layout = anchor_layout(config.base_network, config.image_shape, config.anchor_shares)
        transform = EvalTransform(config.image_shape, TargetEncoder(make_anchors(layout)), config.grayscale)
        loader = EvalLoader(DetectionDataset(data.labels, data.images, config.image_shape), transform, BATCH)
        evaluator = Evaluator(model.build(context), config, context, model.post_nms)
        _, loss, answers = evaluate(evaluator, loader, model.class_names)
        return math.nan if loss is None else loss, [found for _, found in answers]

    def _scored_as_saved(self, name: str) -> Figure:
        """Whether the net that a run has scored last is the one that it has saved."""
        loss, _ = self._evaluated(name, self.devices[0])
        apart = abs(self._history(name)[-1]["val_SmoothL1"] / loss - 1)
        return Figure("SmoothL1 of the run / of the saved model - 1", apart, most=MOST_SAVED_APART)


def _arrays(path: Path) -> Dict[str, np.ndarray]:
    return {name: array.asnumpy() for name, array in read_arrays(path).items()}


def _first_weights() -> Dict[str, np.ndarray]:
    """The weights that the runs begin with."""
    config = TrainConfig.from_mapping(SETTINGS)
    net = build_net(config.base_network, config.image_shape, list(SHAPE_CLASSES), config.seed, config.anchor_shares)
    return {name: parameter.data().asnumpy() for name, parameter in saved_parameters(net).items()}


def _distance(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> float:
    """The L2 norm of the difference of two sets of weights; NaN where they are not of one network."""
    if first.keys() != second.keys():
        return math.nan
    return math.sqrt(
        sum(float(((array - second[name]).astype(np.float64) ** 2).sum()) for name, array in first.items())
    )


def _loss_left(rows: Sequence[Mapping[str, Any]]) -> Figure:
    left = rows[-1]["CrossEntropy"] / rows[0]["CrossEntropy"]
    return Figure("loss of the last epoch / of the first", left, most=MOST_LOSS_LEFT)


def _rows(found: Sequence[Detections]) -> np.ndarray:
    """Detections as rows of a network (N, M, 6), -1 where there are fewer."""
    rows = np.full((len(found), max(len(each.scores) for each in found), 6), -1.0)
    for row, each in zip(rows, found):
        row[: len(each.scores)] = np.column_stack([each.class_ids, each.scores, each.boxes])
    return rows


def _share(found: Agreement) -> float:
    return found.unmatched / found.rows if found.rows else math.nan


def _agreed(found: Agreement) -> List[Figure]:
    return [
        Figure("boxes", found.rows, least=1),
        Figure("share of boxes that differ", _share(found), most=MAX_UNMATCHED_FRACTION),
    ]
