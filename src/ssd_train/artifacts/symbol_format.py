"""Read MXNet's deployment files of a model.

SageMaker's MXNet container expects these names:

    model-symbol.json    the network, with NMS and without losses
    model-0000.params    its weights
    model-shapes.json    its input: float32 (N, 3, side, side), RGB, 0..255
    hyperparams.json     the settings as strings, as the built-in algorithm writes them
    model-export.json    metadata (Description), the SHA-256 of each of the files above, and of itself

The names of the weights begin with a digest of the network. So no program can load a symbol with the weights of another
network, such as those that an interrupted copy leaves. Within a run the network does not change; only the file of
weights does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Dict, Optional, Tuple

from ssd_train.artifacts.metadata import ExportMetadata
from ssd_train.artifacts.model_config import weights_digest
from ssd_train.errors import WeightsError
from ssd_train.storage import atomic

SYMBOL, WEIGHTS, SHAPES, HYPERPARAMETERS = (
    "model-symbol.json",
    "model-0000.params",
    "model-shapes.json",
    "hyperparams.json",
)
EXPORT = "model-export.json"
INPUT = "data"
BUILTIN_ARTIFACT = "model_algo_1"  # file name prefix of the built-in algorithm
BUILTIN_SYMBOL, BUILTIN_WEIGHTS = f"{BUILTIN_ARTIFACT}-symbol.json", f"{BUILTIN_ARTIFACT}-0000.params"
KIND = "symbol"  # kind of the deployment files of a trained model
BUILTIN = "builtin"  # kind of the deployment files that `convert` writes
# in the order in which they replace existing ones: weights after their network, metadata on all of them last
FILES = (HYPERPARAMETERS, SHAPES, SYMBOL, WEIGHTS, EXPORT)
_REMEDY = (
    "expected the files that `python -m ssd_train export --format symbol` writes; run it again, with the model folder "
    "or a new one as output"
)


def read_description(folder: Path) -> ExportMetadata:
    """Check the deployment files in `folder`, and return their metadata.

    Raises:
        WeightsError: a file is missing, damaged, or of another model.
    """
    description, checksums = _read(folder)
    for name, expected in checksums.items():
        digest = atomic.sha256_of(folder / name) if (folder / name).is_file() else "no file"
        if digest != expected:
            raise WeightsError(
                f"{folder / name}: found SHA-256 {digest[:12]}, expected {expected[:12]} as in {EXPORT}; {_REMEDY}"
            )
    return description


def owner_of_folder(folder: Path) -> Optional[Tuple[str, str]]:
    """Return which model a folder belongs to.

    Returns:
        The SHA-256 of the weights and the kind of deployment files, from config.json or else from model-export.json;
        None if the folder holds no model.

    Raises:
        WeightsError: that file is damaged, or was written by a newer ssd_train.
    """
    weights = weights_digest(folder)
    if weights is not None:
        return weights, KIND
    if not (folder / EXPORT).is_file():
        return None
    description, _ = _read(folder)
    return description.weights, description.kind


def _read(folder: Path) -> Tuple[ExportMetadata, Dict[str, str]]:
    """Read metadata and checksums from model-export.json, but no other file."""
    path = folder / EXPORT
    try:
        document = json.loads(path.read_text("utf-8"))
        checksums = {name: str(document["files"][name]) for name in FILES if name != EXPORT}
    except FileNotFoundError:
        raise WeightsError(f"{folder}: found no {EXPORT}, {_REMEDY}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: cannot be read ({error!r}), {_REMEDY}") from None
    atomic.check_sum(path, document)
    return ExportMetadata.from_json(document, path), checksums


def is_converted(folder: Path) -> bool:
    """Return True if `folder` holds a converted model of the built-in algorithm."""
    return (folder / EXPORT).is_file() and read_description(folder).kind == BUILTIN
