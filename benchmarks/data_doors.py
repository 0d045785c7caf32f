"""The doors for data: a manifest of 100 000 lines, images checked beside images decoded, RecordIO written.

    python -m benchmarks.data_doors [--rounds 5]

Each measurement of memory runs in a process of its own, whose largest size the operating system keeps. Checking and
decoding alternate in one process, on all processors.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, Tuple

import numpy as np

from ssd_train.data.checks.runner import CheckResult, Split, check_data, quick_check
from ssd_train.data.formats.ground_truth import read_ground_truth, write_ground_truth
from ssd_train.data.formats.recordio import write_recordio
from ssd_train.data.image_io import decode
from ssd_train.data.image_sources import FolderImages
from ssd_train.data.structures import LabeledImage
from ssd_train.data.synthetic import SHAPE_CLASSES, draw_shapes_set, write_drawn_set
from ssd_train.model.anchors import anchor_layout, make_anchors
from ssd_train.parallel import ordered_map
from ssd_train.resources import available_cpus

LINES, PICTURES, SIDE = 100_000, 400, 300
PICTURE_WH = (1280, 960)


def main() -> None:
    """Print a JSON line a measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_long_manifest(Path(folder) / "long.manifest")
        seconds, megabytes = in_own_process(check_labels, manifest)
        print(json.dumps({"what": f"{LINES} lines read and checked", "seconds": seconds, "MB": megabytes}), flush=True)
        images, labels = write_drawn_set(
            Path(folder), draw_shapes_set(PICTURES, 1, PICTURE_WH), SHAPE_CLASSES, "shapes"
        )
        print(json.dumps(checked_beside_decoded(images, labels, rounds)), flush=True)
        for times in (1, 4):
            seconds, megabytes = in_own_process(write_records, images, labels, times)
            what = f"RecordIO of {PICTURES * times} pictures"
            print(json.dumps({"what": what, "seconds": seconds, "MB": megabytes}), flush=True)


def write_long_manifest(path: Path) -> Path:
    """LINES images of three boxes each."""
    random = np.random.RandomState(0)
    corners = random.randint(0, 900, (LINES, 3, 2))
    sides = random.randint(5, 150, (LINES, 3, 2))
    boxes = np.concatenate([corners, corners + sides], axis=2)
    records = [
        LabeledImage(f"s3://bucket/frames/video_{i % 50}/{i:06d}.jpg", boxes[i], [0, 1, 2], (1920, 1080))
        for i in range(LINES)
    ]
    write_ground_truth(path, records, SHAPE_CLASSES)
    return path


def check_labels(manifest: Path) -> CheckResult:
    """Run `check` without images."""
    anchors = {SIDE: make_anchors(anchor_layout("mobilenet1.0", SIDE))}
    return check_data([Split("train", read_ground_truth(manifest, on_bad="skip"))], SIDE, anchors)


def write_records(images: Path, labels: Path, times: int) -> int:
    """All pictures as RecordIO, `times` over."""
    records = read_ground_truth(labels).records
    with tempfile.TemporaryDirectory() as folder:
        return write_recordio(
            Path(folder) / "all.rec", (r for _ in range(times) for r in records), FolderImages(images)
        )


def checked_beside_decoded(images: Path, labels: Path, rounds: int) -> Dict[str, Any]:
    """Images per second of decoding alone, of the whole check and of its cheap part, and the first two's ratio."""
    data, source = read_ground_truth(labels), FolderImages(images)
    anchors = {SIDE: make_anchors(anchor_layout("mobilenet1.0", SIDE))}

    def decode_all() -> None:
        for _ in ordered_map(
            lambda r: decode(source.read(r), r.where, r.size_wh).shape, data.records, available_cpus()
        ):
            pass

    turns = {
        "decode": decode_all,
        "check": lambda: check_data([Split("train", data, source)], SIDE, anchors),
        "cheap": lambda: quick_check(data, source),
    }
    speeds: Dict[str, list] = {name: [] for name in turns}
    for _ in range(rounds + 1):  # the first round warms up
        for name, turn in turns.items():
            speeds[name].append(PICTURES / timed(turn))
    medians = {f"{name}_per_second": round(statistics.median(s[1:]), 1) for name, s in speeds.items()}
    ratios = [c / d for c, d in zip(speeds["check"][1:], speeds["decode"][1:])]
    return {"what": "images checked beside decoded", **medians, "share_median": round(statistics.median(ratios), 3)}


def timed(work: Callable[[], Any]) -> float:
    """Seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_own_process(work: Callable[..., Any], *arguments: Any) -> Tuple[float, float]:
    """Seconds and largest memory (MB) of `work` in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (work, arguments))


def _measured(work: Callable[..., Any], arguments: Tuple[Any, ...]) -> Tuple[float, float]:
    seconds = timed(lambda: work(*arguments))
    # not getrusage's maximum: a new process inherits that of the one it was made by
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return round(seconds, 2), round(int(peak.split()[1]) / 1024, 1)


if __name__ == "__main__":
    main()
