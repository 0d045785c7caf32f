"""Scoring beside GluonCV's metrics and pycocotools, on the same invented detections; and how it grows.

    python -m benchmarks.evaluation_speed [--rounds 5]

Ours computes VOC07, VOC area and COCO figures at once, so it is charged with all of them in each comparison. Clocks run
from detections in memory to figures. The large set is scored in a process of its own, whose memory is read.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple

import numpy as np

from benchmarks.turns import alternate, rounded, times_as_fast
from ssd_train.data.structures import ClassNames, Detections, LabeledImage
from ssd_train.evaluation.metrics import MeanAveragePrecision

SIZE_WH, PER_IMAGE = (640, 480), 100
VOC07_AIM, COCO_AIM = 80, 70
LARGE = (20_000, 80)  # images, classes
LARGE_SECONDS, LARGE_MEGABYTES = 60, 2000


class Scored(NamedTuple):
    """Labels and detections of images, made up."""

    records: List[LabeledImage]
    detections: List[Detections]
    class_names: ClassNames


def main() -> None:
    """Print a JSON line for each comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    for images, classes in ((500, 20), (500, 1)):
        data = invent(images, classes)
        rivals = {"GluonCV VOC07MApMetric": (voc07_by_gluoncv, VOC07_AIM), "pycocotools": (by_pycocotools, COCO_AIM)}
        for name, (rival, aim) in rivals.items():
            print(json.dumps(compare(data, name, rival, rounds, aim if classes > 1 else None)), flush=True)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(json.dumps(pool.apply(large)), flush=True)


def invent(images: int, classes: int) -> Scored:
    """Up to seven labelled boxes an image, half of them found by shifted boxes, and false alarms up to 100."""
    random = np.random.RandomState(1)
    records, detections = [], []
    for index in range(images):
        boxes = _boxes(random, random.randint(1, 8))
        ids = random.randint(0, classes, len(boxes))
        found = np.repeat(boxes, 4, axis=0) + random.normal(0, 6, (4 * len(boxes), 4)).astype(np.float32)
        found = np.concatenate([found, _boxes(random, PER_IMAGE - len(found))])
        found_ids = np.concatenate([np.repeat(ids, 4), random.randint(0, classes, PER_IMAGE - 4 * len(boxes))])
        found = _within(found)
        records.append(LabeledImage(f"{index:06d}.jpg", boxes, ids, SIZE_WH))
        scores = np.sort(random.uniform(0.01, 1, PER_IMAGE).astype(np.float32))[::-1]
        detections.append(Detections(found, scores, found_ids, SIZE_WH))
    return Scored(records, detections, ClassNames(tuple(f"class{i:02d}" for i in range(classes))))


def _boxes(random: np.random.RandomState, count: int) -> np.ndarray:
    corner = random.uniform(0, 0.7, (count, 2)) * SIZE_WH
    return _within(np.concatenate([corner, corner + random.uniform(20, 200, (count, 2))], axis=1))


def _within(boxes: np.ndarray) -> np.ndarray:
    width, height = SIZE_WH
    low = np.clip(boxes[:, :2], 0, [width - 2, height - 2])
    high = np.clip(boxes[:, 2:], low + 1, [width, height])
    return np.concatenate([low, high], axis=1).astype(np.float32)


def compare(
    data: Scored, name: str, rival: Callable[[Scored], Dict[str, float]], rounds: int, aim: "float | None"
) -> Dict[str, Any]:
    """Milliseconds of both, how many times as fast ours is, and both figures."""
    found: Dict[str, Dict[str, float]] = {}

    def turn(who: str, score: Callable[[Scored], Dict[str, float]]) -> Callable[[], int]:
        def work() -> int:
            found[who] = score(data)
            return 1

        return work

    speeds = alternate({"ours": turn("ours", ours), "rival": turn("rival", rival)}, rounds)
    milliseconds = {who: rounded(1000 / max(found)) for who, found in speeds.items()}
    return {
        "case": f"{len(data.records)} images x {PER_IMAGE} detections, {len(data.class_names)} classes",
        "beside": name,
        "ours, ms (best)": milliseconds["ours"],
        "theirs, ms (best)": milliseconds["rival"],
        **times_as_fast(speeds["ours"], speeds["rival"]),
        "aim": aim,
        "scores, ours": {key: round(found["ours"][key], 6) for key in found["rival"]},
        "scores, theirs": {key: round(value, 6) for key, value in found["rival"].items()},
    }


