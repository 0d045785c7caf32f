"""Convolutions in 8 bits: by MXNet for its symbol, by ONNX Runtime for an ONNX file. Ranges of values are measured on
pictures, uint8 (B, side, side, 3)."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Tuple

import numpy as np

from ssd_train import framework
from ssd_train.deploy.description import as_input
from ssd_train.deploy.exported import INPUT
from ssd_train.deploy.onnx_graph import onnx_module
from ssd_train.deploy.onnx_head import NORMALISED
from ssd_train.deploy.symbol_file import Arrays

mx = framework.mxnet()

BATCH = 8


def quantize_symbol(parts: "Tuple[Any, Arrays, Arrays]", pictures: np.ndarray) -> "Tuple[Any, Arrays, Arrays]":
    """A detector's symbol, weights and states, with convolutions in 8 bits."""
    symbol, weights, states = parts
    batches = mx.io.NDArrayIter({INPUT: as_input(pictures, INPUT)}, batch_size=min(BATCH, len(pictures)))
    return mx.contrib.quantization.quantize_model_mkldnn(
        symbol,
        weights,
        states,
        data_names=(INPUT,),
        label_names=(),
        excluded_op_names=["Concat", "Flatten"],  # between the heads and the boxes: nothing to gain, corners to lose
        # smallest and largest value: closer to the whole network than "entropy", and a tenth of the time
        calib_mode="naive",
        calib_data=batches,
        quantized_dtype="auto",
        quantize_granularity="channel-wise",
    )


def quantize_layers(document: Any, pictures: np.ndarray) -> Any:
    """An ONNX model with its convolutions in 8 bits (activations of their own zero point, weights by channel)."""
    quantization = onnx_module("onnxruntime.quantization")
    # of three channels: in 8 bits ONNX Runtime takes longer for it (a whole mobilenet0.25 at 256 px 2.0 ms, not 0.9)
    first = next(node.name for node in document.graph.node if node.op_type == "Conv")
    with tempfile.TemporaryDirectory(prefix="ssd-train-int8-") as folder, _quiet():
        source, target = Path(folder) / "layers.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(document.SerializeToString())
        quantization.quantize_static(
            source,
            target,
            _reader(quantization, pictures, document.graph.input[0].name),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Relu", "Clip", "Add"],
            nodes_to_exclude=[NORMALISED, first],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        return onnx_module().load_model(str(target))


def _reader(quantization: Any, pictures: np.ndarray, input: str) -> Any:
    starts = iter(range(0, len(pictures), BATCH))

    class Reader(quantization.CalibrationDataReader):
        """Gives ONNX Runtime the pictures batch by batch."""

        def get_next(self) -> Optional[Dict[str, np.ndarray]]:
            """The next pictures as the network's input, by its name; None after the last."""
            start = next(starts, None)
            return None if start is None else {input: as_input(pictures[start : start + BATCH], input)}

    return Reader()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without ONNX Runtime's advice to prepare the model in ways that ours is prepared already."""
    logger = logging.getLogger()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
