"""Export a model to other formats, and verify each export before it is published.

    symbol       MXNet's deployment files (artifacts/symbol_format.py), in a folder
    int8         the same with 8-bit convolutions, for CPUs
    onnx         an ONNX file
    onnx-raw     the same without NMS: scores and boxes of all anchors, for runtimes that lack NonMaxSuppression
    onnx-int8    the same with 8-bit convolutions

32-bit exports must give the same detections as the model. 8-bit exports cannot; their mAP must be about as high.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Iterator, List, NoReturn, Optional, Sequence, Union

import numpy as np

from ssd_train.artifacts.metadata import RAW_KIND, ExportMetadata
from ssd_train.artifacts.model_config import CONFIG
from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.artifacts.symbol_format import BUILTIN_ARTIFACT, EXPORT, INPUT, is_converted
from ssd_train.data.image_io import EncodedImage
from ssd_train.data.labels import LabeledDataset
from ssd_train.data.synthetic import draw_logo_set, draw_shapes_set
from ssd_train.data.transforms import preprocess
from ssd_train.deploy.detector import Detector, Engine, ImageRef
from ssd_train.deploy.evaluate import image_refs, score_images
from ssd_train.deploy.export.builtin_onnx import candidates, write_builtin_onnx
from ssd_train.deploy.export.onnx import Change, write_onnx
from ssd_train.deploy.export.quantize import quantize_layers, quantize_symbol
from ssd_train.deploy.gluon_backend import GluonEngine
from ssd_train.deploy.onnx_backends import OnnxEngine, run_raw
from ssd_train.deploy.parity import Agreement, Candidates, compare, compare_candidates
from ssd_train.deploy.symbol import (
    SymbolParts,
    check_same_model,
    check_target,
    make_symbol,
    publish_symbol,
    staged_files,
)
from ssd_train.deploy.symbol_backend import SymbolEngine
from ssd_train.errors import ConfigError, DataError, WeightsError
from ssd_train.progress import Progress
from ssd_train.storage import atomic


class TrainedModel:
    """A model folder written by ssd_train, which Gluon runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = SavedModel.load(folder)
        self.side, self.grayscale = self.model.config.image_shape, self.model.config.grayscale

    def engine(self) -> GluonEngine:
        """Return an engine for the original model."""
        return GluonEngine(self.folder, "cpu")  # GPUs may round to fewer bits (TF32)

    def candidates(self, images: np.ndarray) -> List[Candidates]:
        """Return the candidates before NMS of images, uint8 (B, S, S, 3)."""
        engine = self.engine()
        return [engine.candidates(image) for image in images]

    def parts(self) -> SymbolParts:
        """Return the detector's symbol, weights and auxiliary states."""
        return make_symbol(self.model)

    def describe(self, kind: str) -> ExportMetadata:
        """Return the metadata of an export of this kind."""
        return self.model.describe(kind, INPUT)

    def publish_symbol(self, output: Path, images: np.ndarray, overwrite: bool = False) -> Agreement:
        """Write the deployment files to the folder `output`, see symbol.publish_symbol."""
        return publish_symbol(self.folder, output, images, overwrite)

    def write_onnx(self, path: Path, input: str, kind: str = "onnx", change: Optional[Change] = None) -> None:
        """Write an ONNX file, see onnx.write_onnx."""
        write_onnx(self.model, path, input, kind, change)


class ConvertedModel:
    """A folder written by `convert`, whose symbol is run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._engine = SymbolEngine(folder, "cpu")
        self.description = self._engine.description
        self.side, self.grayscale = self.description.side, self.description.grayscale

    def engine(self) -> SymbolEngine:
        """Return an engine for the converted model."""
        return self._engine

    def candidates(self, images: np.ndarray) -> List[Candidates]:
        """Return the candidates before NMS of images, uint8 (B, S, S, 3)."""
        return candidates(self.parts(), images)

    def parts(self) -> SymbolParts:
        """Return the detector's symbol, weights and auxiliary states."""
        return self._engine.parts

    def describe(self, kind: str) -> ExportMetadata:
        """Return the metadata of an export of this kind."""
        return replace(self.description, kind=kind)

    def publish_symbol(self, output: Path, images: np.ndarray, overwrite: bool = False) -> Agreement:
        """Write the deployment files to another folder `output`."""
        with staged_files(self.description, output, self.parts(), overwrite) as prepared:
            agreement = compare(self._engine.run(images), SymbolEngine(prepared, "cpu").run(images))
            agreement.raise_for_mismatch(f"{output}: the exported network")
        return agreement

    def write_onnx(self, path: Path, input: str, kind: str = "onnx", change: Optional[Change] = None) -> None:
        """Write an ONNX file; a float input is in 0..255, as the algorithm's."""
        description = replace(self.describe(kind), input="pixels" if input == "pixels" else INPUT, coordinates="pixels")
        write_builtin_onnx(self.parts(), description, path, change)


