"""A model as MXNet's own deployment files, under the names that SageMaker's MXNet container looks for.

    model-symbol.json    the network, with suppression and without losses
    model-0000.params    its weights
    model-shapes.json    its input: float32 (N, 3, side, side), RGB, 0..255
    hyperparams.json     the settings, all as text, as the built-in algorithm leaves them
    model-export.json    what all that is (Description), the SHA-256 of each of the files above, and of itself

The names of weights begin with a digest of the network. So a symbol and weights that were not made for one another, as
a copy cut off half-way leaves them, never load together, whoever loads them. Within a run the network stays the same
and only the one file of weights changes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Dict, Optional, Tuple

from ssd_train import storage
from ssd_train.deploy.description import Description
from ssd_train.errors import WeightsError
from ssd_train.training.config_file import weights_in

SYMBOL, WEIGHTS, SHAPES, HYPERPARAMETERS = (
    "model-symbol.json",
    "model-0000.params",
    "model-shapes.json",
    "hyperparams.json",
)
EXPORT = "model-export.json"
INPUT = "data"
BUILTIN_ARTIFACT = "model_algo_1"  # what the built-in algorithm calls its files
KIND = "symbol"  # the kind of export that these files are beside a trained model
BUILTIN = "builtin"  # the kind of export that `convert` makes of them
# in this order they take their places: weights after the network that they are for, and what tells of all, last
FILES = (HYPERPARAMETERS, SHAPES, SYMBOL, WEIGHTS, EXPORT)
_REMEDY = (
    "expected what `python -m ssd_train export --format symbol` writes; it writes them anew from a model folder, there "
    "or into a new one"
)


def read_description(folder: Path) -> Description:
    """What the files in the folder say of themselves, once each has been found to be the one that is meant.

    Raises:
        WeightsError: a file is missing, damaged, or of another model.
    """
    description, sums = _read(folder)
    for name, expected in sums.items():
        found = storage.sha256_of(folder / name) if (folder / name).is_file() else "no file"
        if found != expected:
            raise WeightsError(f"{folder / name}: found SHA-256 {found[:12]}, {EXPORT} says {expected[:12]}; {_REMEDY}")
    return description


def model_of(folder: Path) -> Optional[Tuple[str, str]]:
    """Whose the folder is: the SHA-256 of the weights, and the kind of deployment files that belong there, as
    config.json or else model-export.json says. None: no model's.

    Raises:
        WeightsError: that file is damaged, or of a newer ssd_train.
    """
    weights = weights_in(folder)
    if weights is not None:
        return weights, KIND
    if not (folder / EXPORT).is_file():
        return None
    description, _ = _read(folder)
    return description.weights, description.kind


def _read(folder: Path) -> Tuple[Description, Dict[str, str]]:
    """What model-export.json says, and the sums of the other files, which are not looked at."""
    path = folder / EXPORT
    try:
        document = json.loads(path.read_text("utf-8"))
        sums = {name: str(document["files"][name]) for name in FILES if name != EXPORT}
    except FileNotFoundError:
        raise WeightsError(f"{folder}: found no {EXPORT}, {_REMEDY}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: cannot be read ({error!r}), {_REMEDY}") from None
    storage.check_sum(path, document)
    return Description.from_json(document, path), sums


def is_converted(folder: Path) -> bool:
    """Whether `folder` has what `convert` made of a model of the built-in algorithm."""
    return (folder / EXPORT).is_file() and read_description(folder).kind == BUILTIN
