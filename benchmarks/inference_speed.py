"""Compare the speed of the engines: one network run by Gluon, as a symbol, as an ONNX file, and in 8 bits.

A second row per engine measures whole requests, from the bytes of a JPEG to JSON.

    OMP_NUM_THREADS=1 python -m benchmarks.inference_speed [--side 512] [--batch 1] [--rounds 15]

All get the same drawn pictures, and as many threads as OMP_NUM_THREADS says. Turns alternate; the best of the rounds
counts, because other work on a machine can only slow a turn down, and the median of the paired ratios stands beside it.
Weights are random: how long a network takes does not depend on them. How well 8 bits score does: see `export`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

import cv2
import numpy as np

from ssd_train import mxnet_compat
from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.artifacts.symbol_format import INPUT
from ssd_train.config import TrainConfig
from ssd_train.data.image_io import encode_jpeg
from ssd_train.data.synthetic import SHAPE_CLASSES, draw_shapes_set
from ssd_train.data.transforms import preprocess
from ssd_train.deploy.detector import Detector
from ssd_train.deploy.export.onnx import write_onnx
from ssd_train.deploy.export.quantize import quantize_layers, quantize_symbol
from ssd_train.deploy.handlers import handle_request
from ssd_train.deploy.symbol import make_symbol, staged_files
from ssd_train.model.net import build_net

WARM_UP = 2  # the first calls allocate
REQUEST_WH = (640, 480)
Seconds = Dict[str, List[float]]


def main() -> None:
    """Print one JSON line for each engine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base_network", default="mobilenet1.0")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    flags = parser.parse_args()
    cv2.setNumThreads(mxnet_compat.cpu_threads())
    drawn = [sample.image for sample in draw_shapes_set(max(8, flags.batch), 1, REQUEST_WH)]
    pictures = np.stack([preprocess(image, flags.side) for image in drawn])
    with tempfile.TemporaryDirectory() as folder:
        detectors = make_detectors(Path(folder), flags.base_network, flags.side, pictures)
        turns = engine_turns(detectors, pictures[: flags.batch])
        if flags.batch == 1:
            turns.update(request_turns(detectors, encode_jpeg(drawn[0])))
        for row in rows(detectors, take_turns(turns, flags.rounds)):
            print(json.dumps({"side": flags.side, "batch": flags.batch, **row}), flush=True)


def make_detectors(folder: Path, base_network: str, side: int, pictures: np.ndarray) -> Dict[str, Detector]:
    """Each way to run one network, Gluon first."""
    config = TrainConfig(base_network=base_network, image_shape=side)
    net = build_net(base_network, side, list(SHAPE_CLASSES))
    SavedModel(config, SHAPE_CLASSES, 100, epoch=0).save(folder / "model", net)
    model = SavedModel.load(folder / "model")
    for kind, parts in (("symbol", make_symbol(model)), ("int8", quantize_symbol(make_symbol(model), pictures))):
        with staged_files(model.describe(kind, INPUT), folder / kind, parts):
            pass
    write_onnx(model, folder / "float.onnx")
    write_onnx(model, folder / "int8.onnx", change=lambda layers: quantize_layers(layers, pictures))
    places = {"mxnet": "model", "symbol": "symbol", "symbol int8": "int8"}
    for runtime in ("onnxruntime", "openvino"):
        places.update({runtime: "float.onnx", f"{runtime} int8": "int8.onnx"})
    return {name: Detector.load(folder / place, "cpu", name.split()[0]) for name, place in places.items()}


def engine_turns(detectors: Dict[str, Detector], pictures: np.ndarray) -> Dict[str, Callable[[], Any]]:
    """Return a function per engine that runs it on preprocessed images."""
    return {name: lambda engine=found.engine: engine.run(pictures) for name, found in detectors.items()}


def request_turns(detectors: Dict[str, Detector], body: bytes) -> Dict[str, Callable[[], Any]]:
    """Return a function per engine that handles a request, from the bytes of a JPEG to JSON."""
    return {
        f"{name} request": lambda d=found: handle_request(d, body, "image/jpeg") for name, found in detectors.items()
    }


def take_turns(turns: Dict[str, Callable[[], Any]], rounds: int) -> Seconds:
    """Seconds of each turn, round by round."""
    seconds: Seconds = {name: [] for name in turns}
    for turn in range(rounds + WARM_UP):
        for name, work in turns.items():
            started = time.perf_counter()
            work()
            if turn >= WARM_UP:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def rows(detectors: Dict[str, Detector], seconds: Seconds) -> List[Dict[str, Any]]:
    """Milliseconds of each engine, how many times as fast as the first it is, and what a request takes beyond it."""
    base = next(iter(seconds.values()))
    found = []
    for name in detectors:
        taken, request = seconds[name], seconds.get(f"{name} request")
        row = {
            "engine": name,
            "threads": mxnet_compat.cpu_threads(),
            "best_ms": round(1000 * min(taken), 2),
            "times_as_fast": round(min(base) / min(taken), 2),
            "median_of_pairs": round(statistics.median(a / b for a, b in zip(base, taken)), 2),
        }
        if request:
            row["request_beyond_ms"] = round(1000 * (min(request) - min(taken)), 2)
            row["median_beyond_ms"] = round(1000 * statistics.median(a - b for a, b in zip(request, taken)), 2)
        found.append(row)
    return found


if __name__ == "__main__":
    main()
