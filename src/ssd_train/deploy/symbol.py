"""Write a trained model as MXNet's deployment files (see artifacts/symbol_format.py)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Tuple

import numpy as np

from ssd_train import mxnet_compat
from ssd_train.artifacts.metadata import ExportMetadata
from ssd_train.artifacts.model_config import CONFIG
from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.artifacts.symbol_check import read_symbol
from ssd_train.artifacts.symbol_format import (
    BUILTIN_SYMBOL,
    BUILTIN_WEIGHTS,
    EXPORT,
    FILES,
    HYPERPARAMETERS,
    INPUT,
    KIND,
    SHAPES,
    SYMBOL,
    WEIGHTS,
    owner_of_folder,
    read_description,
)
from ssd_train.deploy.gluon_backend import GluonEngine
from ssd_train.deploy.parity import Agreement, compare
from ssd_train.deploy.symbol_backend import SymbolEngine
from ssd_train.errors import ConfigError, WeightsError
from ssd_train.model.graphs import DetectGraph
from ssd_train.progress import Progress
from ssd_train.storage import atomic
from ssd_train.storage.lock import exclusive_lock

mx = mxnet_compat.mxnet()

Arrays = Dict[str, Any]  # by name
SymbolParts = Tuple[Any, Arrays, Arrays]  # symbol, weights, auxiliary states


def make_symbol(model: SavedModel) -> SymbolParts:
    """Build the detector's symbol, weights and auxiliary states by name.

    The symbol has one input and one output. The same model always gives the same names.
    """
    config = model.config
    with mx.name.NameManager():  # names are numbered from 0
        net = model.build()
        graph = DetectGraph(net, config.nms_threshold, config.candidates, model.post_nms, config.box_voting)
        text = _for_inference(graph(mx.sym.var(INPUT)).tojson())
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    symbol = mx.sym.load_json(text.replace('"name": "ssd0_', f'"name": "ssd{digest}_'))
    arrays = {re.sub("^ssd0_", f"ssd{digest}_", name): p.data() for name, p in graph.collect_params().items()}
    weights, states = ({name: arrays[name] for name in names} for names in _variables(symbol))
    return symbol, weights, states


def _variables(symbol: Any) -> "Tuple[list[str], list[str]]":
    return [name for name in symbol.list_arguments() if name != INPUT], symbol.list_auxiliary_states()


def _for_inference(text: str) -> str:
    """Change a symbol's input to float32 (B, 3, S, S), drop training attributes.

    These are initial values (with memory addresses of Python objects) and multipliers of the learning rate.
    """
    document = json.loads(text)
    for node in document["nodes"]:
        if node["op"] == "_image_to_tensor":
            node.update(op="_div_scalar", attrs={"scalar": "255"})
        attributes = node.get("attrs", {})
        # keep shapes: those of the anchors cannot be inferred from the input's
        node["attrs"] = {k: v for k, v in attributes.items() if not k.startswith("__") or k == "__shape__"}
    return json.dumps(document, indent=1)


def write_files(folder: Path, description: ExportMetadata, parts: SymbolParts) -> None:
    """Write FILES; `parts` are symbol, weights and auxiliary states."""
    symbol, weights, states = parts
    symbol.save(str(folder / SYMBOL))
    named = {**{f"arg:{k}": v for k, v in weights.items()}, **{f"aux:{k}": v for k, v in states.items()}}
    needed = sum(4 * array.size for array in named.values())
    atomic.write_checked(folder / WEIGHTS, lambda: mx.nd.save(str(folder / WEIGHTS), named), needed)
    shapes = [{"name": INPUT, "shape": [1, 3, description.side, description.side]}]
    atomic.write_json_atomic(folder / SHAPES, shapes)
    settings = {name: str(value) for name, value in description.settings.items()}
    atomic.write_json_atomic(folder / HYPERPARAMETERS, settings)
    checksums = {name: atomic.sha256_of(folder / name) for name in FILES if name != EXPORT}
    atomic.write_json_atomic(folder / EXPORT, atomic.with_sum({**description.to_json(), "files": checksums}))


def is_up_to_date(folder: Path) -> bool:
    """Return True if the folder's deployment files are complete and of its model."""
    try:
        description = read_description(folder)
    except WeightsError:
        return False
    return (description.kind, description.weights) == (KIND, SavedModel.load(folder).sha256)


