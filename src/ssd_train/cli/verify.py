"""The command verify: checks of training and inference on a machine's devices."""

from __future__ import annotations

import argparse
import datetime
import json
import math
import platform
import shutil
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ssd_train import __version__, mxnet_compat
from ssd_train.artifacts.saved_model import HISTORY, SavedModel
from ssd_train.cli.arguments import Parser, add_number, make_progress, program
from ssd_train.cli.train import TrainingResult, train
from ssd_train.config import TrainConfig
from ssd_train.data.dataset import DetectionDataset
from ssd_train.data.labels import load_labels
from ssd_train.data.loaders import EvalLoader
from ssd_train.data.structures import Detections
from ssd_train.data.synthetic import SHAPE_CLASSES, draw_shapes_set, write_drawn_set
from ssd_train.data.transforms import EvalTransform, preprocess
from ssd_train.deploy.detector import Detector
from ssd_train.deploy.evaluate import image_refs
from ssd_train.deploy.export.export import VerificationOptions, export
from ssd_train.deploy.gluon_backend import GluonEngine
from ssd_train.deploy.onnx_backends import OnnxEngine
from ssd_train.deploy.parity import MAX_UNMATCHED_FRACTION, Agreement, compare
from ssd_train.deploy.symbol_backend import SymbolEngine
from ssd_train.devices import one_context
from ssd_train.environment import Environment
from ssd_train.model.anchors import layout_of, make_anchors
from ssd_train.model.net import net_of
from ssd_train.model.pretrained import read_arrays, state_dict
from ssd_train.model.targets import TargetEncoder
from ssd_train.progress import Progress
from ssd_train.storage import atomic
from ssd_train.storage.atomic import finished_dirs
from ssd_train.training.checkpoint import LAST, STATE, Checkpoints, runtime_info
from ssd_train.training.engine import Evaluator, evaluate
from ssd_train.training.setup import build_setup

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
    "amp": 0,
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


