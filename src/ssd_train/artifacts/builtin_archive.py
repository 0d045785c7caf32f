"""Read an archive of the built-in algorithm.

It holds the training symbol (model_algo_1-symbol.json), which cannot be run as it is because its losses need labels,
the weights (model_algo_1-0000.params), and the job's hyperparameters as strings (hyperparams.json).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple

from ssd_train import mxnet_compat
from ssd_train.artifacts.model_config import CONFIG
from ssd_train.artifacts.symbol_check import read_symbol
from ssd_train.artifacts.symbol_format import BUILTIN_ARTIFACT, EXPORT, HYPERPARAMETERS
from ssd_train.builtin_algorithm import parse_image_shape
from ssd_train.errors import WeightsError
from ssd_train.model.pretrained import read_arrays
from ssd_train.storage import atomic

mx = mxnet_compat.mxnet()

VGG, RESNET = "vgg-16", "resnet-50"
BASE_NETWORKS = (VGG, RESNET)
OWN_FILES = (CONFIG, EXPORT)  # a folder with one of them was written by train, export or convert
EXPECTED = "expected an artifact of the built-in algorithm: *-symbol.json, *-0000.params and hyperparams.json"
PRIOR = "_contrib_MultiBoxPrior"
Arrays = Dict[str, Any]  # by name


class Files(NamedTuple):
    symbol: Path
    weights: Path
    settings: Path


class Artifact(NamedTuple):
    """Contents of an archive of the built-in algorithm.

    Attributes:
        files: the three files that were read.
        arrays: parameters by name, without the prefix "arg:" or "aux:".
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
        _load(read_arrays, files.weights),
        atomic.sha256_of(files.weights),
        settings,
        base_network,
        num_classes=_integer(settings, "num_classes", "", (1, 10_000), where),
        side=_integer(settings, "image_shape", "300", (64, 10_000), where),
        nms_threshold=_number(settings, "nms_threshold", "0.45", (0, 1), where),
        nms_topk=_integer(settings, "nms_topk", "400", (1, 1_000_000), where),
    )


def artifact_folder(path: Path) -> Optional[Path]:
    """Return the folder of an unpacked archive that `path` names, the folder itself or a file in it; else None."""
    folder = path.parent if path.is_file() and BUILTIN_ARTIFACT in path.name else path
    if any((folder / name).is_file() for name in OWN_FILES) or not any(folder.glob(f"*{BUILTIN_ARTIFACT}-*")):
        return None
    return folder


def anchor_scales(artifact: Artifact) -> List[float]:
    """Return the anchor scales of the archive's symbol, one more than maps; empty if its priors are of another kind."""
    nodes = json.loads(artifact.symbol.tojson())["nodes"]
    try:
        sizes = [json.loads(f"[{node['attrs']['sizes'].strip('()[]')}]") for node in nodes if node["op"] == PRIOR]
        last, between = sizes[-1]
        return [*(first for first, _ in sizes), between**2 / last]
    except (ValueError, TypeError, KeyError, IndexError, ArithmeticError):
        return []


def _find_files(folder: Path) -> Files:
    if not folder.exists():
        raise WeightsError(f"{folder}: not found, {EXPECTED}")
    if any((folder / name).is_file() for name in OWN_FILES):
        raise WeightsError(f"{folder}: found a model of ssd_train, which needs no conversion, {EXPECTED}")
    weights = _find_one(folder, "*-[0-9][0-9][0-9][0-9].params")
    return Files(_find_one(folder, "*-symbol.json"), weights, folder / HYPERPARAMETERS)


def _find_one(folder: Path, pattern: str) -> Path:
    paths = sorted(folder.glob(pattern)) if folder.is_dir() else []
    if len(paths) != 1:
        raise WeightsError(f"{folder}: found {len(paths) or 'no'} files {pattern}, {EXPECTED}")
    return paths[0]


def _load(load: Callable[[str], Any], path: Path) -> Any:
    try:
        return load(str(path))
    except WeightsError as error:
        raise WeightsError(f"{error}; {EXPECTED}") from None
    except (mx.MXNetError, UnicodeDecodeError) as error:  # MXNet's messages may quote bytes that are not UTF-8
        raise WeightsError(f"{path}: {str(error).strip().splitlines()[-1]}, {EXPECTED}") from None


def _read_settings(path: Path) -> Dict[str, str]:
    try:
        document = json.loads(path.read_text("utf-8"))
        texts = {name: str(value) for name, value in document.items()}
    except FileNotFoundError:
        raise WeightsError(f"{path.parent}: found no {path.name}, {EXPECTED}") from None
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
