"""The network that the built-in algorithm leaves in its archive, and the detector that is made of it.

An archive holds the training symbol, whose losses want labels, so that nobody can run it as it is
(model_algo_1-symbol.json), its weights (model_algo_1-0000.params), and the job's hyperparameters, all as text
(hyperparams.json). The network is that of zhreshold/mxnet-ssd: raw RGB pixels 0..255 go in, and its class scores, box
offsets and priors are nodes with fixed names. To those the deployable form adds softmax and MultiBoxDetection, as
mxnet-ssd's deploy.py did by building the network anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, NamedTuple, Tuple

from ssd_train import framework, storage
from ssd_train.builtin import side_of
from ssd_train.deploy.exported import EXPORT, HYPERPARAMETERS, INPUT
from ssd_train.deploy.symbol_file import Arrays
from ssd_train.deploy.symbol_reader import read_symbol
from ssd_train.errors import WeightsError
from ssd_train.model.params_file import check_params_file

mx = framework.mxnet()

# class scores (N, C + 1, A) before softmax, background first; box offsets (N, 4 A); priors (1, A, 4) xyxy in 0..1
CLASS_SCORES, OFFSETS, PRIORS = "multibox_cls_pred", "multibox_loc_pred", "multibox_anchors"
PROBABILITIES, DETECTION = "cls_prob", "detection"
VARIANCES = (0.1, 0.1, 0.2, 0.2)
SCORE_FLOOR = 0.01  # MultiBoxDetection's own: candidates below it are none
BASE_NETWORKS = ("vgg-16", "resnet-50")
OWN_MARKS = ("config.json", EXPORT)  # of what train, export and convert write
_EXPECTED = "expected an artifact of the built-in algorithm: *-symbol.json, *-0000.params and hyperparams.json"


class Rules(NamedTuple):
    """How candidates become boxes.

    threshold       IoU above which the lower of two boxes is dropped
    topk            candidates of an image that enter
    per_class       only boxes of one class drop each other
    """

    threshold: float
    topk: int
    per_class: bool


class Files(NamedTuple):
    """Those of an artifact."""

    symbol: Path
    weights: Path
    settings: Path


class Artifact(NamedTuple):
    """What an archive of the built-in algorithm says.

    files           where the three were read
    settings        hyperparams.json, all as text
    base_network    one of BASE_NETWORKS
    num_classes     without background
    side            of the square picture, pixels
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
        """Of the input for one picture."""
        return 1, 3, self.side, self.side


def read_artifact(folder: Path) -> Artifact:
    """The artifact in `folder`, an archive unpacked.

    Raises:
        WeightsError: a file is missing, damaged, or says what cannot be, or `folder` is a model of ssd_train.
    """
    files = _files(folder)
    where, settings = files.settings, _read_settings(files.settings)
    base_network = settings.get("base_network", BASE_NETWORKS[0])
    if base_network not in BASE_NETWORKS:
        raise WeightsError(f"{where}: found base_network {base_network!r}, expected {' or '.join(BASE_NETWORKS)}")
    return Artifact(
        files,
        _loaded(read_symbol, files.symbol),
        _checked_arrays(_loaded(_arrays, files.weights), files.weights),
        storage.sha256_of(files.weights),
        settings,
        base_network,
        num_classes=_whole_number(settings, "num_classes", "", (1, 10_000), where),
        side=_whole_number(settings, "image_shape", "300", (64, 10_000), where),
        nms_threshold=_number(settings, "nms_threshold", "0.45", (0, 1), where),
        nms_topk=_whole_number(settings, "nms_topk", "400", (1, 1_000_000), where),
    )