class Checks:
    """Checks of the command verify; most use the model that `training` trains.

    Args:
        folder: Folder for all files.
        devices: Names of devices, such as gpu:0; the first two are used.
        images: Number of training images.
    """

    def __init__(self, folder: Path, devices: Sequence[str], images: int) -> None:
        self.folder, self.devices = folder, list(devices[:2])
        self.on_gpu = devices[0].startswith("gpu")
        self.steps = -(-images // BATCH)  # per epoch
        sets = {"train": draw_shapes_set(images, seed=1), "validation": draw_shapes_set(VALIDATED, seed=2)}
        self.datasets = {
            name: write_drawn_set(folder / name, drawn, SHAPE_CLASSES, name) for name, drawn in sets.items()
        }
        self.inputs = np.stack([preprocess(sample.image, SIDE) for sample in sets["validation"]])
        self.model_dir = folder / "training" / "model"

    def training(self) -> List[Figure]:
        """Train on all devices with a checkpoint after each step; the loss must fall."""
        when = divmod(EPOCHS * self.steps - STEPS_AFTER, self.steps)  # epochs, and steps in the next one
        checkpoints, target = self.folder / "training" / "checkpoints", self.folder / "snapshot"

        def copy_once() -> bool:
            """Copy the checkpoints once; never stop the training."""
            for newest in finished_dirs(checkpoints / "state")[:1]:
                state = json.loads((newest / STATE).read_text("utf-8"))
                if not target.exists() and (state["epoch"], state["tally"]["steps"]) >= when:
                    shutil.copytree(checkpoints, target)
            return False

        self._train("training", self.devices, SETTINGS, copy_once)
        rows = self._history("training")
        return [_loss_left(rows), self._scored_as_saved("training")]

    def restoring(self) -> List[Figure]:
        """Restore a finished run's last checkpoint; the network must have its weights."""
        expected = self._weights("training")
        environment = self._environment(self.folder / "restoring", self.devices)
        shutil.copytree(self.folder / "training" / "checkpoints", self.folder / "restoring" / "checkpoints")
        setup = build_setup(TrainConfig.from_mapping(SETTINGS), environment, Progress())
        checkpoints = Checkpoints(
            self.folder / "restoring" / "checkpoints", runtime_info(setup.config, setup.train_step.devices)
        )
        checkpoints.restore(setup.fingerprint, setup.train_step, environment.model_dir)
        restored = {
            name: parameter.list_data()[0].asnumpy() for name, parameter in state_dict(setup.train_step.net).items()
        }
        differing = sum(not np.array_equal(restored[name], array) for name, array in expected.items())
        return [Figure("tensors", len(restored), least=LEAST_TENSORS), Figure("tensors that differ", differing, most=0)]

    def resuming(self) -> List[Figure]:
        """Repeat the last steps from a checkpoint in an epoch; weights must be equal."""
        end = self._weights("training")
        start = _arrays(finished_dirs(self.folder / "snapshot" / "state")[0] / LAST)
        shutil.copytree(self.folder / "snapshot", self.folder / "resuming" / "checkpoints")
        self._train("resuming", self.devices)
        apart = _distance(self._weights("resuming"), end) / _distance(start, end)
        return [Figure("difference / distance trained", apart, most=MOST_RESUME_APART_GPU if self.on_gpu else 0.0)]

    def mixed_precision(self) -> List[Figure]:
        """Train with --amp 1."""
        expected, plain = self._weights("training"), self._history("training")
        self._train("amp", self.devices, {"amp": 1})
        weights, rows = self._weights("amp"), self._history("amp")
        apart = rows[-1]["CrossEntropy"] / plain[-1]["CrossEntropy"] - 1
        changed = np.mean([not np.array_equal(weights[name], array) for name, array in expected.items()])
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
        data = load_labels(*self.datasets["validation"])
        served = [prediction.decoded()[1] for prediction in detector.predict_iter(image_refs(data.labels, data.images))]
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
        export(self.model_dir, "onnx", path, "pixels", VerificationOptions(), Progress())
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
    ) -> TrainingResult:
        config = TrainConfig.from_mapping({**SETTINGS, **changes})
        result = train(config, self._environment(self.folder / name, devices), Progress(), should_stop)
        assert isinstance(result, TrainingResult)  # one host
        return result

    def _weights(self, name: str) -> Dict[str, np.ndarray]:
        """Return the weights in the newest checkpoint of a run."""
        return _arrays(finished_dirs(self.folder / name / "checkpoints" / "state")[0] / LAST)

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
        data = load_labels(*self.datasets["validation"])
        layout = layout_of(config)
        transform = EvalTransform(config.image_shape, TargetEncoder(make_anchors(layout)), config.grayscale)
        loader = EvalLoader(DetectionDataset(data.labels, data.images, config.image_shape), transform, BATCH)
        evaluator = Evaluator(model.build(context), config, context, model.post_nms)
        _, loss, predictions, _ = evaluate(evaluator, loader, model.class_names)
        return math.nan if loss is None else loss, [detections for _, detections in predictions]

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
    return {name: parameter.data().asnumpy() for name, parameter in state_dict(net_of(config, SHAPE_CLASSES)).items()}


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


IMAGES = 64
# in this order: the first one trains the model that the others use
CHECKS = (
    ("training", "training"),
    ("restoring a checkpoint", "restoring"),
    ("resuming from a checkpoint", "resuming"),
    ("mixed precision", "mixed_precision"),
    ("two devices against one", "two_devices"),
    ("scoring", "scoring"),
    ("export: symbol", "exported_symbol"),
    ("export: ONNX", "exported_onnx"),
)


