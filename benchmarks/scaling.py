"""How time and memory grow with the number of images: 1 000, 10 000, 100 000.

    python -m benchmarks.scaling [--counts 1000 10000 100000]

A few drawn pictures lie in the folder under as many names (hard links), so that reading, decoding and augmenting are as
real as with different ones. Each count is a process of its own: the start-up of `train` (labels parsed, every file
looked at, network built, first batch ready), some training steps, and an epoch of the data path alone; that is what
grows, for a step of training does not know how many images there are. Without the cache of decoded pictures, which is
bounded by the memory that is free and would hide how much the rest takes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List

import numpy as np

from benchmarks.evaluation_speed import peak_megabytes
from benchmarks.turns import rounded
from ssd_train.data.formats.ground_truth import write_ground_truth
from ssd_train.data.image_io import encode_jpeg
from ssd_train.data.structures import LabeledImage
from ssd_train.data.synthetic import SHAPE_CLASSES, draw_shapes_set

DIFFERENT, SIZE_WH, SIDE = 64, (320, 240), 128
STEPS = 20
START_AIM = 10.0  # seconds, at the largest count


def main() -> None:
    """Print a JSON line for each count, and one that compares the largest with the smallest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10_000, 100_000])
    rows: List[Dict[str, Any]] = []
    for count in parser.parse_args().counts:
        with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(1) as pool:
            write_many(Path(folder), count)
            rows.append(pool.apply(measure, (Path(folder), count)))
            print(json.dumps(rows[-1]), flush=True)
    print(json.dumps(grown(rows[0], rows[-1])), flush=True)


def write_many(folder: Path, count: int) -> None:
    """`count` names of DIFFERENT pictures, and a manifest."""
    (folder / "images").mkdir()
    samples = draw_shapes_set(DIFFERENT, 1, SIZE_WH, empty_fraction=0.0)
    for index, sample in enumerate(samples):
        (folder / f"{index}.jpg").write_bytes(encode_jpeg(sample.image))
    records = []
    for index in range(count):
        name, sample = f"{index:06d}.jpg", samples[index % DIFFERENT]
        os.link(folder / f"{index % DIFFERENT}.jpg", folder / "images" / name)
        records.append(LabeledImage(f"s3://bucket/images/{name}", sample.boxes, sample.class_ids, SIZE_WH))
    write_ground_truth(folder / "output.manifest", records, SHAPE_CLASSES)


def measure(folder: Path, count: int) -> Dict[str, Any]:
    """Seconds of the start, milliseconds of a step, seconds of an epoch of the data path, and memory on the way."""
    start = time.perf_counter()
    from ssd_train.config import TrainConfig
    from ssd_train.environment import Environment
    from ssd_train.progress import Progress
    from ssd_train.training.engine import train_one_epoch
    from ssd_train.training.setup import build_setup

    imported = time.perf_counter()
    config = TrainConfig(base_network="mobilenet0.25", image_shape=SIDE, cache_images=0, use_pretrained_model=0)
    environment = Environment(train=folder / "images", labels=folder / "output.manifest")
    setup = build_setup(config, environment, Progress())
    batches = setup.train_loader.epoch(0)
    next(batches)
    started = time.perf_counter()
    at_start = peak_megabytes()
    firsts = [next(batches) for _ in range(STEPS)]
    train_one_epoch(setup.train_step, firsts[:2], [1e-4] * 2)
    seconds = train_one_epoch(setup.train_step, firsts, [1e-4] * STEPS)["seconds"]
    batches.close()
    trained = peak_megabytes()
    begun = time.perf_counter()
    images = sum(len(batch) for batch in setup.train_loader.epoch(1))
    epoch = time.perf_counter() - begun
    return {
        "images": count,
        "start-up, s": rounded(started - imported),
        "imports besides, s": rounded(imported - start),
        "ms a training step": rounded(1000 * seconds / STEPS),
        "data path: ms an image": rounded(1000 * epoch / images),
        "data path: s an epoch": rounded(epoch),
        "MB at the start": round(at_start),
        "MB after steps": round(trained),
        "MB after an epoch": round(peak_megabytes()),
    }


def grown(least: Dict[str, Any], most: Dict[str, Any]) -> Dict[str, Any]:
    """Compare the costs of the largest count with those of the smallest."""
    more = most["images"] - least["images"]
    return {
        "images": f"{most['images']} beside {least['images']}",
        "start-up, s": f"{most['start-up, s']} (aim: under {START_AIM:g})",
        "data path: ms an image": rounded(np.divide(most["data path: ms an image"], least["data path: ms an image"])),
        "kB a further image: labels and order": rounded(
            1000 * (most["MB at the start"] - least["MB at the start"]) / max(more, 1)
        ),
        "MB that an epoch adds": most["MB after an epoch"] - most["MB after steps"],
    }


if __name__ == "__main__":
    main()
