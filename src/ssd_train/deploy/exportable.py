"""Models that can be exported.

They were trained by ssd_train, or converted from the built-in algorithm.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NoReturn, Optional

import numpy as np

from ssd_train.deploy.agreement import Agreement, compare
from ssd_train.deploy.artifact import describe, prepared_files, publish_symbol
from ssd_train.deploy.description import Description
from ssd_train.deploy.engines.gluon import GluonEngine
from ssd_train.deploy.engines.symbol import SymbolEngine
from ssd_train.deploy.exported import BUILTIN_ARTIFACT, EXPORT, INPUT, is_converted
from ssd_train.deploy.onnx_builtin import write_builtin_onnx
from ssd_train.deploy.onnx_file import Change, write_onnx
from ssd_train.deploy.symbol_file import SymbolParts, make_symbol
from ssd_train.errors import WeightsError
from ssd_train.training.saved_model import CONFIG, SavedModel


class Trained:
    """A model folder written by ssd_train, which Gluon runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = SavedModel.load(folder)
        self.side, self.grayscale = self.model.config.image_shape, self.model.config.grayscale

    def engine(self) -> GluonEngine:
        """Return an engine for the original model."""
        return GluonEngine(self.folder, "cpu")  # GPUs may round to fewer bits (TF32)

    def parts(self) -> SymbolParts:
        """Return the detector's symbol, weights and auxiliary states."""
        return make_symbol(self.model)

    def describe(self, kind: str) -> Description:
        """Return the metadata of an export of this kind."""
        return describe(self.model, kind)

    def publish_symbol(self, output: Path, images: np.ndarray) -> Agreement:
        """Write the deployment files to the folder `output`, see artifact.publish_symbol."""
        return publish_symbol(self.folder, output, images)

    def write_onnx(self, path: Path, input: str, kind: str = "onnx", change: Optional[Change] = None) -> None:
        """Write an ONNX file, see onnx_file.write_onnx."""
        write_onnx(self.model, path, input, kind, change)


class Converted:
    """A folder written by `convert`, whose symbol is run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._engine = SymbolEngine(folder, "cpu")
        self.description = self._engine.description
        self.side, self.grayscale = self.description.side, self.description.grayscale

    def engine(self) -> SymbolEngine:
        """Return an engine for the converted model."""
        return self._engine

    def parts(self) -> SymbolParts:
        """Return the detector's symbol, weights and auxiliary states."""
        return self._engine.parts

    def describe(self, kind: str) -> Description:
        """Return the metadata of an export of this kind."""
        return replace(self.description, kind=kind)

    def publish_symbol(self, output: Path, images: np.ndarray) -> Agreement:
        """Write the deployment files to another folder `output`."""
        with prepared_files(self.description, output, self.parts()) as prepared:
            agreement = compare(self._engine.run(images), SymbolEngine(prepared, "cpu").run(images))
            agreement.require(f"{output}: the exported network")
        return agreement

    def write_onnx(self, path: Path, input: str, kind: str = "onnx", change: Optional[Change] = None) -> None:
        """Write an ONNX file; a float input is in 0..255, as the algorithm's."""
        description = replace(self.describe(kind), input="pixels" if input == "pixels" else INPUT, coordinates="pixels")
        write_builtin_onnx(self.parts(), description, path, change)


def open_exportable(folder: Path) -> "Trained | Converted":
    """Open the model in `folder`.

    Raises:
        WeightsError: `folder` holds no model that can be exported, or a damaged one.
    """
    if (folder / CONFIG).is_file():  # enough, even where its deployment files are missing or damaged
        return Trained(folder)
    if is_converted(folder):
        return Converted(folder)
    _refuse(folder)


def _refuse(path: Path) -> NoReturn:
    if path.suffix == ".onnx":
        raise WeightsError(f"{path}: found an ONNX file, expected the model folder that it was exported from")
    if any(path.glob(f"{BUILTIN_ARTIFACT}-*")):
        raise WeightsError(
            f"{path}: found a model of the built-in algorithm, expected it converted: python -m ssd_train convert"
        )
    if (path / EXPORT).is_file():
        raise WeightsError(f"{path}: found an export, expected the model folder that it was exported from")
    raise WeightsError(f"{path}: found no {CONFIG}, expected a model folder written by ssd_train")