def run(arguments: Sequence[str]) -> int:
    """Run the checks and write the JSON file; returns 1 if a check fails."""
    flags = make_parser().parse_args(list(arguments))
    atomic.require_writable(flags.output.parent)
    progress = make_progress()
    from ssd_train.devices import contexts

    devices = contexts(flags.devices)[:2]
    names = [f"{device.device_type}:{device.device_id}" for device in devices]
    progress.info(f"verifying ssd_train {__version__} on {', '.join(names)}")
    document = {"format": 1, **machine_info(devices)}
    with tempfile.TemporaryDirectory(prefix="ssd-train-verify-") as temporary:
        checks = run_checks(Checks(flags.folder or Path(temporary), names, flags.pictures), progress)
    document["checks"] = checks
    failed = [check["name"] for check in checks if check["result"] == "FAILED"]
    atomic.write_json_atomic(flags.output, document)
    progress.info(f"{len(failed)} of {len(checks)} checks failed; written: {flags.output}")
    return 1 if failed else 0


def run_checks(checks: "Checks", progress: Progress) -> List[Dict[str, Any]]:
    """Run all checks and return their entries in the JSON file; a check that raises an exception fails."""
    entries = []
    for name, method in CHECKS:
        start = time.perf_counter()
        entry: Dict[str, Any] = {"name": name, "result": "ok", "figures": [], "error": None}
        try:
            figures = getattr(checks, method)()
            entry["figures"] = [figure.to_json() for figure in figures]
            entry["result"] = "ok" if figures and all(figure.is_met for figure in figures) else "FAILED"
            text = "; ".join(map(str, figures))
        except NotRun as reason:
            entry.update(result="not run", error=str(reason))
            text = str(reason)
        except Exception as error:  # of any library; the other checks still run
            entry.update(result="FAILED", error=f"{type(error).__name__}: {error}")
            text = f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else ''}"
        entry["seconds"] = round(time.perf_counter() - start, 2)
        progress.info(f"{name}: {entry['result']} ({entry['seconds']:.1f} s): {text}")
        entries.append(entry)
    return entries


def machine_info(devices: Sequence[Any]) -> Dict[str, Any]:
    """Return the description of the machine for the JSON file."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "package": __version__,
        "versions": mxnet_compat.versions(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cpu_threads": mxnet_compat.cpu_threads(),
        "mxnet_features": mxnet_compat.features(),
        "devices": [_described(device) for device in devices],
        "nvidia_smi": _nvidia_smi(),
    }


def _described(device: Any) -> Dict[str, Any]:
    """Return the name of a device, with the compute capability of a GPU."""
    entry: Dict[str, Any] = {"device": str(device)}
    if device.device_type == "gpu":
        entry["compute_capability"] = mxnet_compat.compute_capability(device)
    return entry


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _nvidia_smi() -> List[str]:
    """Return a line with name, driver and memory for each GPU."""
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=index,name,driver_version,memory.total", "--format=csv,noheader"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    return done.stdout.strip().splitlines()


def _new_folder(text: str) -> Path:
    """Parse the path of a new or empty folder; a run would resume from the checkpoints of an old one."""
    path = Path(text)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise argparse.ArgumentTypeError(f"found {text}, which is not empty, expected a new or empty folder")
    return path


def make_parser() -> Parser:
    """Return the parser of verify."""
    parser = Parser(
        prog=program("verify"),
        description="Check training, resuming, mixed precision, several devices, scoring and export on the devices of "
        "this machine with synthetic data. Writes a JSON file to attach to a bug report.",
    )
    parser.add_argument(
        "--devices",
        default="auto",
        help="one or two devices, such as gpu:0 or gpu:0,gpu:1; default: auto (the first two)",
    )
    parser.add_argument(
        "--folder", type=_new_folder, metavar="FOLDER", help="keep the files of the checks; default: they are removed"
    )
    parser.add_argument("--output", type=Path, default=Path("verify.json"), metavar="FILE", help="the JSON file")
    add_number(parser, "--pictures", int, (16, 10_000), IMAGES, "training images")
    return parser
