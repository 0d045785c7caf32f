"""Objects of 20 px in pictures of 2000 px, seen whole and in tiles: how many are found, and how long it takes.

    SSD_TRAIN_DATA=... OMP_NUM_THREADS=1 python -m benchmarks.tiles [--epochs 12] [--pictures 10] [--model FOLDER]

A MobileNet 1.0 SSD is trained at 300 px on drawn pictures of 640 px with objects of 16 to 48 px, from the ImageNet
weights in the folder that SSD_TRAIN_DATA names. Then it looks at JPEG files of 2000 px with objects of 18 to 22 px.
Recall and precision are those at the score threshold that the model states, at IoU 0.5.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List

from benchmarks.turns import rounded
from ssd_train import Detector, mxnet_compat, train
from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.data.image_io import encode_jpeg
from ssd_train.data.structures import LabeledImage
from ssd_train.data.synthetic import SHAPE_CLASSES, DrawnSample, draw_shapes_set, write_drawn_set
from ssd_train.deploy.detector import ImageRef, Tiling
from ssd_train.deploy.export.onnx import write_onnx
from ssd_train.evaluation.metrics import MeanAveragePrecision
from ssd_train.evaluation.results import Scores

TRAINED_WH, OBJECTS = (640, 640), (16 / 640, 48 / 640)
LARGE_WH, SMALL = (2000, 2000), (18 / 2000, 22 / 2000)
TILINGS = {"whole image": Tiling(), "tiles of 640 px": Tiling(640), "tiles of 320 px": Tiling(320)}


def main() -> None:
    """Print one JSON line for each way to look at the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--trained", type=int, default=160, help="training pictures")
    parser.add_argument("--pictures", type=int, default=10)
    parser.add_argument("--engine", default="onnxruntime", choices=("onnxruntime", "openvino", "mxnet"))
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="train there, or use what was trained there")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = flags.model or Path(temporary)
        if not (folder / "model.onnx").exists():
            train_model(folder, flags.trained, flags.epochs)
        detector = Detector(folder / ("model" if flags.engine == "mxnet" else "model.onnx"), "cpu", flags.engine)
        pictures = draw_shapes_set(flags.pictures, 3, LARGE_WH, max_objects=40, empty_fraction=0, sides=SMALL)
        files = [encode_jpeg(picture.image, 95) for picture in pictures]
        for name, tiling in TILINGS.items():
            row = {"seen": name, "side": detector.engine.side, "run by": flags.engine}
            print(json.dumps({**row, **measure(detector, pictures, files, tiling)}), flush=True)


def train_model(folder: Path, pictures: int, epochs: int) -> None:
    """Train a detector of drawn shapes in `folder`, and export it."""
    samples = draw_shapes_set(pictures, 1, TRAINED_WH, max_objects=12, empty_fraction=0.05, sides=OBJECTS)
    images, labels = write_drawn_set(folder / "data", samples, SHAPE_CLASSES, "shapes")
    (weights,) = Path(os.environ["SSD_TRAIN_DATA"], "weights").glob("mobilenet1.0*.params")
    places = {"model_dir": folder / "model", "output_dir": folder / "output", "pretrained": weights}
    train(images, labels, **places, epochs=epochs, mini_batch_size=8, verbose=False)
    write_onnx(SavedModel.load(folder / "model"), folder / "model.onnx")


def measure(detector: Detector, pictures: List[DrawnSample], files: List[bytes], tiling: Tiling) -> Dict[str, Any]:
    """Return recall, precision, AP and seconds of a picture."""
    refs = [ImageRef(picture.name, lambda data=data: data, picture.name) for picture, data in zip(pictures, files)]
    list(detector.predict_iter(refs[:1], tiling=tiling))  # memory is allocated
    start = time.perf_counter()
    predictions = list(detector.predict_iter(refs, tiling=tiling))
    seconds = (time.perf_counter() - start) / len(files)
    metric = MeanAveragePrecision(detector.class_names)
    for picture, prediction in zip(pictures, predictions):
        record = LabeledImage(picture.name, picture.boxes, picture.class_ids, LARGE_WH)
        metric.update(prediction.detections, record)
    scores = metric.compute()
    return {
        "threads": mxnet_compat.cpu_threads(),
        "pictures": len(files),
        "objects": scores.boxes,
        **at_threshold(scores, detector.score_threshold),
        "mAP@0.5": rounded(scores.ap50),
        "seconds a picture": rounded(seconds),
    }


def at_threshold(scores: Scores, threshold: float) -> Dict[str, Any]:
    """Return recall and precision of all classes together at a score threshold, from the curves of the classes."""
    hits = shown = 0.0
    for one in scores.per_class:
        curve = scores.curves[one.name]
        count = int((curve.score >= threshold).sum())
        hits += curve.recall[count - 1] * one.boxes if count else 0.0
        shown += count
    return {
        "threshold": rounded(threshold),
        "recall": rounded(hits / scores.boxes),
        "precision": rounded(hits / shown) if shown else None,
    }


if __name__ == "__main__":
    main()
