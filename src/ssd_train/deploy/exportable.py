"""What can be exported: a model that ssd_train trained, or one of the built-in algorithm that `convert` made usable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, Optional, Tuple

import numpy as np

from ssd_train.deploy.agreement import Agreement, compare
from ssd_train.deploy.artifact import describe, prepared_files, publish_symbol
from ssd_train.deploy.description import Description
from ssd_train.deploy.engines.gluon import GluonEngine
from ssd_train.deploy.engines.symbol import SymbolEngine
from ssd_train.deploy.exported import BUILTIN_ARTIFACT, EXPORT, INPUT, is_converted
from ssd_train.deploy.onnx_builtin import write_builtin_onnx
from ssd_train.deploy.onnx_file import Change, write_onnx
from ssd_train.deploy.symbol_file import Arrays, make_symbol
from ssd_train.errors import WeightsError
from ssd_train.training.saved_model import CONFIG, SavedModel

Parts = Tuple[Any, Arrays, Arrays]


class Trained:
    """A model folder written by ssd_train, run by Gluon."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = SavedModel.load(folder)
        self.side, self.grayscale = self.model.config.image_shape, self.model.config.grayscale

    def engine(self) -> GluonEngine:
        """The model as it is."""
        return GluonEngine(self.folder, "cpu")  # as everybody else gets it: GPUs may round to fewer bits (TF32)

    def parts(self) -> Parts:
        """Its detector: symbol, weights, states."""
        return make_symbol(self.model)

    def describe(self, kind: str) -> Description:
        """What deployment files of it say of themselves."""
        return describe(self.model, kind)

    def publish_symbol(self, output: Path, pictures: np.ndarray) -> Agreement:
        """Write its deployment files into the folder `output`."""
        return publish_symbol(self.folder, output, pictures)

    def write_onnx(self, path: Path, input: str, kind: str = "onnx", change: Optional[Change] = None) -> None:
        """See onnx_file.write_onnx."""
        write_onnx(self.model, path, input, kind, change)


class Converted:
    """A folder written by `convert`, run as its own symbol."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._engine = SymbolEngine(folder, "cpu")
        self.description = self._engine.description
        self.side, self.grayscale = self.description.side, self.description.grayscale

    def engine(self) -> SymbolEngine:
        """The model as it is."""
        return self._engine

    def parts(self) -> Parts:
        """Its detector: symbol, weights, states."""
        return self._engine.parts

    def describe(self, kind: str) -> Description:
        """What deployment files of it say of themselves."""
        return replace(self.description, kind=kind)

    def publish_symbol(self, output: Path, pictures: np.ndarray) -> Agreement:
        """Write its deployment files into the folder `output`, too; they can be exported as those they come from."""
        with prepared_files(self.description, output, self.parts()) as prepared:
            agreement = compare(self._engine.run(pictures), SymbolEngine(prepared, "cpu").run(pictures))
            agreement.require(f"{output}: the exported network")
        return agreement

    def write_onnx(self, path: Path, input: str, kind: str = "onnx", change: Optional[Change] = None) -> None:
        """An ONNX file whose float input is the algorithm's own: 0 to 255."""
        description = replace(self.describe(kind), input="pixels" if input == "pixels" else INPUT, coordinates="pixels")
        write_builtin_onnx(self.parts(), description, path, change)


def open_exportable(folder: Path) -> "Trained | Converted":
    """The model in `folder`; a WeightsError says what is wrong with it."""
    if (folder / CONFIG).is_file():  # whole without its deployment files, which can then be made anew
        return Trained(folder)
    if is_converted(folder):
        return Converted(folder)
    _refuse(folder)


def _refuse(place: Path) -> NoReturn:
    """A WeightsError that says what to export in place of what no model folder is."""
    if place.suffix == ".onnx":
        raise WeightsError(f"{place}: found an ONNX file, expected the model folder that it was made of")
    if any(place.glob(f"{BUILTIN_ARTIFACT}-*")):
        raise WeightsError(
            f"{place}: found a model of the built-in algorithm, expected it converted: python -m ssd_train convert"
        )
    if (place / EXPORT).is_file():
        raise WeightsError(f"{place}: found an export, expected the model folder that it was made of")
    raise WeightsError(f"{place}: found no {CONFIG}, expected a model folder written by ssd_train")
