"""Read an archive of the built-in algorithm, and build a detector from it.

An archive holds the training symbol (model_algo_1-symbol.json), which cannot be run as it is because its losses need
labels, the weights (model_algo_1-0000.params), and the job's hyperparameters as strings (hyperparams.json). The network
is that of zhreshold/mxnet-ssd: its input is raw RGB pixels 0..255, and its class scores, box offsets and priors are
nodes with fixed names. The detector adds softmax and MultiBoxDetection to these nodes. mxnet-ssd's deploy.py did the
same by rebuilding the network.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, NamedTuple, Tuple

from ssd_train import mxnet_compat
from ssd_train.artifacts.symbol_check import read_symbol
from ssd_train.artifacts.symbol_format import EXPORT, HYPERPARAMETERS, INPUT
from ssd_train.builtin_algorithm import parse_image_shape
from ssd_train.deploy.symbol import Arrays, SymbolParts
from ssd_train.errors import WeightsError
from ssd_train.model.params_check import check_params_file
from ssd_train.storage import atomic

mx = mxnet_compat.mxnet()

# class scores (N, C + 1, A) before softmax, background first; box offsets (N, 4 A); priors (1, A, 4) xyxy in 0..1
CLASS_SCORES, OFFSETS, PRIORS = "multibox_cls_pred", "multibox_loc_pred", "multibox_anchors"
PROBABILITIES, DETECTION = "cls_prob", "detection"
VARIANCES = (0.1, 0.1, 0.2, 0.2)
SCORE_FLOOR = 0.01  # MultiBoxDetection's default: it drops candidates below
BASE_NETWORKS = ("vgg-16", "resnet-50")
OWN_FILES = ("config.json", EXPORT)  # a folder with one of them was written by train, export or convert
_EXPECTED = "expected an artifact of the built-in algorithm: *-symbol.json, *-0000.params and hyperparams.json"


class NmsRules(NamedTuple):
    """Parameters of NMS.

    Attributes:
        threshold: IoU above which the lower-scored of two boxes is dropped.
        topk: number of candidates of an image, best first, that NMS considers.
        per_class: True: only boxes of the same class suppress each other.
    """

    threshold: float
    topk: int
    per_class: bool


class Files(NamedTuple):
    symbol: Path
    weights: Path
    settings: Path


class Artifact(NamedTuple):
    """Contents of an archive of the built-in algorithm.

    Attributes:
        files: the three files that were read.
        arrays: parameters by name, with the prefix "arg:" or "aux:".
        weights: SHA-256 of the file of weights.
        settings: hyperparams.json, values as strings.
        base_network: one of BASE_NETWORKS.
        num_classes: without background.
        side: of the square input image, in pixels.
    """

    files: Files
    symbol: Any
    arrays: Arrays
    weights: str
    settings: Dict[str, str]
    base_network: str
    num_classes: int
    side: int
    nms_threshold: float
    nms_topk: int

    @property
    def shape(self) -> "Tuple[int, int, int, int]":
        """Return the input shape for one image."""
        return 1, 3, self.side, self.side


def read_artifact(folder: Path) -> Artifact:
    """Read the unpacked archive in `folder`.

    Raises:
        WeightsError: a file is missing, damaged or has invalid values, or `folder` is a model of ssd_train.
    """
    files = _find_files(folder)
    where, settings = files.settings, _read_settings(files.settings)
    base_network = settings.get("base_network", BASE_NETWORKS[0])
    if base_network not in BASE_NETWORKS:
        raise WeightsError(f"{where}: found base_network {base_network!r}, expected {' or '.join(BASE_NETWORKS)}")
    return Artifact(
        files,
        _load(read_symbol, files.symbol),
        _check_arrays(_load(_load_arrays, files.weights), files.weights),
        atomic.sha256_of(files.weights),
        settings,
        base_network,
        num_classes=_integer(settings, "num_classes", "", (1, 10_000), where),
        side=_integer(settings, "image_shape", "300", (64, 10_000), where),
        nms_threshold=_number(settings, "nms_threshold", "0.45", (0, 1), where),
        nms_topk=_integer(settings, "nms_topk", "400", (1, 1_000_000), where),
    )


def make_detector(artifact: Artifact, rules: NmsRules) -> SymbolParts:
    """Build the detector.

    Returns:
        Its symbol, weights and auxiliary states. The output is (N, A, 6): class id, score, x1, y1, x2, y2 in 0..1 of
        the image, best first; id -1: unused.

    Raises:
        WeightsError: the symbol is not of the built-in algorithm, or the weights do not fit it.
    """
    scores, offsets, priors = heads(artifact.symbol, artifact.files.symbol)
    symbol = mx.sym.contrib.MultiBoxDetection(
        mx.sym.SoftmaxActivation(scores, mode="channel", name=PROBABILITIES),
        offsets,
        priors,
        name=DETECTION,
        nms_threshold=rules.threshold,
        nms_topk=rules.topk,
        force_suppress=not rules.per_class,
        variances=VARIANCES,
    )
    _check_classes(scores, artifact)
    return (symbol, *_select_arrays(symbol, artifact))


def heads(symbol: Any, where: "str | Path" = "symbol") -> "Tuple[Any, Any, Any]":
    """Return class scores, box offsets and priors of the algorithm's symbol.

    Args:
        symbol: the symbol.
        where: its file, for error messages.

    Raises:
        WeightsError: the symbol lacks one of them.
    """
    inner = symbol.get_internals()
    missing = [name for name in (CLASS_SCORES, OFFSETS, PRIORS) if f"{name}_output" not in inner.list_outputs()]
    if missing:
        raise WeightsError(f"{where}: found no {', '.join(missing)}, {_EXPECTED}")
    return tuple(inner[f"{name}_output"] for name in (CLASS_SCORES, OFFSETS, PRIORS))


def _find_files(folder: Path) -> Files:
    if not folder.exists():
        raise WeightsError(f"{folder}: not found, {_EXPECTED}")
    if any((folder / name).is_file() for name in OWN_FILES):
        raise WeightsError(f"{folder}: found a model of ssd_train, which needs no conversion, {_EXPECTED}")
    weights = _find_one(folder, "*-[0-9][0-9][0-9][0-9].params")
    return Files(_find_one(folder, "*-symbol.json"), weights, folder / HYPERPARAMETERS)


def _find_one(folder: Path, pattern: str) -> Path:
    paths = sorted(folder.glob(pattern)) if folder.is_dir() else []
    if len(paths) != 1:
        raise WeightsError(f"{folder}: found {len(paths) or 'no'} files {pattern}, {_EXPECTED}")
    return paths[0]


def _load_arrays(path: str) -> Any:
    check_params_file(Path(path))
    return mx.nd.load(path)


def _load(load: Callable[[str], Any], path: Path) -> Any:
    try:
        return load(str(path))
    except WeightsError as error:
        raise WeightsError(f"{error}; {_EXPECTED}") from None
    except (mx.MXNetError, UnicodeDecodeError) as error:  # MXNet's messages may quote bytes that are not UTF-8
        raise WeightsError(f"{path}: {str(error).strip().splitlines()[-1]}, {_EXPECTED}") from None


def _read_settings(path: Path) -> Dict[str, str]:
    try:
        document = json.loads(path.read_text("utf-8"))
        texts = {name: str(value) for name, value in document.items()}
    except FileNotFoundError:
        raise WeightsError(f"{path.parent}: found no {path.name}, {_EXPECTED}") from None
    except (OSError, ValueError, AttributeError) as error:
        raise WeightsError(f"{path}: cannot be read as hyperparameters ({error!r})") from None
    if "image_shape" in texts:
        texts["image_shape"], _ = parse_image_shape(texts["image_shape"])
    return texts


def _number(settings: Mapping[str, str], name: str, default: str, limits: "Tuple[float, float]", where: Path) -> float:
    text = settings.get(name, "").strip() or default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not limits[0] <= value <= limits[1]:
        raise WeightsError(f"{where}: found {name} {text!r}, expected {limits[0]} to {limits[1]}")
    return value


def _integer(settings: Mapping[str, str], name: str, default: str, limits: "Tuple[int, int]", where: Path) -> int:
    value = _number(settings, name, default, limits, where)
    if value != int(value):
        raise WeightsError(f"{where}: found {name} {settings[name]!r}, expected an integer")
    return int(value)


def _check_arrays(arrays: Any, path: Path) -> Arrays:
    """Return `arrays`; raise a WeightsError unless they have names and are finite."""
    if not isinstance(arrays, dict):
        raise WeightsError(f"{path}: found arrays without names, {_EXPECTED}")
    for name, array in arrays.items():
        if not mx.nd.contrib.isfinite(array.astype("float32")).min().asscalar():
            raise WeightsError(f"{path}: {name} holds NaN or infinity, expected finite weights")
    return arrays


def _check_classes(scores: Any, artifact: Artifact) -> None:
    try:
        _, ((_, channels, _),), _ = scores.infer_shape(**{INPUT: artifact.shape})
    except mx.MXNetError as error:
        raise WeightsError(f"{artifact.files.symbol}: {str(error).strip().splitlines()[-1]}, {_EXPECTED}") from None
    if channels != artifact.num_classes + 1:
        raise WeightsError(
            f"{artifact.files.settings}: found num_classes {artifact.num_classes}, "
            f"the symbol has {channels - 1} and background: expected files of one training job"
        )


def _select_arrays(symbol: Any, artifact: Artifact) -> "Tuple[Arrays, Arrays]":
    """Return the weights and auxiliary states of `symbol`, with shapes checked."""
    shapes, _, state_shapes = symbol.infer_shape(**{INPUT: artifact.shape})
    needed = {"arg": zip(symbol.list_arguments(), shapes), "aux": zip(symbol.list_auxiliary_states(), state_shapes)}
    selected: "Tuple[Arrays, Arrays]" = ({}, {})
    for arrays, (kind, shapes_of_kind) in zip(selected, needed.items()):
        for name, shape in shapes_of_kind:
            if name == INPUT:
                continue
            array = artifact.arrays.get(f"{kind}:{name}")
            array_shape = "none" if array is None else array.shape
            if array_shape != shape:
                raise WeightsError(
                    f"{artifact.files.weights}: found {array_shape} for {name}, expected {shape} as in the symbol"
                )
            arrays[name] = array
    return selected
