"""Write the deployment files and the inference code of a trained model into its folder."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import List

import numpy as np

from ssd_train.artifacts.inference_code import write_inference_code
from ssd_train.artifacts.symbol_format import BUILTIN_SYMBOL, BUILTIN_WEIGHTS
from ssd_train.config import TrainConfig
from ssd_train.data.loaders import EvalLoader
from ssd_train.data.transforms import preprocess
from ssd_train.deploy.symbol import ensure_exported, write_builtin_names
from ssd_train.errors import DataError, SsdTrainError
from ssd_train.progress import Progress

ONNX_FILE = "model.onnx"
PICTURES = 4  # images on which the exported network is compared; each takes about a tenth of a second


def export_best_model(
    folder: Path, validation: EvalLoader, config: TrainConfig, progress: Progress, with_onnx: bool = False
) -> None:
    """Export the model in `folder` unless its deployment files are up to date; `with_onnx`: and as model.onnx.

    The exports are verified on validation images. A failure is only a warning: the model itself is complete, and
    `export` can repeat it. With artifact_names "builtin" they are written under its names, too. Without the packages of
    the extra `onnx` there is no model.onnx.
    """
    images = _images(validation, config.grayscale)
    for file in filter(Path.exists, (folder / BUILTIN_SYMBOL, folder / BUILTIN_WEIGHTS)):  # of other weights
        file.unlink()
    try:
        ensure_exported(folder, images)
        write_inference_code(folder)
        if config.artifact_names == "builtin":
            write_builtin_names(folder)
    except SsdTrainError as error:
        progress.warning(f"no deployment files: {error}; the model itself is not affected")
    onnx_file = folder / ONNX_FILE
    if not with_onnx or not all(map(find_spec, ("onnx", "onnxruntime"))):
        if onnx_file.exists():  # of other weights
            onnx_file.unlink()
        return
    from ssd_train.deploy.export.export import TrainedModel, write_verified_onnx

    try:
        write_verified_onnx(TrainedModel(folder), onnx_file, "pixels", images)
    except SsdTrainError as error:
        progress.warning(f"no {ONNX_FILE}: {error}; the model itself is not affected")


def _images(validation: EvalLoader, grayscale: bool) -> np.ndarray:
    """Return some images with objects as network input: uint8 (B, side, side, 3)."""
    data = validation.dataset
    images: List[np.ndarray] = []
    for index, record in enumerate(data.labels.records):
        if len(record.boxes) and len(images) < PICTURES:
            samples = validation.bad_samples.valid([index], data.__getitem__)
            images += [preprocess(image, data.side, grayscale) for _, (image, _, _) in samples]
    if not images:
        raise DataError(f"{data.labels.source}: found no readable image with boxes, expected at least one")
    return np.stack(images)
