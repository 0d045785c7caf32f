"""How much of the network's own speed is left when pictures have to be read, augmented and scored along the way.

    python -m benchmarks.training_speed [--side 300] [--cache] [--rounds 5] [--pattern REGEX]

Turns alternate: steps on a batch that lies on the device (the floor: forward, backward, update, nothing else), and a
whole epoch as `train` makes it. The best of the rounds counts, because other work on a machine can only slow a turn
down; the median stands beside it. Pictures are drawn, JPEG, 640 x 480. Ours trains in bfloat16 where `train` does by
default.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any, Dict

from benchmarks.pictures import write_pictures
from benchmarks.turns import alternate, figures, times_as_fast
from ssd_train import mxnet_compat
from ssd_train.config import TrainConfig
from ssd_train.data.dataset import DetectionDataset
from ssd_train.data.formats.ground_truth import read_ground_truth
from ssd_train.data.image_sources import FolderImages
from ssd_train.data.loaders import EpochSampler, TrainLoader, default_workers
from ssd_train.data.transforms import TrainTransform
from ssd_train.devices import contexts, split_and_load
from ssd_train.model.anchors import anchor_layout, make_anchors
from ssd_train.model.net import build_net, freeze
from ssd_train.model.targets import TargetEncoder
from ssd_train.training.distributed.communicator import Communicator
from ssd_train.training.engine import train_one_epoch
from ssd_train.training.setup import resolve_amp
from ssd_train.training.step import TrainStep

mx = mxnet_compat.mxnet()
PICTURES = 96
RATE = 1e-5  # a net that learned from so few pictures would change what there is to compute


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=300)
    parser.add_argument("--cache", action="store_true", help="keep decoded pictures")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--base_network", default="mobilenet1.0")
    parser.add_argument("--pattern", default="", help="layers to freeze")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images, labels = write_pictures(Path(folder), PICTURES)
        course = Course(flags.side, images, labels, flags.cache, flags.base_network, flags.pattern)
        print(json.dumps(measure(course, flags)), flush=True)


def measure(course: "Course", flags: argparse.Namespace) -> Dict[str, Any]:
    """Images per second of both, and the share of the floor that is reached."""
    epochs = itertools.count()
    batch = next(iter(course.loader.epoch(0)))
    speeds = alternate(
        {"floor": lambda: course.floor(batch), "whole": lambda: course.epoch(next(epochs))["images"]}, flags.rounds
    )
    share = times_as_fast(speeds["whole"], speeds["floor"])
    return {
        "pixels": flags.side,
        "pictures": "cached" if flags.cache else "decoded each time",
        "threads": mxnet_compat.cpu_threads(),
        "floor, images/s": figures(speeds["floor"]),
        "whole epoch, images/s": figures(speeds["whole"]),
        "share of bests": share["ratio of bests"],
        "median share": share["median ratio"],
        "aim": 0.96 if flags.cache or flags.side >= 512 else 0.92,
    }


class Course:
    """A net and its data as `train` puts them together, ready to go through epochs."""

    def __init__(
        self,
        side: int,
        images: Path,
        labels: Path,
        cache: bool,
        base_network: str = "mobilenet1.0",
        pattern: str = "",
    ) -> None:
        found = read_ground_truth(labels)
        config = resolve_amp(
            TrainConfig(image_shape=side, base_network=base_network), contexts()[0], None, Communicator()
        )
        net = build_net(base_network, side, list(found.class_names), config.seed)
        freeze(net, base_network, pattern)
        self.train_step = TrainStep(net, config, contexts())
        dataset = DetectionDataset(found, FolderImages(images), side, 1 << 30 if cache else 0)
        encode = TargetEncoder(make_anchors(anchor_layout(base_network, side)))
        sampler = EpochSampler(len(dataset), config.mini_batch_size, seed=1)
        transform = TrainTransform(side, config.augmentation, encode)
        self.loader = TrainLoader(dataset, transform, sampler, default_workers())

    def epoch(self, epoch: int) -> Dict[str, float]:
        """Train one epoch as `train` does."""
        return train_one_epoch(self.train_step, self.loader.epoch(epoch), [RATE] * len(self.loader))

    def floor(self, batch: Any) -> int:
        """As many bare steps as an epoch has, on one batch that is on the device already; the images of all."""
        train_step = self.train_step
        device = train_step.devices[0]
        arrays = [split_and_load(array, [device])[0] for array in batch.arrays()]
        scale = mx.nd.array([1.0 / max(batch.positives, 1)], ctx=device)
        train_step.trainer.set_learning_rate(RATE)
        for _ in range(len(self.loader)):
            with mx.autograd.record():
                loss = train_step.graph(*arrays, scale)[0]
            loss.backward()
            train_step.trainer.update(1)
        mx.nd.waitall()
        return len(self.loader) * len(batch)


if __name__ == "__main__":
    main()