def ours(data: Scored) -> Dict[str, float]:
    """All figures of MeanAveragePrecision."""
    metric = MeanAveragePrecision(data.class_names)
    for record, detections in zip(data.records, data.detections):
        metric.update(detections, record)
    scores = metric.compute()
    return {"VOC07": scores.voc07, "COCO": scores.coco, "AP50": scores.ap50}


def voc07_by_gluoncv(data: Scored) -> Dict[str, float]:
    """Score with GluonCV's VOC07MApMetric, one image at a time, as its train_ssd.py does.

    It counts pixels with the VOC kit's "+ 1", so its result differs a little.
    """
    from ssd_train import mxnet_compat

    mxnet_compat.gluoncv()
    metric = mxnet_compat.gluoncv("utils.metrics.voc_detection").VOC07MApMetric(
        iou_thresh=0.5, class_names=list(data.class_names)
    )
    for record, found in zip(data.records, data.detections):
        columns = (
            found.boxes,
            found.class_ids[:, None],
            found.scores[:, None],
            record.boxes,
            record.class_ids[:, None],
        )
        metric.update(*([column[None]] for column in columns))
    return {"VOC07": float(metric.get()[1][-1])}


def by_pycocotools(data: Scored) -> Dict[str, float]:
    """COCOeval, which always computes its figures by size and for 1 and 10 detections besides."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    boxes = [
        {"image_id": i, "category_id": int(c), "bbox": _xywh(b), "area": float(np.prod(b[2:] - b[:2])), "iscrowd": 0}
        for i, record in enumerate(data.records)
        for b, c in zip(record.boxes, record.class_ids)
    ]
    truth = COCO()
    truth.dataset = {
        "images": [{"id": i, "width": SIZE_WH[0], "height": SIZE_WH[1]} for i in range(len(data.records))],
        "annotations": [{**box, "id": number + 1} for number, box in enumerate(boxes)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(data.class_names)],
    }
    rows = [
        [i, *_xywh(b), float(s), int(c)]
        for i, found in enumerate(data.detections)
        for b, s, c in zip(found.boxes, found.scores, found.class_ids)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(np.array(rows, dtype=float)), "bbox")
        evaluation.evaluate(), evaluation.accumulate(), evaluation.summarize()
    return {"COCO": float(evaluation.stats[0]), "AP50": float(evaluation.stats[1])}


def _xywh(box: np.ndarray) -> List[float]:
    x1, y1, x2, y2 = box.astype(float).tolist()
    return [x1, y1, x2 - x1, y2 - y1]


def large() -> Dict[str, Any]:
    """Seconds and largest memory (MB, all of the process) of scoring the large set."""
    images, classes = LARGE
    data = invent(images, classes)
    start = time.perf_counter()
    ours(data)
    seconds, megabytes = time.perf_counter() - start, peak_megabytes()
    return {
        "case": f"{images} images x {PER_IMAGE} detections, {classes} classes",
        "seconds": rounded(seconds),
        "MB": round(megabytes),
        "aim": f"under {LARGE_SECONDS} s and {LARGE_MEGABYTES} MB",
    }


def peak_megabytes() -> float:
    """Return the peak resident memory of this process in megabytes.

    getrusage cannot be used: its maximum is inherited from the parent.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024


if __name__ == "__main__":
    main()
