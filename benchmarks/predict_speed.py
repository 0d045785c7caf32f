"""A folder of pictures as `predict` reads it, beside its engine alone: what is left of the engine's own speed.

    OMP_NUM_THREADS=1 python -m benchmarks.predict_speed [--side 512] [--pictures 1000] [--engine onnxruntime]

Pictures are drawn JPEG files of 640 x 480, read, decoded, and stretched in threads while the network runs; the engine
alone runs as many pictures that are ready, in batches of the same size. Turns alternate in pieces, so that both have
the same neighbours on the machine; the shares are of neighbouring pieces.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Iterator

import cv2
import numpy as np

from benchmarks.pictures import write_pictures
from benchmarks.turns import alternate, figures, times_as_fast
from ssd_train import mxnet_compat
from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.config import TrainConfig
from ssd_train.data.synthetic import SHAPE_CLASSES
from ssd_train.deploy.detector import Detector, ImageRef, Prediction
from ssd_train.deploy.export.onnx import write_onnx
from ssd_train.model.net import build_net

BATCH = 8
PIECE = 100  # pictures of a turn
DRAWN = 100  # different ones


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base_network", default="mobilenet1.0")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--engine", default="onnxruntime", choices=("onnxruntime", "openvino", "mxnet"))
    flags = parser.parse_args()
    cv2.setNumThreads(mxnet_compat.cpu_threads())
    with tempfile.TemporaryDirectory() as folder:
        detector = _detector(Path(folder), flags.base_network, flags.side, flags.engine)
        images, _ = write_pictures(Path(folder) / "data", DRAWN)
        paths = sorted(images.iterdir())
        ready = np.stack([detector.to_input(cv2.imread(str(path))[:, :, ::-1]) for path in paths[:BATCH]])
        answers = detector.predict_iter(_pictures(paths, flags.pictures + PIECE), BATCH)
        turns = {"predict": lambda: _take(answers, PIECE), "engine": lambda: _run(detector, ready, PIECE)}
        speeds = alternate(turns, flags.pictures // PIECE)
    row = {
        "side": flags.side,
        "run by": flags.engine,
        "threads": mxnet_compat.cpu_threads(),
        "pictures": flags.pictures,
    }
    shares = times_as_fast(speeds["predict"], speeds["engine"])
    print(json.dumps({**row, **{name: figures(found) for name, found in speeds.items()}, "share": shares}))


def _detector(folder: Path, base_network: str, side: int, engine: str) -> Detector:
    net = build_net(base_network, side, list(SHAPE_CLASSES))
    SavedModel(TrainConfig(base_network=base_network, image_shape=side), SHAPE_CLASSES, 100, epoch=0).save(folder, net)
    write_onnx(SavedModel.load(folder), folder / "model.onnx")
    return Detector.load(folder if engine == "mxnet" else folder / "model.onnx", "cpu", engine)


def _pictures(paths: "list[Path]", count: int) -> Iterator[ImageRef]:
    for index in range(count):
        path = paths[index % len(paths)]
        yield ImageRef(path.name, path.read_bytes, str(path))


def _take(answers: Iterator[Prediction], count: int) -> int:
    for _ in range(count):
        assert next(answers).detections is not None
    return count


def _run(detector: Detector, ready: np.ndarray, count: int) -> int:
    done = 0
    while done < count:
        detector.engine.run(ready)
        done += len(ready)
    return done


if __name__ == "__main__":
    main()
