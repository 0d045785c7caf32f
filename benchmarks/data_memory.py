"""Memory and speed of what must not grow with a data set: conversion to RecordIO, and a stream of Pipe mode.

    python -m benchmarks.data_memory [--counts 500 4000]

Each figure comes from a process of its own: the resident memory at its highest, less that before the first image. The
pictures are noise, 640 x 480, JPEG of some 230 kB, made once and named differently; the labels have three boxes each.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import cv2
import numpy as np

from ssd_train.data.formats.ground_truth import box_label
from ssd_train.data.formats.json_lines import dump_json
from ssd_train.data.formats.recordio import write_record
from ssd_train.data.labels import LabeledDataset
from ssd_train.data.pipe.channel import SpillFile, read_channel
from ssd_train.data.pipe.stream import DetectionStream, StreamOptions
from ssd_train.data.structures import ClassNames, LabeledImage, Labels
from ssd_train.prepare.convert import convert

SIZE_WH = (640, 480)
DIFFERENT = 16  # pictures
MB = 10**6
BUFFER = 64 * MB


def main() -> None:
    """Print a JSON line for each task and number of images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", nargs="+", type=int, default=[500, 4000])
    flags = parser.parse_args()
    for task in (to_recordio, from_pipe):
        for count in flags.counts:
            print(json.dumps({"task": task.__name__, "images": count, **in_own_process(task, count)}), flush=True)


def in_own_process(task: Callable[[int, Path], int], count: int) -> Dict[str, Any]:
    """Return the result of `measured` in a new process."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(measured, (task, count))


def measured(task: Callable[[int, Path], int], count: int) -> Dict[str, Any]:
    """Return the seconds, images per second and megabytes of data and memory that `task` takes."""
    with tempfile.TemporaryDirectory() as folder:
        before, start = peak(), time.perf_counter()
        size = task(count, Path(folder))
        seconds = time.perf_counter() - start
        return {
            "MB": round(size / MB),
            "seconds": round(seconds, 2),
            "images_per_second": round(count / seconds),
            "memory_MB": round((peak() - before) / MB, 1),
        }


def peak() -> int:
    """Return the peak resident memory in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Noise:
    """ImageSource of a few images under any number of names."""

    def __init__(self) -> None:
        width, height = SIZE_WH
        draw = np.random.RandomState(0)
        pictures = [draw.randint(0, 256, (height, width, 3)).astype(np.uint8) for _ in range(DIFFERENT)]
        self._encoded = [cv2.imencode(".jpg", picture)[1].tobytes() for picture in pictures]

    def read(self, record: LabeledImage) -> bytes:
        """Return the image of a record, whose name is its number."""
        return self._encoded[int(record.name[:8]) % DIFFERENT]

    def locate(self, record: LabeledImage) -> str:
        """Return the name."""
        return record.name


def records(count: int) -> Iterator[LabeledImage]:
    """Yield records with three boxes each."""
    boxes = np.array([[10, 20, 110, 220], [300, 40, 500, 400], [0, 0, 640, 480]], np.float32)
    for index in range(count):
        yield LabeledImage(f"{index:08}.jpg", boxes, np.array([0, 1, 0]), SIZE_WH)


def to_recordio(count: int, folder: Path) -> int:
    """Convert labels in memory and their images; returns the bytes written."""
    data = LabeledDataset(Labels(tuple(records(count)), ClassNames(("a", "b"))), Noise())
    convert(data, "recordio", folder / "x.rec")
    return (folder / "x.rec").stat().st_size


def from_pipe(count: int, folder: Path) -> int:
    """Take a channel that is too large to keep: one pass to know it, and one epoch; returns the bytes of one."""
    sent: List[int] = []
    threading.Thread(target=_write, args=(count, folder, sent), daemon=True).start()
    spill = SpillFile(folder, BUFFER)
    channel = read_channel(folder / "train", 60, spill)
    _, table = channel.class_table(None)
    stream = DetectionStream(folder / "train", table, StreamOptions(1, 60, BUFFER, spill))
    passed = sum(1 for _ in stream.epoch((0, 0)))
    assert passed == len(channel.received) == count
    return sent[0]


def _write(count: int, folder: Path, sent: List[int]) -> None:
    """Two FIFOs, as SageMaker writes them."""
    images = Noise()
    paths: Tuple[Path, Path] = (folder / "train_0", folder / "train_1")
    for path in paths:
        os.mkfifo(path)
    for path in paths:
        size = 0
        with open(path, "wb", buffering=0) as file:
            for record in records(count):
                size += write_record(file, images.read(record)) + write_record(file, dump_json(box_label(record)))
        sent.append(size)


if __name__ == "__main__":
    main()
