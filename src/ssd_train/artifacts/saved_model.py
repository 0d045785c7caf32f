"""Save and load models; the folder always holds a complete model, the old one or the new one.

config.json names the weights file and its SHA-256, and has a checksum of its own. New weights get a new file name, and
config.json is replaced last. Nothing is unpickled.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Tuple

from ssd_train import __version__, mxnet_compat
from ssd_train.artifacts.metadata import ExportMetadata, parse_score_threshold
from ssd_train.artifacts.model_config import CONFIG, MODEL_FORMAT, read_model_config
from ssd_train.config import TrainConfig
from ssd_train.data.structures import ClassNames
from ssd_train.errors import ConfigError, SsdTrainError, TrainingDiverged, WeightsError
from ssd_train.model.net import net_of
from ssd_train.model.pretrained import load_strict, state_dict
from ssd_train.storage import atomic

mx = mxnet_compat.mxnet()

HISTORY, WEIGHTS = "history.jsonl", "weights-{}.params"


@dataclass(frozen=True)
class SavedModel:
    """A model's metadata, as stored in its config.json.

    Attributes:
        post_nms: maximum number of detections per image.
        epoch: epoch (from 0) after which the weights were saved.
        scores: validation scores of these weights, as from Scores.to_json().
        versions: versions of the libraries in training.
        weights: path of the weights file.
        sha256: SHA-256 of the weights file.
        category_ids: class name -> category id in the COCO file of the training data; else empty.
        score_threshold: threshold with the best F1 on the validation data; None if no detection is a hit, or the model
            was saved by an older ssd_train.
        labels_sha256: SHA-256 of the "training" and "validation" labels; empty for older models.
    """

    config: TrainConfig
    class_names: ClassNames
    post_nms: int
    epoch: int
    scores: Dict[str, Any] = field(default_factory=dict)
    versions: Dict[str, Any] = field(default_factory=dict)
    weights: str = ""
    sha256: str = ""
    category_ids: Dict[str, int] = field(default_factory=dict)
    score_threshold: Optional[float] = None
    labels_sha256: Dict[str, str] = field(default_factory=dict)

    def save(self, folder: Path, net: Any, history: Sequence[Dict[str, Any]] = ()) -> None:
        """Write the weights of `net`, the history and config.json into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        path, sha256 = _save_weights(folder, net)
        document = {
            "format": MODEL_FORMAT,
            "package": __version__,
            "class_names": list(self.class_names),
            "category_ids": self.category_ids,
            "image_shape": self.config.image_shape,
            "post_nms": self.post_nms,
            "epoch": self.epoch,
            "weights": {"file": path.name, "sha256": sha256},
            "scores": self.scores,
            "score_threshold": self.score_threshold,
            "settings": self.config.to_json(),
            "labels_sha256": self.labels_sha256,
            "versions": self.versions,
        }
        write_history(folder, history)
        atomic.write_json_atomic(folder / CONFIG, atomic.with_sum(document))
        for old in folder.glob(WEIGHTS.format("*")):
            if old.name != path.name:
                old.unlink()

    def build(self, device: Any = None) -> Any:
        """Return the network with the saved weights on `device`, an MXNet context; None: the CPU."""
        net = net_of(self.config, self.class_names)
        load_strict(net, self.weights)
        if device is not None:
            net.collect_params().reset_ctx(device)
        return net

    def describe(self, kind: str, input: str) -> ExportMetadata:
        """Return the metadata of an export; `kind` and `input` as in ExportMetadata."""
        return ExportMetadata(
            self.class_names,
            self.config.image_shape,
            self.config.grayscale,
            input,
            kind,
            self.sha256,
            self.config.to_json(),
            score_threshold=self.score_threshold,
        )

    @classmethod
    def load(cls, folder: Path) -> "SavedModel":
        """Load the metadata in `folder`, and verify the weights' SHA-256.

        Raises:
            WeightsError: the model is missing, damaged, or was written by a newer ssd_train.
        """
        path, document = folder / CONFIG, read_model_config(folder)
        try:
            model = cls(
                config=TrainConfig.from_saved(document["settings"]),
                class_names=ClassNames(tuple(document["class_names"])),
                post_nms=int(document["post_nms"]),
                epoch=int(document["epoch"]),
                scores=document["scores"],
                versions=document["versions"],
                weights=_checked_weights(folder, document["weights"]),
                sha256=document["weights"]["sha256"],
                # older models lack these
                category_ids=dict(document.get("category_ids", {})),
                score_threshold=parse_score_threshold(document.get("score_threshold")),
                labels_sha256=dict(document.get("labels_sha256", {})),
            )
            atomic.check_sum(path, document)
            return model
        except ConfigError as error:
            raise WeightsError(
                f"{path}: written by ssd_train {document.get('package')}: {error}; this is ssd_train {__version__}"
            ) from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise WeightsError(
                f"{path}: found a damaged description ({error!r}), expected all of a model's parts"
            ) from None


def _save_weights(folder: Path, net: Any) -> Tuple[Path, str]:
    temporary = folder / f".{WEIGHTS.format('new')}.tmp"
    save_parameters(temporary, state_dict(net))
    sha256 = atomic.sha256_of(temporary)
    path = folder / WEIGHTS.format(sha256[:12])
    atomic.replace_atomic(temporary, path)
    return path, sha256


def save_parameters(path: Path, parameters: Dict[str, Any]) -> None:
    """Write `parameters` by name in MXNet's format.

    Raises:
        TrainingDiverged: a value is not finite; nothing is written.
    """
    arrays = {name: parameter.list_data()[0].as_in_context(mx.cpu()) for name, parameter in parameters.items()}
    for name, array in arrays.items():
        # the minimum is 1 if all values are finite; computed without a copy to NumPy
        if not mx.nd.contrib.isfinite(array.astype("float32")).min().asscalar():
            raise TrainingDiverged(f"{path}: not written: {name} holds NaN or infinity, expected finite weights")
    save_ndarrays(path, arrays)


def _checked_weights(folder: Path, entry: Dict[str, str]) -> str:
    path = folder / Path(entry["file"]).name
    if not path.is_file():
        raise WeightsError(f"{path}: not found, expected the weights that {CONFIG} names")
    sha256 = atomic.sha256_of(path)
    if sha256 != entry["sha256"]:
        raise WeightsError(
            f"{path}: found SHA-256 {sha256[:12]}…, expected {entry['sha256'][:12]}…: the file is damaged"
        )
    return str(path)


def write_history(folder: Path, history: Sequence[Dict[str, Any]]) -> None:
    """Write one JSON line per epoch."""
    lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in history)
    atomic.write_text_atomic(folder / HISTORY, lines)


def belongs_to_best(file: Path) -> bool:
    """Return whether a file of a model folder belongs to the best model."""
    return file.name in (CONFIG, HISTORY) or file.match(WEIGHTS.format("*"))


def save_ndarrays(path: Path, arrays: Dict[str, Any]) -> None:
    """Write `arrays` to the file `path` and flush it to disk.

    Raises:
        SsdTrainError: writing fails. MXNet alone reports no more than "FileStream.Write incomplete".
    """
    try:
        atomic.write_checked(path, lambda: mx.nd.save(str(path), arrays), sum(4 * a.size for a in arrays.values()))
    except mx.MXNetError as error:
        raise SsdTrainError(f"{path}: cannot be written: {str(error).strip().splitlines()[-1]}") from error
