"""How much of the network's own speed is left when pictures have to be read, augmented and scored along the way.

    python -m benchmarks.training_speed [--side 300] [--cache] [--rounds 5]

Turns alternate: steps on a batch that lies on the device (the floor: forward, backward, update, nothing else), and as
many batches of an epoch as `train` makes them. The best of the rounds counts, because other work on a machine can only
slow a turn down; the median stands beside it. Pictures are drawn, JPEG, 640 x 480.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List

from ssd_train import framework
from ssd_train.config import TrainConfig
from ssd_train.data.batches import EpochSampler, TrainLoader, default_workers
from ssd_train.data.dataset import DetectionDataset
from ssd_train.data.drawn import SHAPE_CLASSES, draw_shapes_set, write_drawn_set
from ssd_train.data.formats.ground_truth import read_ground_truth
from ssd_train.data.sources import FolderImages
from ssd_train.data.transforms import TrainTransform
from ssd_train.model.anchors import anchor_layout, make_anchors
from ssd_train.model.net import build_net
from ssd_train.model.targets import TargetEncoder
from ssd_train.training.devices import contexts, split
from ssd_train.training.engine import Learner, train_one_epoch

mx = framework.mxnet()
PICTURES, STEPS = 96, 12


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=300)
    parser.add_argument("--cache", action="store_true", help="keep decoded pictures")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--base_network", default="mobilenet1.0")
    flags = parser.parse_args()
    print(json.dumps(measure(flags.side, flags.cache, flags.rounds, flags.base_network)), flush=True)


def measure(side: int, cache: bool, rounds: int, base_network: str = "mobilenet1.0") -> Dict[str, Any]:
    """Images per second of both, and the share of the floor that is reached."""
    config = TrainConfig(image_shape=side, base_network=base_network)
    net = build_net(base_network, side, list(SHAPE_CLASSES), config.seed)
    learner = Learner(net, config, contexts())
    with tempfile.TemporaryDirectory() as folder:
        images, labels = write_drawn_set(
            Path(folder), draw_shapes_set(PICTURES, 1, (640, 480)), SHAPE_CLASSES, "shapes"
        )
        loader = make_loader(config, images, labels, cache)
        floor, whole = [], []
        floor_turn(learner, loader, 2), whole_turn(learner, loader, 0)  # the first calls trace and allocate
        for turn in range(rounds):
            floor.append(floor_turn(learner, loader, STEPS))
            whole.append(whole_turn(learner, loader, turn + 1))
    return {
        "side": side,
        "cache": cache,
        "threads": framework.cpu_threads(),
        "floor_best": round(max(floor), 2),
        "whole_best": round(max(whole), 2),
        "share_best": round(max(whole) / max(floor), 3),
        "share_median": round(statistics.median(w / f for w, f in zip(whole, floor)), 3),
    }


def make_loader(config: TrainConfig, images: Path, labels: Path, cache: bool) -> TrainLoader:
    """The loader that `train` makes, over drawn pictures."""
    side = config.image_shape
    dataset = DetectionDataset(read_ground_truth(labels), FolderImages(images), side, 1 << 30 if cache else 0)
    transform = TrainTransform(
        side, config.augmentation, TargetEncoder(make_anchors(anchor_layout(config.base_network, side)))
    )
    return TrainLoader(dataset, transform, EpochSampler(PICTURES, config.mini_batch_size, 1), default_workers())


def floor_turn(learner: Learner, loader: TrainLoader, steps: int) -> float:
    """Images per second of `steps` bare steps on one batch that is on the device already."""
    batch = next(iter(loader.epoch(0)))
    device = learner.devices[0]
    arrays: List[Any] = [split(array, [device])[0] for array in batch.arrays()]
    scale = mx.nd.array([1.0 / max(batch.positives, 1)], ctx=device)
    mx.nd.waitall()
    start = time.perf_counter()
    for _ in range(steps):
        with mx.autograd.record():
            loss = learner.graph(*arrays, scale)[0]
        loss.backward()
        learner.trainer.update(1)
    mx.nd.waitall()
    return steps * len(batch) / (time.perf_counter() - start)


def whole_turn(learner: Learner, loader: TrainLoader, epoch: int) -> float:
    """Images per second of an epoch as `train` runs it."""
    result = train_one_epoch(learner, loader.epoch(epoch), [1e-5] * len(loader))
    return result["images"] / result["seconds"]


if __name__ == "__main__":
    main()
