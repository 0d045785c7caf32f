"""Planted label errors: how many of them `audit` ranks first, beside chance and beside cleanlab's scores.

    SSD_TRAIN_DATA=... python -m benchmarks.label_errors [--sets raccoon fruit drawn] [--plantings 1 2 3 4 5]
        [--work FOLDER] [--cleanlab PYTHON] [--json FILE] [name=value ...]

A planting changes 5 % of the boxes of a data set for each kind of error, no box twice: boxes are removed, added where
no object is, given another class, and shifted (IoU 0.3 to 0.6 with the true box). `audit` then trains on these labels,
which contain all the errors, with three folds, and ranks them. cleanlab scores the same out-of-fold detections in an
interpreter of its own (--cleanlab, with cleanlab installed).
"""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, List, Tuple

import numpy as np

from ssd_train.boxes import intersection_matrix, iou_matrix
from ssd_train.data.structures import LabeledImage, Labels

FRACTION = 0.05
SHIFTED_IOU = (0.3, 0.6)
ROOM = 0.1  # greatest IoU of an added box with a true one, and greatest share of either that is covered
TRIES = 1000


def plant(labels: Labels, seed: int, fraction: float = FRACTION) -> Tuple[Labels, List[Dict[str, Any]]]:
    """Return labels with errors, and the errors: kind, image, box and class id in the new labels.

    The box of a missing label is the one that was removed. All records must have a size.
    """
    random = np.random.RandomState(seed)
    places = [(i, b) for i, record in enumerate(labels.records) for b in range(len(record.boxes))]
    count = max(round(fraction * len(places)), 1)
    kinds = ["missing", "shifted", *(["wrong_class"] if len(labels.class_names) > 1 else [])]
    chosen = [places[index] for index in random.permutation(len(places))[: count * len(kinds)]]
    rows = [[[*box.tolist(), int(c)] for box, c in zip(r.boxes, r.class_ids)] for r in labels.records]
    errors: List[Dict[str, Any]] = []

    def note(kind: str, image: int, row: List[Any]) -> None:
        """Remember an error."""
        errors.append({"kind": kind, "image": labels.records[image].name, "box": row[:4], "class_id": row[4]})

    removed = set()
    for number, (image, index) in enumerate(chosen):
        kind, row = kinds[number // count], rows[image][index]
        if kind == "missing":
            removed.add((image, index))
        elif kind == "wrong_class":
            row[4] = (row[4] + random.randint(1, len(labels.class_names))) % len(labels.class_names)
        else:
            row[:4] = _shifted(labels.records[image], index, random)
        note(kind, image, row)
    rows = [[row for b, row in enumerate(rows[i]) if (i, b) not in removed] for i in range(len(rows))]
    while sum(error["kind"] == "spurious" for error in errors) < count:
        image, (source, index) = random.randint(len(rows)), places[random.randint(len(places))]
        row = _added(labels.records[image], labels.records[source], index, random)
        if row is not None:
            rows[image].append(row)
            note("spurious", image, row)
    records = [
        dataclasses.replace(r, boxes=np.array([row[:4] for row in new]), class_ids=[row[4] for row in new])
        for r, new in zip(labels.records, rows)
    ]
    return dataclasses.replace(labels, records=tuple(records)), errors


def _shifted(record: LabeledImage, index: int, random: np.random.RandomState) -> List[float]:
    """Return the box moved in a random direction, clipped to the image; by less if the image leaves no room."""
    box, limits = record.boxes[index].astype(float), np.array([*record.size_wh, *record.size_wh], float)
    best = box
    for _ in range(TRIES):
        move = random.uniform(-0.7, 0.7, 2) * (box[2:] - box[:2])
        scale = random.uniform(0.5, 1.4, 2) * (box[2:] - box[:2]) / 2
        centre = (box[:2] + box[2:]) / 2 + move
        new = np.clip(np.round(np.concatenate([centre - scale, centre + scale])), 0, limits)
        if (new[2:] - new[:2]).min() < 2:
            continue
        iou = float(iou_matrix(box[None], new[None])[0, 0])
        if SHIFTED_IOU[0] <= iou <= SHIFTED_IOU[1]:
            best = new
            break
    return best.tolist()


def _added(record: LabeledImage, source: LabeledImage, index: int, random: np.random.RandomState) -> Any:
    """Return a box as large as box `index` of `source`, relative to the image, where no object is; or None."""
    wh = np.array(record.size_wh, float)
    side = (source.boxes[index][2:] - source.boxes[index][:2]) / np.array(source.size_wh) * wh
    corner = np.round(random.uniform(0, 1, 2) * (wh - side))
    box = np.array([*corner, *np.clip(np.round(corner + side), corner + 2, wh)])
    if len(record.boxes):
        shared = intersection_matrix(box[None], record.boxes)[0]
        own = np.prod(record.boxes[:, 2:] - record.boxes[:, :2], axis=1)
        if (shared / np.minimum(own, np.prod(box[2:] - box[:2]))).max() > ROOM:
            return None
    return [*box.tolist(), int(source.class_ids[index])]


def matches(error: Dict[str, Any], planted: Dict[str, Any]) -> bool:
    """Return whether a line of label_errors.jsonl is a planted error."""
    part = error.get("detection" if planted["kind"] == "missing" else "label")
    if part is None or error["image"] != planted["image"]:
        return False
    least = 0.5 if planted["kind"] == "missing" else 0.95
    return bool(iou_matrix(np.array([part["box"]], float), np.array([planted["box"]], float))[0, 0] >= least)


def hits(ranked: List[Dict[str, Any]], planted: List[Dict[str, Any]]) -> np.ndarray:
    """Return which errors are planted ones (N,); each planted error counts once."""
    left = list(planted)
    flags = []
    for error in ranked:
        match = next((one for one in left if matches(error, one)), None)
        flags.append(match is not None)
        if match is not None:
            left.remove(match)
    return np.array(flags, bool)


def scores_of(hit: np.ndarray, planted: int) -> Dict[str, Any]:
    """Return precision and recall, which are equal, at the number planted, and precision at a recall of 0.6."""
    needed = int(np.ceil(0.6 * planted))
    ranks = np.flatnonzero(hit) + 1
    return {
        "planted": planted,
        "at planted": round(float(hit[:planted].sum()) / planted, 3),
        "precision at recall 0.6": round(needed / int(ranks[needed - 1]), 3) if len(ranks) >= needed else 0.0,
        "recall": round(len(ranks) / planted, 3),
    }
