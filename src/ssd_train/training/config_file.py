"""config.json of a model folder: what it says of the model, read without MXNet and without the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Optional

from ssd_train import storage
from ssd_train.errors import WeightsError

CONFIG = "config.json"
MODEL_FORMAT = 1
_OURS = {"format", "class_names", "weights"}  # what no other program's config.json has


def read_document(folder: Path) -> Dict[str, Any]:
    """What config.json holds, of a format that is known; its sum is not looked at yet.

    Raises:
        WeightsError: there is none, it cannot be read, or a newer ssd_train wrote it.
    """
    path = folder / CONFIG
    return _of_known_format(path, _parsed(path))


def weights_in(folder: Path) -> Optional[str]:
    """SHA-256 of the weights of the model in `folder`, as its config.json says; they are not read. None where no model
    is: without config.json, or with one of another program.

    Raises:
        WeightsError: it is damaged, or a newer ssd_train wrote it.
    """
    path = folder / CONFIG
    if not path.is_file():
        return None
    found = _parsed(path)
    if not isinstance(found, dict) or not _OURS <= set(found):
        return None
    document = _of_known_format(path, found)
    storage.check_sum(path, document)
    try:
        return str(document["weights"]["sha256"])
    except (KeyError, TypeError) as error:
        raise WeightsError(f"{path}: found a damaged description ({error!r}), expected its weights' SHA-256") from None


def _of_known_format(path: Path, document: Any) -> Dict[str, Any]:
    try:
        newer = document["format"] > MODEL_FORMAT
    except (KeyError, TypeError) as error:
        raise WeightsError(f"{path}: cannot be read as a model's description ({error})") from None
    if newer:
        raise WeightsError(
            f"{path}: found format {document['format']} of ssd_train {document.get('package')}, "
            f"expected {MODEL_FORMAT} or less: use a newer ssd_train"
        )
    found: Dict[str, Any] = document
    return found


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{path.parent}: found no {CONFIG}, expected a model folder written by ssd_train") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read as a model's description ({error})") from None
