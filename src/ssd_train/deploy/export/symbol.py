"""Write and verify the deployment files of a model folder.

The model is config.json and the weights that it names; the files of exported.py are derived from it. They are written
to a temporary folder, compared with the model on images, and then moved into place, model-export.json last. If the
process is killed in between, the model is unchanged and the deployment files are inconsistent. Every reader detects
that by checksums: the files name the SHA-256 of the weights that they were made from, and of each other. The next
`refresh` rewrites them.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Iterator, Optional

import numpy as np

from ssd_train import storage
from ssd_train.deploy.agreement import Agreement, compare
from ssd_train.deploy.description import Description
from ssd_train.deploy.engines.gluon import GluonEngine
from ssd_train.deploy.engines.symbol import SymbolEngine
from ssd_train.deploy.exported import FILES, INPUT, KIND, model_of, read_description
from ssd_train.deploy.symbol_file import SymbolParts, make_symbol, write_files
from ssd_train.errors import ConfigError, WeightsError
from ssd_train.training.config_file import CONFIG
from ssd_train.training.saved_model import SavedModel


def is_current(folder: Path) -> bool:
    """Return True if the folder's deployment files are complete and of its model."""
    try:
        description = read_description(folder)
    except WeightsError:
        return False
    return (description.kind, description.weights) == (KIND, SavedModel.load(folder).sha256)


def refresh(folder: Path, images: np.ndarray) -> Optional[Agreement]:
    """Write the deployment files of a model folder unless they are up to date.

    Args:
        folder: the model folder.
        images: uint8 (B, side, side, 3), to compare the exported network with the model on.

    Returns:
        The result of the comparison; None if the files were up to date.

    Raises:
        SsdTrainError: the detections differ; nothing was changed.
    """
    return None if is_current(folder) else publish_symbol(folder, folder, images)


def publish_symbol(folder: Path, target: Path, images: np.ndarray) -> Agreement:
    """Write the deployment files of a model folder to `target`, or to itself."""
    model = SavedModel.load(folder)
    with prepared_files(describe(model, KIND), target, make_symbol(model)) as prepared:
        trained, exported = GluonEngine(folder, "cpu"), SymbolEngine(prepared, "cpu")
        agreement = compare(trained.run(images), exported.run(images), lambda index: trained.candidates(images[index]))
        agreement.require(f"{target}: the exported network")
    return agreement


def describe(model: SavedModel, kind: str) -> Description:
    """Return the description of deployment files of `model`."""
    return Description.of(model.config, model.class_names, model.sha256, kind, INPUT)


def check_target(target: Path, description: Description) -> None:
    """Refuse to overwrite a folder that holds anything but the same export.

    An export of the same weights and kind may be replaced.

    Raises:
        ConfigError: `target` is a file, or the folder of another model or program.
        WeightsError: the description of the model in `target` is damaged.
    """
    if target.exists() and not target.is_dir():
        raise ConfigError(f"output: found {target}, a file, expected a folder")
    owner = model_of(target)
    if owner != (description.weights, description.kind) and (owner or (target / CONFIG).exists()):
        raise ConfigError(f"output: found {target}, a model's own folder, expected another, new or empty")


def check_beside(folder: Path, weights: str) -> None:
    """Raise a ConfigError if `folder` holds a model of other weights.

    `weights` is a SHA-256.
    """
    owner = model_of(folder)
    if owner is not None and owner[0] != weights:
        raise ConfigError(f"output: found {folder}, another model's own folder, expected another, new or empty")


@contextlib.contextmanager
def prepared_files(description: Description, target: Path, parts: SymbolParts) -> Iterator[Path]:
    """Yield a temporary folder with deployment files, then move them to `target`.

    If the block raises, nothing is moved.

    Args:
        description: of the exported network.
        target: the output folder, see `check_target`.
        parts: symbol, weights and auxiliary states.
    """
    check_target(target, description)
    path = target / ".export"
    prepared = storage.temporary_beside(path)
    with storage.errors_of(path, 0):
        target.mkdir(parents=True, exist_ok=True)
        storage.remove_leftovers(path)
        prepared.mkdir()
    try:
        write_files(prepared, description, parts)
        yield prepared
        for name in FILES:
            storage.move_into_place(prepared / name, target / name)
    finally:
        shutil.rmtree(prepared, ignore_errors=True)
