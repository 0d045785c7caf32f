"""Read a model's config.json, without MXNet."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, Dict, Optional

from ssd_train.errors import WeightsError, check_format
from ssd_train.storage import atomic
from ssd_train.storage.archive import open_model

CONFIG = "config.json"
MODEL_FORMAT = 1
_OUR_KEYS = {"format", "class_names", "weights"}  # they tell our config.json from those of other programs


def read_model_config(folder: Path) -> Dict[str, Any]:
    """Read config.json; its checksum is not verified.

    Raises:
        WeightsError: it is missing, unreadable, or was written by a newer ssd_train.
    """
    path = folder / CONFIG
    document: Dict[str, Any] = _parsed(path)
    _check_format(path, document)
    return document


def find_model_config(model: Path) -> Dict[str, Any]:
    """Return config.json of a model folder or archive; {} if none can be read: an ONNX file needs none."""
    with open_model(model) as folder, contextlib.suppress(WeightsError):
        if (folder / CONFIG).is_file():
            return read_model_config(folder)
    return {}


def weights_digest(folder: Path) -> Optional[str]:
    """Return the SHA-256 of the weights of the model in `folder`, as its config.json states.

    Returns:
        None if there is no config.json, or one of another program.

    Raises:
        WeightsError: config.json is damaged, or was written by a newer ssd_train.
    """
    path = folder / CONFIG
    if not path.is_file():
        return None
    document = _parsed(path)
    if not isinstance(document, dict) or not _OUR_KEYS <= set(document):
        return None
    _check_format(path, document)
    atomic.check_sum(path, document)
    try:
        return str(document["weights"]["sha256"])
    except (KeyError, TypeError) as error:
        raise WeightsError(f"{path}: found a damaged description ({error!r}), expected its weights' SHA-256") from None


def _check_format(path: Path, document: Any) -> None:
    try:
        check_format(path, document, MODEL_FORMAT, WeightsError)
    except (KeyError, TypeError) as error:
        raise WeightsError(f"{path}: cannot be read as a model's description ({error})") from None


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{path.parent}: found no {CONFIG}, expected a model folder written by ssd_train") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read as a model's description ({error})") from None