def open_exportable(folder: Path) -> "TrainedModel | ConvertedModel":
    """Open the model in `folder`.

    Raises:
        WeightsError: `folder` holds no model that can be exported, or a damaged one.
    """
    if (folder / CONFIG).is_file():  # enough, even where its deployment files are missing or damaged
        return TrainedModel(folder)
    if is_converted(folder):
        return ConvertedModel(folder)
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


Exportable = Union[TrainedModel, ConvertedModel]

COMPARED, CALIBRATED = 100, 128  # maximum number of images
DRAWN = 20  # synthetic images to compare on by default


@dataclass(frozen=True)
class VerificationOptions:
    """Options for verifying an export.

    Attributes:
        images: images to compare detections on, or to calibrate 8-bit models with; default: synthetic images for the
            comparison, those of `validation` for the calibration.
        validation: labelled images; required for 8-bit models.
        max_map_drop: maximum loss of COCO mAP (0..1) by 8 bits.
        overwrite: the export of another model in the output folder may be replaced once the new one is verified.
    """

    images: Sequence[ImageRef] = ()
    validation: Optional[LabeledDataset] = None
    max_map_drop: float = 0.01
    overwrite: bool = False


def export(folder: Path, format: str, output: Path, input: str, proof: VerificationOptions, progress: Progress) -> None:
    """Export the model in `folder` to `output`.

    Args:
        folder: the model folder.
        format: symbol, int8, onnx, onnx-raw or onnx-int8.
        output: a folder, or for ONNX a file.
        input: input of the ONNX file, see description.INPUTS.
        proof: how the export is verified.
        progress: receives the result of the verification.

    Raises:
        SsdTrainError: the exported model gives other detections; nothing was written.
        ConfigError: an 8-bit model loses more mAP than `proof` allows; nothing was written.
    """
    _EXPORTS[format](open_exportable(folder), output, input, proof, progress)


def _symbol(model: Exportable, output: Path, input: str, proof: VerificationOptions, progress: Progress) -> None:
    images = _comparison_images(model, proof)
    progress.info(f"compared on {len(images)} images: {model.publish_symbol(output, images, proof.overwrite)}")


def _onnx(model: Exportable, output: Path, input: str, proof: VerificationOptions, progress: Progress) -> None:
    images = _comparison_images(model, proof)
    progress.info(f"compared on {len(images)} images: {write_verified_onnx(model, output, input, images)}")


def write_verified_onnx(model: Exportable, output: Path, input: str, images: np.ndarray) -> Agreement:
    """Write an ONNX file that gives the same detections on `images`, uint8 (B, side, side, 3), as `model`.

    Raises:
        SsdTrainError: it gives other detections; nothing was written.
    """
    with _prepared_file(output, model) as prepared:
        model.write_onnx(prepared, input)
        engine = model.engine()
        expected, actual = _run(engine, images), _run(OnnxEngine(prepared), images)
        # the engine of a converted model does not return candidates
        candidates = (lambda i: engine.candidates(images[i])) if isinstance(engine, GluonEngine) else None
        agreement = compare(expected, actual, candidates)
        agreement.raise_for_mismatch(f"{output}: the exported network")
    return agreement


def _onnx_raw(model: Exportable, output: Path, input: str, proof: VerificationOptions, progress: Progress) -> None:
    images = _comparison_images(model, proof)
    with _prepared_file(output, model) as prepared:
        model.write_onnx(prepared, input, RAW_KIND)
        scores, boxes = run_raw(prepared, images)
        agreement = compare_candidates(model.candidates(images), scores, boxes)
        agreement.raise_for_mismatch(f"{output}: the exported network")
    progress.info(f"compared on {len(images)} images: {agreement}")