def make_detector(artifact: Artifact, rules: Rules) -> "Tuple[Any, Arrays, Arrays]":
    """The detector as a symbol of one input and one output (N, A, 6), its weights and its states: rows of class id,
    score, x1, y1, x2, y2 in 0..1 of the picture, best first, id -1 where a row is unused.

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
    return (symbol, *_chosen_arrays(symbol, artifact))


def heads(symbol: Any, where: "str | Path" = "symbol") -> "Tuple[Any, Any, Any]":
    """Class scores, box offsets and priors of a symbol of the built-in algorithm, for training or for use; `where` it
    was read, for the WeightsError that says what it lacks."""
    inner = symbol.get_internals()
    missing = [name for name in (CLASS_SCORES, OFFSETS, PRIORS) if f"{name}_output" not in inner.list_outputs()]
    if missing:
        raise WeightsError(f"{where}: found no {', '.join(missing)}, {_EXPECTED}")
    return tuple(inner[f"{name}_output"] for name in (CLASS_SCORES, OFFSETS, PRIORS))  # type: ignore[return-value]


def _files(folder: Path) -> Files:
    if not folder.exists():
        raise WeightsError(f"{folder}: not found, {_EXPECTED}")
    if any((folder / name).is_file() for name in OWN_MARKS):
        raise WeightsError(
            f"{folder}: is a model of ssd_train already, which predict, export and serve take as it is, {_EXPECTED}"
        )
    weights = _only(folder, "*-[0-9][0-9][0-9][0-9].params")
    return Files(_only(folder, "*-symbol.json"), weights, folder / HYPERPARAMETERS)


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern)) if folder.is_dir() else []
    if len(found) != 1:
        what = f"{len(found)} files {pattern}" if found else f"no file {pattern}"
        raise WeightsError(f"{folder}: found {what}, {_EXPECTED}")
    return found[0]


def _arrays(path: str) -> Any:
    check_params_file(Path(path))
    return mx.nd.load(path)


def _loaded(load: Callable[[str], Any], path: Path) -> Any:
    try:
        return load(str(path))
    except WeightsError as error:
        raise WeightsError(f"{error}; {_EXPECTED}") from None
    except (mx.MXNetError, UnicodeDecodeError) as error:  # its own messages may quote bytes that are no text
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
        texts["image_shape"], _ = side_of(texts["image_shape"])
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


def _whole_number(settings: Mapping[str, str], name: str, default: str, limits: "Tuple[int, int]", where: Path) -> int:
    value = _number(settings, name, default, limits, where)
    if value != int(value):
        raise WeightsError(f"{where}: found {name} {settings[name]!r}, expected a whole number")
    return int(value)


def _checked_arrays(arrays: Any, path: Path) -> Arrays:
    """By name with arg: or aux: before it; a WeightsError unless all are finite."""
    if not isinstance(arrays, dict):
        raise WeightsError(f"{path}: found arrays without names, {_EXPECTED}")
    for name, array in arrays.items():
        if not mx.nd.contrib.isfinite(array.astype("float32")).min().asscalar():
            raise WeightsError(f"{path}: {name} holds NaN or infinity, expected finite weights")
    return arrays


def _check_classes(scores: Any, artifact: Artifact) -> None:
    try:
        _, ((_, found, _),), _ = scores.infer_shape(**{INPUT: artifact.shape})
    except mx.MXNetError as error:
        raise WeightsError(f"{artifact.files.symbol}: {str(error).strip().splitlines()[-1]}, {_EXPECTED}") from None
    if found != artifact.num_classes + 1:
        raise WeightsError(
            f"{artifact.files.settings}: found num_classes {artifact.num_classes}, "
            f"the symbol has {found - 1} and background: expected files of one training job"
        )


def _chosen_arrays(symbol: Any, artifact: Artifact) -> "Tuple[Arrays, Arrays]":
    """The weights and the states that `symbol` needs, of the right shapes."""
    shapes, _, state_shapes = symbol.infer_shape(**{INPUT: artifact.shape})
    needed = {"arg": zip(symbol.list_arguments(), shapes), "aux": zip(symbol.list_auxiliary_states(), state_shapes)}
    chosen: "Tuple[Arrays, Arrays]" = ({}, {})
    for place, (kind, rows) in zip(chosen, needed.items()):
        for name, shape in rows:
            if name == INPUT:
                continue
            array = artifact.arrays.get(f"{kind}:{name}")
            found = "none" if array is None else array.shape
            if found != shape:
                raise WeightsError(
                    f"{artifact.files.weights}: found {found} for {name}, expected {shape}: files of one training job"
                )
            place[name] = array
    return chosen
