"""The deployment files in a model folder, made of the model there and proven before they are published.

config.json and the weights that it names are the model; the files of exported.py follow from them. They are made out of
sight, from a network of its own read from the disk, run on pictures beside that network, and only then put in their
places, model-export.json last. A kill in between leaves the model as it is, and deployment files that do not fit it or
one another, which every reader notices: they name the SHA-256 of the weights that they were made from and of each
other.
The next `refresh` makes them anew.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any, Iterator, Optional, Tuple

import numpy as np

from ssd_train import storage
from ssd_train.deploy.agreement import Agreement, compare
from ssd_train.deploy.description import Description
from ssd_train.deploy.engines.gluon import GluonEngine
from ssd_train.deploy.engines.symbol import SymbolEngine
from ssd_train.deploy.exported import FILES, INPUT, KIND, model_of, read_description
from ssd_train.deploy.symbol_file import Arrays, make_symbol, write_files
from ssd_train.errors import ConfigError, WeightsError
from ssd_train.training.config_file import CONFIG
from ssd_train.training.saved_model import SavedModel


def is_current(folder: Path) -> bool:
    """Whether the deployment files in a model folder are whole and of the model there."""
    try:
        found = read_description(folder)
    except WeightsError:
        return False
    return (found.kind, found.weights) == (KIND, SavedModel.load(folder).sha256)


def refresh(folder: Path, pictures: np.ndarray) -> Optional[Agreement]:
    """Make the deployment files of the model in `folder` where they are not there or of another, and compare what they
    say of `pictures`, uint8 (B, side, side, 3), with what the model says. None where nothing was to be done.

    Raises:
        SsdTrainError: they answer differently; nothing was changed.
    """
    return None if is_current(folder) else publish_symbol(folder, folder, pictures)


def publish_symbol(folder: Path, target: Path, pictures: np.ndarray) -> Agreement:
    """Put the deployment files of the model in `folder` into the folder `target`, which may be the same."""
    model = SavedModel.load(folder)
    with prepared_files(describe(model, KIND), target, make_symbol(model)) as prepared:
        trained, exported = GluonEngine(folder, "cpu"), SymbolEngine(prepared, "cpu")
        agreement = compare(
            trained.run(pictures), exported.run(pictures), lambda index: trained.candidates(pictures[index])
        )
        agreement.require(f"{target}: the exported network")
    return agreement


def describe(model: SavedModel, kind: str) -> Description:
    """What the deployment files of `model` say of themselves."""
    return Description.of(model.config, model.class_names, model.sha256, kind, INPUT)


def check_target(target: Path, description: Description) -> None:
    """See that deployment files that `description` tells of may go into the folder `target`: what is there of a model
    may be replaced by what was made of the same weights in the same way, which whoever serves that folder expects.

    Raises:
        ConfigError: it is a file, or the folder of another model or program.
        WeightsError: what the model there says of itself is damaged.
    """
    if target.exists() and not target.is_dir():
        raise ConfigError(f"output: found {target}, a file, expected a folder")
    found = model_of(target)
    if found != (description.weights, description.kind) and (found or (target / CONFIG).exists()):
        raise ConfigError(f"output: found {target}, a model's own folder, expected another, new or empty")


def check_beside(folder: Path, weights: str) -> None:
    """See that a file made of `weights`, a SHA-256, may go into `folder`, as `check_target`: any form of the same model
    may be there, too."""
    found = model_of(folder)
    if found is not None and found[0] != weights:
        raise ConfigError(f"output: found {folder}, another model's own folder, expected another, new or empty")


@contextlib.contextmanager
def prepared_files(description: Description, target: Path, parts: "Tuple[Any, Arrays, Arrays]") -> Iterator[Path]:
    """A folder out of sight with the files of FILES, made of a symbol, weights and states; at the end of the block they
    take their places in `target`, see `check_target`, and none of them if it raises."""
    check_target(target, description)
    place = target / ".export"
    prepared = storage.temporary_beside(place)
    with storage.errors_of(place, 0):
        target.mkdir(parents=True, exist_ok=True)
        storage.remove_leftovers(place)
        prepared.mkdir()
    try:
        write_files(prepared, description, parts)
        yield prepared
        for name in FILES:
            storage.move_into_place(prepared / name, target / name)
    finally:
        shutil.rmtree(prepared, ignore_errors=True)
