"""A trained model in other forms, each proven before it takes its place.

    symbol       MXNet's deployment files (exported.py), in a folder
    int8         the same with convolutions in 8 bits, for CPUs
    onnx         an ONNX file
    onnx-int8    the same with convolutions in 8 bits

Those in 32 bits have to answer as the model does; those in 8 bits, which cannot, have to score as well.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Optional, Sequence, Union

import numpy as np

from ssd_train import storage
from ssd_train.data.drawn import draw_logo_set, draw_shapes_set
from ssd_train.data.images import decode_for
from ssd_train.data.labels import LabelledImages
from ssd_train.data.transforms import to_input
from ssd_train.deploy.agreement import compare
from ssd_train.deploy.artifact import check_beside, check_target, prepared_files
from ssd_train.deploy.detector import Detector, Engine, Picture
from ssd_train.deploy.engines.gluon import GluonEngine
from ssd_train.deploy.engines.onnx import OnnxEngine
from ssd_train.deploy.engines.symbol import SymbolEngine
from ssd_train.deploy.exportable import Converted, Trained, open_exportable
from ssd_train.deploy.quantize import quantize_layers, quantize_symbol
from ssd_train.deploy.scoring import pictures_of, score_images
from ssd_train.errors import ConfigError, DataError
from ssd_train.progress import Progress

Exportable = Union[Trained, Converted]

COMPARED, CALIBRATED = 100, 128  # pictures at most
DRAWN = 20  # pictures that stand in where none are given


@dataclass(frozen=True)
class Proof:
    """What an exported model is proven with.

    pictures        what answers are compared on, or 8 bits fitted to; where there are none, drawn ones, or those of
                    `validation`
    validation      labelled images; needed for 8 bits
    max_map_drop    by how much mAP (COCO's, 0..1) may fall in 8 bits
    """

    pictures: Sequence[Picture] = ()
    validation: Optional[LabelledImages] = None
    max_map_drop: float = 0.01


def export(folder: Path, format: str, output: Path, input: str, proof: Proof, progress: Progress) -> None:
    """Write the model of `folder` as `format` to `output`; `input` is the ONNX file's, see description.INPUTS.

    Raises:
        SsdTrainError: the exported model answers differently; nothing was written.
        ConfigError: it loses more than `proof` allows; nothing was written.
    """
    _EXPORTS[format](folder, output, input, proof, progress)


def _symbol(folder: Path, output: Path, input: str, proof: Proof, progress: Progress) -> None:
    model = open_exportable(folder)
    pictures = _compared(model, proof)
    progress.say(f"compared on {len(pictures)} pictures: {model.publish_symbol(output, pictures)}")


def _onnx(folder: Path, output: Path, input: str, proof: Proof, progress: Progress) -> None:
    model = open_exportable(folder)
    pictures = _compared(model, proof)
    with _prepared_file(output, model) as prepared:
        model.write_onnx(prepared, input)
        engine = model.engine()
        expected, found = _rows(engine, pictures), _rows(OnnxEngine(prepared), pictures)
        # a converted model's own engine shows no candidates
        before = (lambda i: engine.candidates(pictures[i])) if isinstance(engine, GluonEngine) else None
        agreement = compare(expected, found, before)
        agreement.require(f"{output}: the exported network")
    progress.say(f"compared on {len(pictures)} pictures: {agreement}")


def _int8(folder: Path, output: Path, input: str, proof: Proof, progress: Progress) -> None:
    model = open_exportable(folder)
    check_target(output, model.describe("int8"))
    parts = quantize_symbol(model.parts(), _calibration(model, proof))
    with prepared_files(model.describe("int8"), output, parts) as prepared:
        _require_map(model, SymbolEngine(prepared, "cpu"), proof, progress)


def _onnx_int8(folder: Path, output: Path, input: str, proof: Proof, progress: Progress) -> None:
    model = open_exportable(folder)
    pictures = _calibration(model, proof)
    with _prepared_file(output, model) as prepared:
        model.write_onnx(prepared, input, "onnx-int8", lambda layers: quantize_layers(layers, pictures))
        _require_map(model, OnnxEngine(prepared), proof, progress)


_EXPORTS = {"symbol": _symbol, "onnx": _onnx, "int8": _int8, "onnx-int8": _onnx_int8}


def _require_map(model: Exportable, engine: Engine, proof: Proof, progress: Progress) -> None:
    """A ConfigError if `engine` scores worse than `model` by more than is allowed; says both figures."""
    validation = _required(proof)
    before = score_images(Detector(model.engine()), validation, progress=progress)
    after = score_images(Detector(engine), validation, progress=progress)
    if before.coco is None or after.coco is None:
        raise DataError(f"{validation.labels.source}: found no boxes, expected some to measure mAP on")
    for name, scores in (("32 bits", before), ("8 bits", after)):
        progress.say(f"{name}: mAP {scores.coco:.4f}, mAP@0.5 {scores.ap50:.4f}")
    drop = before.coco - after.coco
    if drop > proof.max_map_drop:
        raise ConfigError(
            f"max_map_drop: found a drop of mAP by {drop:.4f}, from {before.coco:.4f} to {after.coco:.4f}, expected at "
            f"most {proof.max_map_drop}; nothing was written: try more --calibration pictures, or allow more"
        )


def _required(proof: Proof) -> LabelledImages:
    if proof.validation is None:
        raise ConfigError("export: found no --labels, expected labelled images to measure what 8 bits cost")
    return proof.validation


def _calibration(model: Exportable, proof: Proof) -> np.ndarray:
    """What 8 bits are fitted to, as `_inputs`."""
    validation = _required(proof)
    return _inputs(model, proof.pictures or list(pictures_of(validation.labels, validation.images)), CALIBRATED)


def _compared(model: Exportable, proof: Proof) -> np.ndarray:
    """What two ways to run the network are compared on, as `_inputs`."""
    if proof.pictures:
        return _inputs(model, proof.pictures, COMPARED)
    side, gray = model.side, model.grayscale
    drawn = [*draw_shapes_set(DRAWN // 2, seed=1), *draw_logo_set(DRAWN // 2, seed=1)]
    return np.stack([to_input(sample.image, side, gray) for sample in drawn])


def _inputs(model: Exportable, pictures: Sequence[Picture], count: int) -> np.ndarray:
    """Up to `count` of `pictures`, evenly among them, as the network sees them: uint8 (B, side, side, 3)."""
    side, gray = model.side, model.grayscale
    chosen = [pictures[i] for i in np.unique(np.linspace(0, len(pictures) - 1, count).astype(int))]
    images = (decode_for(p.read(), p.where, side, p.expected_wh) for p in chosen)
    return np.stack([to_input(image, side, gray) for image in images])


def _rows(engine: Engine, pictures: np.ndarray, batch: int = 8) -> np.ndarray:
    """What `engine` says of `pictures`, a few at a time."""
    return np.concatenate([engine.run(pictures[start : start + batch]) for start in range(0, len(pictures), batch)])


@contextlib.contextmanager
def _prepared_file(output: Path, model: Exportable) -> Iterator[Path]:
    """Where to write the ONNX file of `model` that takes the place `output` at the end of the block, and does not if it
    raises."""
    if output.is_dir() or (output.suffix != ".onnx" and not storage.is_stream(output)):
        raise ConfigError(f"output: found {output}, expected a file whose name ends in .onnx")
    with storage.prepared_file(output) as prepared:
        check_beside(prepared.parent, model.describe("onnx").weights)
        yield prepared
