"""Metadata of an exported model.

It is stored as JSON next to a symbol, or as the metadata of an ONNX file.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Union

import numpy as np

from ssd_train import __version__
from ssd_train.config import TrainConfig
from ssd_train.data.structures import ClassNames
from ssd_train.errors import DataError, WeightsError, check_format
from ssd_train.model.normalization import PIXEL_MEAN, PIXEL_STD

DESCRIPTION_FORMAT = 1
# name of the network's input -> its type, shape and value range
INPUTS = {
    "pixels": "uint8 (N, side, side, 3), RGB",
    "normalised": "float32 (N, 3, side, side), RGB, (value / 255 - mean) / std",
    "data": "float32 (N, 3, side, side), RGB, 0..255",
}
# kind of an export without non-maximum suppression, and its outputs
RAW_KIND, RAW_OUTPUTS = "onnx-raw", ("scores", "boxes")
# unit of box corners -> description of the network's output
COORDINATES = {
    "pixels": "x1, y1, x2, y2 in pixels of the input",
    "shares": "x1, y1, x2, y2 in 0..1 of the input's side",
}


@dataclass(frozen=True)
class ExportMetadata:
    """Metadata of an exported network.

    Attributes:
        class_names: names by class id.
        side: of the square input, in pixels; images are stretched to it.
        grayscale: True: images are converted to grayscale first.
        input: name of the input, one of INPUTS.
        kind: format of the export.
        weights: SHA-256 of the trained weights that it was made from.
        settings: of the training, as in config.json.
        coordinates: unit of box corners, one of COORDINATES.
        package: version of ssd_train that wrote it.
        score_threshold: threshold with the best F1 on the validation data; None: not known.
    """

    class_names: ClassNames
    side: int
    grayscale: bool
    input: str
    kind: str
    weights: str
    settings: Dict[str, Any] = field(default_factory=dict)
    coordinates: str = "pixels"
    package: str = __version__
    score_threshold: Optional[float] = None

    @property
    def nms_threshold(self) -> float:
        """Return the IoU above which non-maximum suppression drops a box."""
        return float(self.settings.get("nms_threshold", TrainConfig.nms_threshold))

    def to_json(self) -> Dict[str, Any]:
        """Return the metadata for json.dump, with notes for other programs."""
        corners = COORDINATES[self.coordinates]
        rows = f"float32 (N, boxes, 6): class id, score, {corners}; id -1: unused"
        raw = f"scores float32 (N, anchors, classes), boxes float32 (N, anchors, 4): {corners}; without NMS"
        return {
            **asdict(self),
            "format": DESCRIPTION_FORMAT,
            "class_names": list(self.class_names),
            "preprocessing": f"stretched to side x side; {INPUTS[self.input]}",
            "mean": list(PIXEL_MEAN),
            "std": list(PIXEL_STD),
            "output": raw if self.kind == RAW_KIND else rows,
        }

    def to_texts(self) -> Dict[str, str]:
        """Return `to_json` with all values as strings: strings unchanged, others as JSON."""
        return {
            name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for name, value in self.to_json().items()
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any], where: Union[str, Path]) -> "ExportMetadata":
        """Invert `to_json`; a WeightsError about invalid values names the source `where`."""
        try:
            check_format(where, document, DESCRIPTION_FORMAT, WeightsError)
            description = cls(
                class_names=ClassNames(tuple(document["class_names"])),
                side=int(document["side"]),
                grayscale=bool(document["grayscale"]),
                **{name: str(document[name]) for name in ("input", "kind", "weights", "package")},
                settings=dict(document["settings"]),
                coordinates=str(document.get("coordinates", "pixels")),
                score_threshold=parse_score_threshold(document.get("score_threshold")),
            )
        except (KeyError, TypeError, ValueError, DataError) as error:
            raise WeightsError(f"{where}: found no metadata on classes and input ({error!r}), {_EXPECTED}") from None
        for name, allowed in (("input", INPUTS), ("coordinates", COORDINATES)):
            value = getattr(description, name)
            if value not in allowed:
                raise WeightsError(f"{where}: found {name} {value!r}, expected one of {', '.join(allowed)}")
        return description

    @classmethod
    def from_texts(cls, texts: Mapping[str, str], where: Union[str, Path]) -> "ExportMetadata":
        """Invert `to_texts`."""
        return cls.from_json({name: _parse(text) for name, text in texts.items()}, where)


_EXPECTED = "expected a model written by `python -m ssd_train export`"


class ExportEngine:
    """Base class of the engines that run an export: the metadata has what detector.Engine asks for."""

    def __init__(self, description: ExportMetadata) -> None:
        self.description = description
        self.class_names, self.side, self.grayscale = description.class_names, description.side, description.grayscale
        self.score_threshold, self.nms_threshold = description.score_threshold, description.nms_threshold


def parse_score_threshold(value: Any) -> Optional[float]:
    """Return a stored score threshold; raises ValueError unless it is None or a number in 0..1."""
    if value is None:
        return None
    if isinstance(value, bool) or not 0 <= float(value) <= 1:
        raise ValueError(f"score_threshold {value!r}")
    return float(value)


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def as_input(images: np.ndarray, name: str) -> np.ndarray:
    """Convert images, uint8 (B, S, S, 3), RGB, to an input `name` of INPUTS."""
    if name == "pixels":
        return images
    channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32)
    if name == "data":
        return channels_first
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) * 255 for values in (PIXEL_MEAN, PIXEL_STD))
    return (channels_first - mean) / std
