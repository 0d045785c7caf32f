"""Planted label errors: how many of them `audit` ranks first, beside chance and beside cleanlab's scores.

    SSD_TRAIN_DATA=... python -m benchmarks.label_errors --work FOLDER [--sets raccoon fruit drawn bccd]
        [--plantings 1 2 3 4 5] [--model DIR] [--cleanlab PYTHON] [--json FILE] [name=value ...]

A planting changes 5 % of the boxes of a data set for each kind of error, no box twice: boxes are removed, added where
no object is, given another class, and shifted (IoU 0.3 to 0.6 with the true box). `audit` then trains on these labels,
which contain all the errors, with three folds, and ranks them. cleanlab scores the same out-of-fold detections in an
interpreter of its own (--cleanlab, with cleanlab installed), with its own thresholds and with the best one for each
kind, which is chosen by the planted errors. Chance is the share of planted errors among all boxes of that kind.

With --model, of the split of tools/measure/split.py, errors are planted in the validation labels only, and
`audit` uses this model, which was trained on the training labels.

The same command resumes in the work folder. name=value are settings of the trainings.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence, Tuple

import numpy as np

from benchmarks.quality import run_python, split_of
from ssd_train.boxes import intersection_matrix, iou_matrix
from ssd_train.data.image_sources import MemoryImages
from ssd_train.data.labels import LabeledDataset, load_labels
from ssd_train.data.structures import LabeledImage, Labels
from ssd_train.data.synthetic import SHAPE_CLASSES, draw_shapes_set, write_drawn_set
from ssd_train.deploy.evaluate import read_detections
from ssd_train.evaluation.label_errors import MIN_SCORE
from ssd_train.evaluation.metrics import score_detections
from ssd_train.prepare.convert import convert, with_sizes

FRACTION = 0.05
SHIFTED_IOU = (0.3, 0.6)
ROOM = 0.1  # greatest IoU of an added box with a true one, and greatest share of either that is covered
TRIES = 1000
SETS = ("raccoon", "fruit", "drawn", "bccd")
FOLDS = 3
# faster than the recipe's 300 px on one core, and enough for these objects
SIDES = {"raccoon": 224, "fruit": 224, "drawn": 128, "bccd": 256}
# planted kind -> kind of audit, cleanlab's score; cleanlab has none for labels without an object
KINDS = {
    "missing": ("missing", "overlooked"),
    "spurious": ("spurious", "badloc"),
    "wrong_class": ("wrong_class", "swap"),
    "shifted": ("location", "badloc"),
}


def main() -> None:
    """Plant, audit and compare; print a line for each set, planting and kind, and write all as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--plantings", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--work", type=Path, required=True, help="folder of the planted labels and the audits")
    parser.add_argument("--model", help="a model trained on the training labels of the split")
    parser.add_argument("--cleanlab", help="Python interpreter with cleanlab")
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("settings", nargs="*", help="further settings of the trainings, as name=value")
    flags = parser.parse_args()
    rows: List[Dict[str, Any]] = []
    for seed in flags.plantings:
        for name in flags.sets:
            for row in compare(name, seed, flags):
                rows.append(row)
                print(json.dumps(row), flush=True)
                if flags.json:
                    flags.json.write_text(json.dumps(rows, indent=2) + "\n", "utf-8")


def compare(name: str, seed: int, flags: argparse.Namespace) -> Iterator[Dict[str, Any]]:
    """Yield a row for each kind of error of a planting."""
    shared, out = Path(os.environ["SSD_TRAIN_DATA"]), flags.work / f"{name}-{seed}"
    folder = flags.work / "drawn" if name == "drawn" else shared / "data" / name
    manifest = folder / "output.manifest"
    if name == "drawn" and not manifest.exists():
        write_drawn_set(folder, draw_shapes_set(300, seed=5, max_objects=4), SHAPE_CLASSES, "shapes")
    if flags.model:
        manifest = split_of(shared, name, flags.work / "split") / "validation.manifest"
    clean = load_labels(folder / "images", manifest)
    clean = LabeledDataset(with_sizes(clean), clean.images)
    labels, errors = plant(clean.labels, seed)
    out.mkdir(parents=True, exist_ok=True)
    convert(LabeledDataset(labels, clean.images), "ground_truth", out / "planted.manifest")
    settings = [part for pair in flags.settings for part in (f"--{pair.split('=', 1)[0]}", pair.split("=", 1)[1])]
    where = ["--images", str(folder / "images"), "--labels", str(out / "planted.manifest"), "--output", str(out)]
    if flags.model:
        where += ["--model", flags.model]
    else:
        where += ["--pretrained", str(shared / "weights" / "mobilenet1.0-imagenet-coral.params")]
        where += ["--folds", str(FOLDS), "--amp", "1", "--image_shape", str(SIDES[name])]
    run_python(["-m", "ssd_train", "audit", *where, *settings])
    ranked = [json.loads(line) for line in (out / "label_errors.jsonl").read_text("utf-8").splitlines()]
    images = detected(out, labels)
    mean_ap = score_detections(images, labels.class_names)
    rivals = cleanlab_rankings(images, len(labels.class_names), flags.cleanlab) if flags.cleanlab else {}
    for kind, (own, theirs) in KINDS.items():
        planted = [error for error in errors if error["kind"] == kind]
        if not planted:
            continue
        boxes = sum((d.scores >= MIN_SCORE).sum() if kind == "missing" else len(r.boxes) for r, d in images)
        row = {"set": name, "planting": seed, "kind": kind, "planted": len(planted)}
        row["images"], row["chance"] = len(images), round(len(planted) / boxes, 4)
        row["mAP@0.5"] = mean_ap.ap50
        row["audit"] = scores_of(hits([line for line in ranked if line["kind"] == own], planted), len(planted))
        of_cleanlab = {
            threshold: scores_of(hits(lines[theirs], planted), len(planted)) for threshold, lines in rivals.items()
        }
        if of_cleanlab:
            row["cleanlab"] = of_cleanlab["default"]
            row["cleanlab, best threshold"] = max(of_cleanlab.values(), key=lambda one: one["at planted"])
        yield row


