"""Builders of synthetic samples and reports with known mistakes."""

from __future__ import annotations

from typing import Callable, Iterator, List, Sequence

import numpy as np
import PIL
import pytest

from ssd_train.data.structures import ClassNames, Detections, LabeledImage, LabelIssue, Labels
from ssd_train.visualization import draw
from ssd_train.visualization.report_data import ReportData, Sample, summarise

NAMES = ("apple", "pear", "设备")


def draw_sample(index: int, classes: int = 3, size_wh: "tuple[int, int]" = (400, 300)) -> Sample:
    """Draw ellipses on a soft background; some objects are missed, some detections are false positives."""
    rng = np.random.default_rng(index)
    width, height = size_wh
    y, x = np.mgrid[:height, :width]
    base = np.stack([150 + 40 * np.sin((x + 31 * index) / 90), 150 + 50 * np.cos(y / 80), 120 + x / width * 60], axis=2)
    image = base + rng.normal(0, 6, base.shape)
    count = index % 5
    half = rng.uniform(0.06, 0.16, (count, 1)) * [width, width * 0.8]
    centres = half + rng.uniform(0, 1, (count, 2)) * ([width, height] - 2 * half)
    boxes = np.concatenate([centres - half, centres + half], axis=1)
    ids = rng.integers(0, classes, count)
    for (cx, cy), (rx, ry), class_id in zip(centres, half, ids):
        inside = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1
        image[inside] = np.array([[190, 60, 50], [120, 160, 60], [70, 80, 160]])[class_id % 3] + rng.normal(0, 5, 3)
    image = np.clip(image, 0, 255).astype(np.uint8)
    return Sample(
        f"frames/day {index % 3}/picture_{index:03d}.jpg",
        image,
        LabeledImage("p", boxes, ids, size_wh),
        _detections(rng, boxes, ids, size_wh),
    )


def _detections(rng: np.random.Generator, boxes: np.ndarray, ids: np.ndarray, size_wh: "tuple[int, int]") -> Detections:
    found = rng.uniform(size=len(boxes)) < 0.85
    near = boxes[found] + rng.normal(0, 3, (int(found.sum()), 4))
    low = rng.uniform(0, 0.5, (3, 2)) * size_wh
    false = np.concatenate([low, low + rng.uniform(0.1, 0.3, (3, 2)) * size_wh], axis=1)
    scores = np.concatenate([rng.uniform(0.5, 0.99, len(near)), rng.uniform(0.02, 0.45, 3)])
    order = np.argsort(-scores)
    detected = np.clip(np.concatenate([near, false]), 0, [*size_wh, *size_wh])
    return Detections(detected[order], scores[order], np.concatenate([ids[found], [0, 0, 0]])[order], size_wh)


def history(epochs: int, every: int = 2) -> List[dict]:
    rows = []
    for epoch in range(1, epochs + 1):
        progress = 1 - np.exp(-epoch / 7)
        row = {
            "epoch": epoch,
            "CrossEntropy": 6.5 - 4.6 * progress,
            "SmoothL1": 3.1 - 2.2 * progress,
            "learning_rate": 0.004 * (epoch < epochs * 0.75) + 0.0004,
        }
        row["images_per_second"] = 41.5 + np.sin(epoch)
        if epoch % every == 0:
            row.update(
                {
                    "VOC07": 0.86 * progress,
                    "mAP": 0.52 * progress,
                    "mAP@0.5": 0.88 * progress,
                    "val_SmoothL1": 3.3 - 2.0 * progress,
                }
            )
        rows.append(row)
    return rows


def curve(area: float) -> dict:
    recall = np.linspace(0, 0.97, 150)
    return {"recall": recall, "precision": 1 - (1 - area) * 2.2 * recall**4, "score": 1 - recall}


def scores(names: Sequence[str]) -> dict:
    rows = {
        name: {
            "AP": 0.6 - 0.3 * i / len(names),
            "AP@0.5": 0.95 - 0.5 * i / len(names),
            "AP@0.75": 0.7 - 0.4 * i / len(names),
            "VOC07": 0.9 - 0.5 * i / len(names),
            "VOC_area": 0.9,
            "boxes": 140 - i,
            "detections": 900,
        }
        for i, name in enumerate(names)
    }
    return {
        "mAP": 0.512, "mAP@0.5": 0.873, "mAP@0.75": 0.604, "VOC07": 0.851, "VOC_area": 0.87, "per_class": rows,
        "overlap_threshold": 0.5,
        "best_f1": {"f1": 0.874, "precision": 0.902, "recall": 0.848, "threshold": 0.43},
        "false_positives_per_background_image": 0.08,
        "images": 61, "background_images": 12, "boxes": 143,
    }  # fmt: skip


def labels(samples: Sequence[Sample], names: Sequence[str]) -> Labels:
    skipped = [LabelIssue(f"train.manifest:{n}", "labelling failed") for n in (3, 17, 40, 91)]
    skipped.append(LabelIssue("train.manifest:55", "not labelled", "no 'boxes' in it"))
    mended = [LabelIssue("train.manifest:12", "box cut to the picture", "x2 402 > 400")]
    return Labels(
        tuple(s.truth for s in samples), ClassNames(tuple(names)), tuple(skipped), tuple(mended), "train.manifest"
    )


@pytest.fixture
def no_font_files(monkeypatch) -> Iterator[None]:
    """Simulate a machine without installed fonts."""
    monkeypatch.setattr(draw, "FONT_FILES", ("no such font.ttf",))
    caches = (draw._font_paths, draw._fonts, draw.font_for)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def only_built_in_font(no_font_files) -> None:
    """Simulate a machine with only the font bundled with Pillow."""
    if tuple(map(int, PIL.__version__.split(".")[:2])) < (10, 1):
        pytest.skip("Pillow before 10.1 has no scalable font")


@pytest.fixture
def make_report() -> Callable[..., ReportData]:
    return build_report


def build_report(names: Sequence[str] = NAMES, epochs: int = 24, pictures: int = 20) -> ReportData:
    """Return report data with all sections."""
    samples = [draw_sample(index, len(names)) for index in range(pictures)]
    train = labels(samples, names)
    validation = train.subset([i % 4 == 0 for i in range(pictures)])
    return ReportData(
        title="mobilenet1.0 at 300 px on fruit",
        class_names=ClassNames(tuple(names)),
        started="2024-03-08 14:20",
        settings={
            "base_network": "mobilenet1.0",
            "image_shape": 300,
            "epochs": epochs,
            "learning_rate": 0.004,
            "lr_scheduler_step": [16, 20],
            "pretrained": None,
        },
        versions={"python": "3.11.8", "numpy": "1.23.5", "mxnet": "1.9.1"},
        history=history(epochs),
        scores=scores(names),
        curves={name: curve(0.95 - 0.5 * i / len(names)) for i, name in enumerate(names)},
        data=(summarise("train", train), summarise("validation", validation)),
        samples=samples,
        best_epoch=epochs - 2,
        threshold=0.43,
        notes=("The validation set was held out by a hash of the pictures' bytes: 20 % of 76 pictures.",),
    )
