"""Description: what an exported model says of itself, beside its symbol as JSON or inside its ONNX file as metadata."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, Mapping, Union

import numpy as np

from ssd_train import __version__
from ssd_train.config import TrainConfig
from ssd_train.data.records import ClassNames
from ssd_train.errors import DataError, WeightsError
from ssd_train.model.pixels import PIXEL_MEAN, PIXEL_STD

DESCRIPTION_FORMAT = 1
# name of the network's input -> what it takes
INPUTS = {
    "pixels": "uint8 (N, side, side, 3), RGB",
    "normalised": "float32 (N, 3, side, side), RGB, (value / 255 - mean) / std",
    "data": "float32 (N, 3, side, side), RGB, 0..255",
}
# what corners of boxes are in -> how the network's output is told of
COORDINATES = {
    "pixels": "x1, y1, x2, y2 in pixels of the input",
    "shares": "x1, y1, x2, y2 in 0..1 of the input's side",
}


@dataclass(frozen=True)
class Description:
    """What has to be known of an exported network to use it.

    class_names     what its class ids mean
    side            of the square picture it looks at, which any picture is stretched to, pixels
    grayscale       whether it looks at the brightness of the picture only
    input           name of its input, one of INPUTS
    kind            the format it was exported as
    weights         SHA-256 of the trained weights that it was made from
    settings        of the training, as in config.json
    coordinates     of its boxes, one of COORDINATES
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

    def to_json(self) -> Dict[str, Any]:
        """All of it by name, ready for json.dump, and what a stranger needs beside it."""
        return {
            **asdict(self),
            "format": DESCRIPTION_FORMAT,
            "class_names": list(self.class_names),
            "preprocessing": f"stretched to side x side; {INPUTS[self.input]}",
            "mean": list(PIXEL_MEAN),
            "std": list(PIXEL_STD),
            "output": f"float32 (N, boxes, 6): class id, score, {COORDINATES[self.coordinates]}; id -1: unused",
        }

    def to_texts(self) -> Dict[str, str]:
        """As `to_json`, every value as text: texts as they are, all others as JSON."""
        return {
            name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for name, value in self.to_json().items()
        }

    @classmethod
    def of(cls, config: TrainConfig, class_names: ClassNames, weights: str, kind: str, input: str) -> "Description":
        """That of a network trained as `config` says."""
        return cls(class_names, config.image_shape, config.grayscale, input, kind, weights, config.to_json())

    @classmethod
    def from_json(cls, document: Mapping[str, Any], where: Union[str, Path]) -> "Description":
        """The inverse of `to_json`; a WeightsError names `where` and what is wrong there."""
        try:
            if document["format"] > DESCRIPTION_FORMAT:
                raise WeightsError(
                    f"{where}: found format {document['format']} of ssd_train {document['package']}, "
                    f"expected {DESCRIPTION_FORMAT} or less: use a newer ssd_train"
                )
            found = cls(
                class_names=ClassNames(tuple(document["class_names"])),
                side=int(document["side"]),
                grayscale=bool(document["grayscale"]),
                **{name: str(document[name]) for name in ("input", "kind", "weights", "package")},
                settings=dict(document["settings"]),
                coordinates=str(document.get("coordinates", "pixels")),
            )
        except (KeyError, TypeError, ValueError, DataError) as error:
            raise WeightsError(
                f"{where}: found no description of its classes and input ({error!r}), {_EXPECTED}"
            ) from None
        if found.input not in INPUTS:
            raise WeightsError(f"{where}: found input {found.input!r}, expected one of {', '.join(INPUTS)}")
        if found.coordinates not in COORDINATES:
            raise WeightsError(
                f"{where}: found coordinates {found.coordinates!r}, expected one of {', '.join(COORDINATES)}"
            )
        return found

    @classmethod
    def from_texts(cls, texts: Mapping[str, str], where: Union[str, Path]) -> "Description":
        """The inverse of `to_texts`."""
        return cls.from_json({name: _value(text) for name, text in texts.items()}, where)


_EXPECTED = "expected a model written by `python -m ssd_train export`"


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def as_input(pictures: np.ndarray, name: str) -> np.ndarray:
    """Pictures uint8 (B, S, S, 3), RGB, as the input `name` of INPUTS takes them."""
    if name == "pixels":
        return pictures
    channels_first = np.ascontiguousarray(pictures.transpose(0, 3, 1, 2), dtype=np.float32)
    if name == "data":
        return channels_first
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) * 255 for values in (PIXEL_MEAN, PIXEL_STD))
    return (channels_first - mean) / std
