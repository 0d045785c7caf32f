"""From a JPEG to what the network trains on: ours beside GluonCV's transform, images per second of one core.

    python -m benchmarks.data_path [--cases 300 300-cached 512 512-cached 1080p] [--rounds 7]

A picture is read, decoded, augmented (`ssd`, the same distributions as GluonCV's SSDDefaultTrainTransform), and the
targets for the network's anchors are made. Both run in this process, bound to one processor, and alternate. GluonCV
decodes each time, as its users' data sets do; ours decodes each time, or keeps decoded pictures (cached).
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import json
import os
import pstats
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple

import cv2
import numpy as np

from benchmarks.pictures import write_pictures
from benchmarks.turns import alternate, figures, times_as_fast
from ssd_train import mxnet_compat
from ssd_train.data.dataset import DetectionDataset
from ssd_train.data.formats.ground_truth import read_ground_truth
from ssd_train.data.image_sources import FolderImages
from ssd_train.data.loaders import EpochSampler, TrainLoader
from ssd_train.data.transforms import TrainTransform
from ssd_train.model.anchors import anchor_layout, make_anchors
from ssd_train.model.targets import TargetEncoder

NETWORK, BATCH = "mobilenet1.0", 8


class Case(NamedTuple):
    """Pixels of the network, pictures and their size, whether decoded pictures are kept, and the ratio aimed at."""

    side: int
    pictures: int
    size_wh: "tuple[int, int]"
    cached: bool
    aim: float


CASES = {
    "300": Case(300, 64, (640, 480), False, 10),
    "300-cached": Case(300, 64, (640, 480), True, 17),
    "512": Case(512, 64, (640, 480), False, 7),
    "512-cached": Case(512, 64, (640, 480), True, 10),
    "1080p": Case(300, 16, (1920, 1080), False, 17),
}


def main() -> None:
    """Print a JSON line for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--profile", action="store_true", help="where our time goes, instead")
    flags = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # threads that begin later inherit it
    cv2.setNumThreads(1)
    for name in flags.cases:
        with tempfile.TemporaryDirectory() as folder:
            if flags.profile:
                profile(name, Path(folder))
            else:
                print(json.dumps(measure(name, Path(folder), flags.rounds)), flush=True)


def measure(name: str, folder: Path, rounds: int) -> Dict[str, Any]:
    """Images per second of both, and the ratio."""
    case = CASES[name]
    images, labels = write_pictures(folder, case.pictures, case.size_wh)
    speeds = alternate({"ours": ours(case, images, labels), "gluoncv": gluoncvs(case, images, labels)}, rounds)
    ratio = times_as_fast(speeds["ours"], speeds["gluoncv"])
    row = {"case": name, "ours, images/s": figures(speeds["ours"]), "GluonCV, images/s": figures(speeds["gluoncv"])}
    return {**row, **ratio, "aim": case.aim, "reached": ratio["median ratio"] >= case.aim}


def ours(case: Case, images: Path, labels: Path) -> Callable[[], int]:
    """Return a function that makes all batches of an epoch as `train` does, in one thread."""
    dataset = DetectionDataset(
        read_ground_truth(labels), FolderImages(images), case.side, 1 << 30 if case.cached else 0
    )
    encode = TargetEncoder(make_anchors(anchor_layout(NETWORK, case.side)))
    sampler = EpochSampler(len(dataset), BATCH, seed=1)
    loader = TrainLoader(dataset, TrainTransform(case.side, "ssd", encode), sampler, workers=0)
    epochs = itertools.count()
    return lambda: sum(len(batch) for batch in loader.epoch(next(epochs)))


def gluoncvs(case: Case, images: Path, labels: Path) -> Callable[[], int]:
    """Return the same with GluonCV's transform and target generator, on images that MXNet decodes."""
    mx = mxnet_compat.mxnet()
    mxnet_compat.gluoncv()
    preset = mxnet_compat.gluoncv("data.transforms.presets.ssd")
    anchors = mx.nd.array(make_anchors(anchor_layout(NETWORK, case.side)))[None]
    transform = preset.SSDDefaultTrainTransform(case.side, case.side, anchors)
    source = FolderImages(images)
    items: List[Any] = [
        (source.locate(r), np.concatenate([r.boxes, r.class_ids[:, None]], axis=1).astype(np.float32))
        for r in read_ground_truth(labels).records
    ]

    def work() -> int:
        for path, label in items:
            for array in transform(mx.image.imread(path, 1), label):
                array.wait_to_read()
        return len(items)

    return work


def profile(name: str, folder: Path) -> None:
    """Print where our time goes."""
    case = CASES[name]
    work = ours(case, *write_pictures(folder, case.pictures, case.size_wh))
    work()
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(5):
        work()
    profiler.disable()
    print(f"== {name}: milliseconds for {5 * case.pictures} pictures")
    pstats.Stats(profiler).sort_stats("tottime").print_stats(22)


if __name__ == "__main__":
    main()