def detected(out: Path, labels: Labels) -> "List[Tuple[LabeledImage, Any]]":
    """Return labels and out-of-fold detections of each image."""
    detections: Dict[str, Any] = {}
    for file in sorted(out.glob("**/detections.jsonl")):
        detections.update(read_detections(file, LabeledDataset(labels, MemoryImages({})))[0])
    return [(record, detections[record.name]) for record in labels.records]


# reads the images, writes for each threshold the scores of each box, low: an error
CLEANLAB = """
import json, sys
import numpy as np
from cleanlab.object_detection import rank
with open(sys.argv[1]) as file:
    images, classes = json.load(file)
labels, predictions, orders = [], [], []
for image in images:
    labels.append({"bboxes": np.array(image["boxes"], float).reshape(-1, 4), "labels": np.array(image["ids"], int)})
    rows = np.array(image["detections"], float).reshape(-1, 6)
    index = [np.flatnonzero(rows[:, 0] == number) for number in range(classes)]
    prediction = np.empty(classes, dtype=object)
    for number in range(classes):
        prediction[number] = np.hstack([rows[index[number], 2:], rows[index[number], 1:2]])
    predictions.append(prediction)
    orders.append(np.concatenate(index).tolist())
def listed(scores):
    return [[None if not np.isfinite(value) else float(value) for value in row] for row in scores]
results = {}
for threshold in ("default", 0.1, 0.2, 0.3, 0.4, 0.5):
    given = {"labels": labels, "predictions": predictions}
    high = given if threshold == "default" else {**given, "high_probability_threshold": threshold}
    low = given if threshold == "default" else {**given, "low_probability_threshold": threshold}
    overlooked = []
    for row, order in zip(listed(rank.compute_overlooked_box_scores(**high)), orders):
        values = [None] * len(order)
        for value, position in zip(row, order):
            values[position] = value
        overlooked.append(values)
    results[threshold] = {"overlooked": overlooked, "badloc": listed(rank.compute_badloc_box_scores(**low))}
    results[threshold]["swap"] = listed(rank.compute_swap_box_scores(**high)) if classes > 1 else []
with open(sys.argv[2], "w") as file:
    json.dump(results, file)
"""


def cleanlab_rankings(
    images: "Sequence[Tuple[LabeledImage, Any]]", classes: int, python: str
) -> "Dict[str, Dict[str, List[Dict[str, Any]]]]":
    """Return cleanlab's boxes by threshold and score, the most doubtful first, as lines of label_errors.jsonl."""
    document = [
        {
            "boxes": record.boxes.tolist(),
            "ids": record.class_ids.tolist(),
            "detections": np.hstack([d.class_ids[:, None], d.scores[:, None], d.boxes]).tolist(),
        }
        for record, d in images
    ]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "images.json", Path(folder) / "scores.json"
        source.write_text(json.dumps([document, classes]), "utf-8")
        subprocess.run([python, "-c", CLEANLAB, str(source), str(target)], check=True)
        scores = json.loads(target.read_text("utf-8"))
    return {
        threshold: {name: list(_ranked(images, table, name == "overlooked")) for name, table in tables.items()}
        for threshold, tables in scores.items()
    }


def _ranked(images: Any, table: "List[List[Any]]", of_detections: bool) -> "Iterator[Dict[str, Any]]":
    places = [(value, i, b) for i, row in enumerate(table) for b, value in enumerate(row) if value is not None]
    for _, image, box in sorted(places):
        record, detections = images[image]
        boxes = detections.boxes if of_detections else record.boxes
        yield {"image": record.name, "detection" if of_detections else "label": {"box": boxes[box].tolist()}}


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


if __name__ == "__main__":
    main()