def _int8(model: Exportable, output: Path, input: str, proof: VerificationOptions, progress: Progress) -> None:
    check_target(output, model.describe("int8"), proof.overwrite)
    parts = quantize_symbol(model.parts(), _calibration_images(model, proof))
    with staged_files(model.describe("int8"), output, parts, proof.overwrite) as prepared:
        _check_map(model, SymbolEngine(prepared, "cpu"), proof, progress)


def _onnx_int8(model: Exportable, output: Path, input: str, proof: VerificationOptions, progress: Progress) -> None:
    images = _calibration_images(model, proof)
    with _prepared_file(output, model) as prepared:
        model.write_onnx(prepared, input, "onnx-int8", lambda layers: quantize_layers(layers, images))
        _check_map(model, OnnxEngine(prepared), proof, progress)


_EXPORTS = {"symbol": _symbol, "onnx": _onnx, RAW_KIND: _onnx_raw, "int8": _int8, "onnx-int8": _onnx_int8}


def _check_map(model: Exportable, engine: Engine, proof: VerificationOptions, progress: Progress) -> None:
    """Log both mAPs; raise a ConfigError if more is lost than `proof` allows."""
    validation = _validation(proof)
    before = score_images(Detector(model.engine()), validation, progress=progress)
    after = score_images(Detector(engine), validation, progress=progress)
    if before.coco is None or after.coco is None:
        raise DataError(f"{validation.labels.source}: found no boxes, expected some to measure mAP on")
    for name, scores in (("32 bits", before), ("8 bits", after)):
        progress.info(f"{name}: mAP {scores.coco:.4f}, mAP@0.5 {scores.ap50:.4f}")
    drop = before.coco - after.coco
    if drop > proof.max_map_drop:
        raise ConfigError(
            f"max_map_drop: mAP falls by {drop:.4f}, from {before.coco:.4f} to {after.coco:.4f}, expected at most "
            f"{proof.max_map_drop}; nothing was written: use more --calibration images, or raise --max_map_drop"
        )


def _validation(proof: VerificationOptions) -> LabeledDataset:
    if proof.validation is None:
        raise ConfigError("--labels: found none, expected labelled images to measure the mAP of the 8-bit model")
    return proof.validation


def _calibration_images(model: Exportable, proof: VerificationOptions) -> np.ndarray:
    validation = _validation(proof)
    return _load_inputs(model, proof.images or list(image_refs(validation.labels, validation.images)), CALIBRATED)


def _comparison_images(model: Exportable, proof: VerificationOptions) -> np.ndarray:
    if proof.images:
        return _load_inputs(model, proof.images, COMPARED)
    samples = [*draw_shapes_set(DRAWN // 2, seed=1), *draw_logo_set(DRAWN // 2, seed=1)]
    return np.stack([preprocess(sample.image, model.side, model.grayscale) for sample in samples])


def _load_inputs(model: Exportable, refs: Sequence[ImageRef], count: int) -> np.ndarray:
    """Load up to `count` evenly spaced images as uint8 (B, side, side, 3)."""
    chosen = [refs[i] for i in np.unique(np.linspace(0, len(refs) - 1, count).astype(int))]
    images = (EncodedImage(ref.read(), ref.where).decode_downscaled(model.side, ref.expected_wh) for ref in chosen)
    return np.stack([preprocess(image, model.side, model.grayscale) for image in images])


def _run(engine: Engine, images: np.ndarray, batch: int = 8) -> np.ndarray:
    return np.concatenate([engine.run(images[start : start + batch]) for start in range(0, len(images), batch)])


@contextlib.contextmanager
def _prepared_file(output: Path, model: Exportable) -> Iterator[Path]:
    """Yield a temporary path for an ONNX file, then move the file to `output`.

    If the block raises, nothing is moved.
    """
    if output.is_dir() or (output.suffix != ".onnx" and not atomic.is_stream(output)):
        raise ConfigError(f"output: found {output}, expected a file whose name ends in .onnx")
    with atomic.prepared_file(output) as prepared:
        check_same_model(prepared.parent, model.describe("onnx").weights)
        yield prepared
