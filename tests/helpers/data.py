"""Drawn data sets, label sets, settings, streams as SageMaker writes them, and damaged bytes."""

from __future__ import annotations

import io
import json
import os
import random
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ssd_train.config import TrainConfig
from ssd_train.data.formats.ground_truth import box_label
from ssd_train.data.formats.recordio import write_record
from ssd_train.data.image_io import encode_png
from ssd_train.data.image_sources import MemoryImages
from ssd_train.data.structures import ClassNames, ImageSource, LabeledImage, Labels
from ssd_train.data.synthetic import SHAPE_CLASSES, draw_shapes_set, write_drawn_set
from ssd_train.evaluation.predictions import prediction_line, read_prediction_lines
from ssd_train.progress import Item, Progress
from ssd_train.storage.atomic import open_atomic

# the smallest job that is still a whole one; in float32, so that it computes the same on every processor
SMALL = {
    "base_network": "mobilenet0.25",
    "image_shape": 128,
    "use_pretrained_model": 0,
    "epochs": 2,
    "mini_batch_size": 4,
    "num_workers": 1,
    "amp": 0,
}


class DrawnSet(NamedTuple):
    """A folder of images and the manifest that labels them."""

    images: Path
    manifest: Path


def shapes_set(folder: Path, count: int, seed: int = 1, **drawing: Any) -> DrawnSet:
    """`count` drawn pictures of discs, squares and triangles below `folder`, as a labelling job leaves them."""
    samples = draw_shapes_set(count, seed, **drawing)
    return DrawnSet(*write_drawn_set(folder, samples, SHAPE_CLASSES, "shapes", "png"))


def small_config(**settings: Any) -> TrainConfig:
    """The settings of SMALL, changed by `settings`."""
    return TrainConfig.from_mapping({**SMALL, **settings})


def flags_of(settings: "dict[str, Any]") -> List[str]:
    """--name value for each of `settings` that is not None."""
    given = {name: str(value) for name, value in settings.items() if value is not None}
    return [part for name, value in given.items() for part in (f"--{name}", value)]


def picture(size_wh: Tuple[int, int] = (40, 30), seed: int = 0) -> np.ndarray:
    """Noise, RGB uint8 (H, W, 3)."""
    return np.random.RandomState(seed).randint(0, 256, (size_wh[1], size_wh[0], 3)).astype(np.uint8)


def write_files(root: Path, files: "Dict[str, Any]") -> Path:
    """Write each of `files`, by name below `root`: bytes, a text, or what JSON can hold; return `root`."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, (bytes, str)):
            content = json.dumps(content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def label_set(
    boxes: "Sequence[Sequence[Sequence[float]]]",
    class_ids: "Optional[Sequence[Sequence[int]]]" = None,
    size_wh: Optional[Tuple[int, int]] = (40, 30),
    class_names: Sequence[str] = ("cat", "dog"),
) -> Labels:
    """A record for each entry of `boxes`, of class 0 unless `class_ids` tells, from lines 1, 2, ... of a file."""
    ids = class_ids or [[0] * len(rows) for rows in boxes]
    records = [
        LabeledImage(f"{index}.png", rows, classes, size_wh, f"train.manifest:{index + 1}")
        for index, (rows, classes) in enumerate(zip(boxes, ids))
    ]
    return Labels(tuple(records), ClassNames(tuple(class_names)), source="train.manifest")


def write_yolo_beside(folder: Path, labels: Labels) -> Path:
    """Write YOLO's texts of `labels` and classes.txt into the folder of the images, as LabelImg does; return it."""
    lines = {}
    for record in labels.records:
        x1, y1, x2, y2 = (record.boxes / np.array([*record.size_wh] * 2)).T
        rows = zip(record.class_ids, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
        text = "\n".join("{} {:.8f} {:.8f} {:.8f} {:.8f}".format(*row) for row in rows)
        lines[str(Path(record.name).with_suffix(".txt"))] = text
    return write_files(folder, {**lines, "classes.txt": "\n".join(labels.class_names)})


def memory_images(labels: Labels, pictures: Optional[Iterable[np.ndarray]] = None) -> MemoryImages:
    """A PNG for each record of `labels`: of `pictures`, or of noise in the record's size."""
    given = pictures or [picture(record.size_wh or (40, 30), index) for index, record in enumerate(labels.records)]
    return MemoryImages({record.name: encode_png(image) for record, image in zip(labels.records, given)})


class HeardProgress(Progress):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.lines: List[str] = []
        self.warnings: List[str] = []

    def info(self, text: str) -> None:
        self.lines.append(text)

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def track(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        yield from items


def framed(*records: bytes) -> bytes:
    """Records one after the other, as RecordIO."""
    file = io.BytesIO()
    for record in records:
        write_record(file, record)
    return file.getvalue()


def metadata(class_names: Iterable[str]) -> bytes:
    """A label's metadata with a class-map of all classes."""
    names = {str(class_id): name for class_id, name in enumerate(class_names)}
    return json.dumps({"class-map": names, "type": "groundtruth/object-detection", "job-name": "j"}).encode()


def samples(
    records: Sequence[LabeledImage], images: ImageSource, class_names: Optional[ClassNames] = None
) -> List[bytes]:
    """The framed records of each sample: image, label, and metadata where there are `class_names`."""
    third = [] if class_names is None else [metadata(class_names)]
    return [framed(images.read(record), json.dumps(box_label(record)).encode(), *third) for record in records]


class FifoWriter:
    """Writes each of `streams`, lists of pieces, into its FIFO, `delay` seconds before each piece; the next FIFO is
    made when the one before was opened."""

    def __init__(self, channel: Path, streams: Sequence[Sequence[bytes]], delay: float = 0) -> None:
        self.channel, self.streams, self.delay = channel, streams, delay
        self.opened: List[int] = []  # numbers of the FIFOs that a reader opened
        self.finished: List[int] = []  # and of those that it took to the end
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "FifoWriter":
        os.mkfifo(f"{self.channel}_0")
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        # a writer that nobody reads waits for ever; it is let go by reading
        waiting = [number for number in range(len(self.streams)) if number not in self.opened]
        for number in waiting:
            self._let_go(number)
        self._thread.join(10)

    def _let_go(self, number: int) -> None:
        path = f"{self.channel}_{number}"
        deadline = time.monotonic() + 5
        while not os.path.exists(path) and self._thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        if os.path.exists(path) and self._thread.is_alive() and number not in self.opened:
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))

    def _run(self) -> None:
        for number, pieces in enumerate(self.streams):
            try:
                with open(f"{self.channel}_{number}", "wb", buffering=0) as file:
                    self.opened.append(number)
                    if number + 1 < len(self.streams):
                        os.mkfifo(f"{self.channel}_{number + 1}")
                    for piece in pieces:
                        time.sleep(self.delay)
                        file.write(piece)
                self.finished.append(number)
            except BrokenPipeError:  # the reader has closed early
                continue


