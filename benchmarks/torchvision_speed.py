"""Our detector beside torchvision's, from a picture in memory to boxes, one at a time, where torchvision is installed.

    OMP_NUM_THREADS=1 python -m benchmarks.torchvision_speed [--rounds 15]

Weights are random: how long a network takes does not depend on them, and nothing is downloaded. Each has the threads
that OMP_NUM_THREADS says. torchvision resizes and suppresses inside its models, ours is charged with both too.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np

from benchmarks.turns import alternate, rounded, times_as_fast
from ssd_train import mxnet_compat
from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.config import TrainConfig
from ssd_train.data.synthetic import SHAPE_CLASSES, draw_shapes_set
from ssd_train.deploy.detector import Detector
from ssd_train.model.net import build_net

MODELS = ("ssdlite320_mobilenet_v3_large", "ssd300_vgg16")
SIDE, BATCH = 300, 4


def main() -> None:
    """Print a JSON line for each of torchvision's models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    if not (find_spec("torch") and find_spec("torchvision")):
        print(json.dumps({"skipped": "torch and torchvision are not installed"}))
        return
    pictures = [sample.image for sample in draw_shapes_set(BATCH, 1, (640, 480), empty_fraction=0.0)]
    turns = {"ours": our_turn(pictures), **{name: torchvisions_turn(name, pictures) for name in MODELS}}
    speeds = alternate(turns, rounds)
    for name in MODELS:
        row: Dict[str, Any] = {"beside": name, "threads": mxnet_compat.cpu_threads()}
        row["ours, ms a picture (best)"] = rounded(1000 / max(speeds["ours"]))
        row["theirs, ms a picture (best)"] = rounded(1000 / max(speeds[name]))
        print(json.dumps({**row, **times_as_fast(speeds["ours"], speeds[name])}), flush=True)


def our_turn(pictures: List[np.ndarray]) -> Callable[[], int]:
    """mobilenet1.0 at 300 px by Gluon: a Detector as `predict` uses it."""
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(image_shape=SIDE)
        net = build_net(config.base_network, SIDE, list(SHAPE_CLASSES))
        SavedModel(config, SHAPE_CLASSES, 100, epoch=0).save(Path(folder) / "model", net)
        detector = Detector.load(Path(folder) / "model", "cpu", "mxnet")

    def work() -> int:
        for picture in pictures:
            detector(picture)
        return len(pictures)

    return work


def torchvisions_turn(name: str, pictures: List[np.ndarray]) -> Callable[[], int]:
    """Return a function that runs a model of torchvision as its documentation does."""
    torch, models = import_module("torch"), import_module("torchvision.models.detection")
    torch.set_num_threads(mxnet_compat.cpu_threads())
    model = getattr(models, name)(weights=None, weights_backbone=None, num_classes=len(SHAPE_CLASSES) + 1).eval()
    tensors = [torch.from_numpy(picture.transpose(2, 0, 1).copy()).float() / 255 for picture in pictures]

    def work() -> int:
        with torch.inference_mode():
            for tensor in tensors:
                model([tensor])
        return len(tensors)

    return work


if __name__ == "__main__":
    main()