def ensure_exported(folder: Path, images: np.ndarray) -> Optional[Agreement]:
    """Write the deployment files of a model folder unless they are up to date.

    Args:
        folder: the model folder.
        images: uint8 (B, side, side, 3), to compare the exported network with the model on.

    Returns:
        The result of the comparison; None if the files were up to date.

    Raises:
        SsdTrainError: the detections differ; nothing was changed.
    """
    return None if is_up_to_date(folder) else publish_symbol(folder, folder, images)


def publish_symbol(folder: Path, target: Path, images: np.ndarray, overwrite: bool = False) -> Agreement:
    """Write the deployment files of a model folder to `target`, or to itself."""
    model = SavedModel.load(folder)
    with staged_files(model.describe(KIND, INPUT), target, make_symbol(model), overwrite) as prepared:
        trained, exported = GluonEngine(folder, "cpu"), SymbolEngine(prepared, "cpu")
        agreement = compare(trained.run(images), exported.run(images), lambda index: trained.candidates(images[index]))
        agreement.raise_for_mismatch(f"{target}: the exported network")
    return agreement


def write_builtin_names(folder: Path) -> None:
    """Write the deployment files of a model folder under the built-in algorithm's names, too.

    The output is that of its deployable network: rows (N, boxes, 6) with corners in 0..1. hyperparams.json has the same
    name in both.
    """
    side, rows = read_description(folder).side, read_symbol(folder / SYMBOL)
    head, corners = (mx.sym.slice_axis(rows, axis=2, begin=begin, end=end) for begin, end in ((0, 2), (2, 6)))
    symbol = mx.sym.concat(head, corners / side, dim=2, name="detection")
    atomic.write_bytes_atomic(folder / BUILTIN_WEIGHTS, (folder / WEIGHTS).read_bytes())
    atomic.write_text_atomic(folder / BUILTIN_SYMBOL, symbol.tojson())


def check_target(target: Path, description: ExportMetadata, overwrite: bool = False) -> None:
    """Refuse to overwrite a folder that holds anything but the same export.

    An export of the same weights and kind may be replaced; with `overwrite`, any export, but no trained model.

    Raises:
        ConfigError: `target` is a file, or the folder of another model or program.
        WeightsError: the description of the model in `target` is damaged.
    """
    if target.exists() and not target.is_dir():
        raise ConfigError(f"output: found {target}, a file, expected a folder")
    has_model = (target / CONFIG).exists()
    if overwrite and not has_model:
        return
    owner = owner_of_folder(target)
    if owner != (description.weights, description.kind) and (owner or has_model):
        content = "a model's own folder" if has_model or owner is None else f"the {owner[1]} export of another model"
        rest = "" if has_model else ", or --overwrite to replace it"
        raise ConfigError(f"output: found {target}, {content}, expected another folder, new or empty{rest}")


def check_same_model(folder: Path, weights: str) -> None:
    """Raise a ConfigError if `folder` holds a model of other weights.

    `weights` is a SHA-256.
    """
    owner = owner_of_folder(folder)
    if owner is not None and owner[0] != weights:
        raise ConfigError(f"output: found {folder}, another model's own folder, expected another, new or empty")


@contextlib.contextmanager
def staged_files(
    description: ExportMetadata, target: Path, parts: SymbolParts, overwrite: bool = False
) -> Iterator[Path]:
    """Yield a temporary folder with deployment files, then move them to `target`, which is locked meanwhile.

    If the block raises, nothing is moved.

    Args:
        description: of the exported network.
        target: the output folder, see `check_target`.
        parts: symbol, weights and auxiliary states.
        overwrite: an export of other weights may be replaced.
    """
    check_target(target, description, overwrite)
    path = target / ".export"
    prepared = atomic.temp_path_for(path)
    with exclusive_lock(target, Progress(), "output", keep=False):
        with atomic.translate_io_errors(path, 0):
            target.mkdir(parents=True, exist_ok=True)
            atomic.remove_leftovers(path)
            prepared.mkdir()
        try:
            write_files(prepared, description, parts)
            yield prepared
            for name in FILES:
                atomic.replace_atomic(prepared / name, target / name)
        finally:
            shutil.rmtree(prepared, ignore_errors=True)