def options(**changes: Any) -> Dict[str, Any]:
    """Settings of Pipe mode that suit a test."""
    return {"pipe_timeout": 5, "pipe_spill_gb": 0.1, "pipe_buffer_mb": 1, **changes}


TOKENS = [
    *[b"", b"0", b"-1", b"1e999", b"9" * 30, b"NaN", b"nan", b"inf", b"null", b"true"],
    *[b'"', b"{", b"}", b"[", b"]", b",", b":", b"<", b"</", b"&", b"\\ud800"],
    *[b"\n", b"\r", b"\t", b"\0", b"\xff", b"\xc3", b"\x80" * 4, b"\xff" * 4],
]


def tries(usual: int) -> int:
    """How many mutations to try: SSD_TRAIN_FUZZ, or without it the `usual` number."""
    return int(os.environ.get("SSD_TRAIN_FUZZ", usual))


def mutated(data: bytes, rng: random.Random, most: int = 5) -> bytes:
    """`data` with one to `most` changes: bytes lost, repeated, or replaced by tokens or noise. Now and then it is cut
    off."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, most)):
        start = rng.randrange(len(changed) + 1)
        end = start + rng.choice([0, 0, 1, 1, 2, 5, 20])
        noise = bytes(rng.randrange(256) for _ in range(rng.choice([1, 4, 8])))
        changed[start:end] = rng.choice([*TOKENS, bytes(changed[end : end + 30]), noise])
    return bytes(changed[: rng.randrange(len(changed) + 1)] if rng.random() < 0.05 else changed)


def pdf_pages(path: Path) -> List[np.ndarray]:
    """Return the image of each page, RGB uint8 (H, W, 3)."""
    from pypdf import PdfReader

    reader = PdfReader(path, strict=True)
    return [np.asarray(image.image) for page in reader.pages for image in page.images]


def cell_of(index):
    """Return x1, y1, x2, y2 in pixels of the cell `index`, 0 to 14, of a page of the PDF."""
    from ssd_train.visualization.pdf import CELL_WH, COLUMNS, PAGE_WH

    left = (PAGE_WH[0] - COLUMNS * CELL_WH[0]) // 2 + index % COLUMNS * CELL_WH[0]
    top = 36 + index // COLUMNS * CELL_WH[1]
    return left, top, left + CELL_WH[0], top + CELL_WH[1]


def write_predictions(path, predictions, class_names=None):
    """Write a line of predictions for each (image name, detections)."""
    with open_atomic(Path(path)) as file:
        for name, detections in predictions:
            file.write(prediction_line(name, detections, class_names))


def read_predictions(path):
    """Return the rows of a file of predictions by image name."""
    return {prediction.image: prediction.rows for prediction in read_prediction_lines(path)}
