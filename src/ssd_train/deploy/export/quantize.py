"""Quantize convolutions to 8 bits.

MXNet does so for symbols, ONNX Runtime for ONNX files.

Both are calibrated on images, uint8 (B, side, side, 3).
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, Optional

import numpy as np

from ssd_train import mxnet_compat
from ssd_train.artifacts.metadata import as_input
from ssd_train.artifacts.symbol_format import INPUT
from ssd_train.deploy.export.onnx import NORMALISED, onnx_module
from ssd_train.deploy.symbol import SymbolParts

mx = mxnet_compat.mxnet()

BATCH = 8


def quantize_symbol(parts: SymbolParts, images: np.ndarray) -> SymbolParts:
    """Quantize the convolutions of a detector's symbol, weights and auxiliary states."""
    symbol, weights, states = parts
    batches = mx.io.NDArrayIter({INPUT: as_input(images, INPUT)}, batch_size=min(BATCH, len(images)))
    return mx.contrib.quantization.quantize_model_mkldnn(
        symbol,
        weights,
        states,
        data_names=(INPUT,),
        label_names=(),
        excluded_op_names=["Concat", "Flatten"],  # between heads and boxes: no gain in speed, less exact corners
        # minimum and maximum: closer to the float network than "entropy", in a tenth of the time
        calib_mode="naive",
        calib_data=batches,
        quantized_dtype="auto",
        quantize_granularity="channel-wise",
    )


def quantize_layers(model: Any, images: np.ndarray) -> Any:
    """Quantize the convolutions of an ONNX model, weights per channel."""
    quantization = onnx_module("onnxruntime.quantization")
    # Quantizing the first convolution, of 3 channels, is slower: mobilenet0.25 at 256 px takes 2.0 instead of 0.9 ms.
    first = next(node.name for node in model.graph.node if node.op_type == "Conv")
    with tempfile.TemporaryDirectory(prefix="ssd-train-int8-") as folder, _quiet():
        source, target = Path(folder) / "layers.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(model.SerializeToString())
        quantization.quantize_static(
            source,
            target,
            _reader(quantization, images, model.graph.input[0].name),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Relu", "Clip", "Add"],
            nodes_to_exclude=[NORMALISED, first],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        return onnx_module().load_model(str(target))


def _reader(quantization: Any, images: np.ndarray, input: str) -> Any:
    starts = iter(range(0, len(images), BATCH))

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> Optional[Dict[str, np.ndarray]]:
            """Return the next batch by the input's name; None at the end."""
            start = next(starts, None)
            return None if start is None else {input: as_input(images[start : start + BATCH], input)}

    return Reader()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress ONNX Runtime's advice to preprocess; our models need none."""
    logger = logging.getLogger()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
