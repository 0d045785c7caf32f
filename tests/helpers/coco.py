"""COCO's own evaluation, and the files of AWS's COCO notebook."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def area_of(box):
    x1, y1, x2, y2 = box.astype(float)
    return (x2 - x1) * (y2 - y1)


SIZES = ("all", "small", "medium", "large")  # the order of COCOeval's area ranges


def pycocotools_precision(images, classes, size="all"):
    """Return AP (10 IoUs, classes) of (detections, labels) of images; NaN for a class without objects of `size`.

    A difficult object is given an area out of range, because pycocotools ignores such objects one by one as VOC does.
    """
    labelled, found = [], []
    for number, (detections, truth) in enumerate(images):
        regions = truth.ignored
        rows = [(box, class_id, 0, area_of(box)) for box, class_id in zip(truth.boxes, truth.class_ids)]
        rows += [
            (box, class_id, int(crowd), 100.0 if crowd else 1e11)
            for box, class_id, crowd in zip(regions.boxes, regions.class_ids, regions.crowds)
        ]
        for box, class_id, crowd, area in rows:
            x1, y1, x2, y2 = box.astype(float)
            entry = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": area, "iscrowd": crowd}
            # an annotation of id 0 would count as no match
            labelled.append({"id": len(labelled) + 1, "image_id": number, "category_id": int(class_id), **entry})
        for box, value, class_id in zip(detections.boxes.astype(float), detections.scores, detections.class_ids):
            x1, y1, x2, y2 = box
            found.append([number, x1, y1, x2 - x1, y2 - y1, value, class_id])
    with contextlib.redirect_stdout(io.StringIO()):
        truth_set = COCO()
        truth_set.dataset = {
            "images": [{"id": number} for number in range(len(images))],
            "annotations": labelled,
            "categories": [{"id": class_id} for class_id in range(classes)],
        }
        truth_set.createIndex()
        evaluation = COCOeval(truth_set, truth_set.loadRes(np.array(found, dtype=float)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, SIZES.index(size), 2]  # (IoU, recall, class)
    return np.where((precision > -1).all(axis=1), precision.mean(axis=1), np.nan)


# the category ids of COCO's 80 classes: 1 to 90 with gaps
CATEGORY_IDS = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]


def generate(instances: Dict[str, Any], folder: Path) -> List[Path]:
    """Write the files that the notebook makes of the document of an instances_*.json."""
    class_of = {category_id: index for index, category_id in enumerate(CATEGORY_IDS)}
    name_of = {category["id"]: str(category["name"]) for category in instances["categories"]}
    folder.mkdir(parents=True)
    written = []
    for image in instances["images"]:
        size = {"width": int(image["width"]), "height": int(image["height"]), "depth": 3}
        line: Dict[str, Any] = {"file": image["file_name"], "image_size": [size], "annotations": [], "categories": []}
        for found in instances["annotations"]:
            if found["image_id"] != image["id"] or not found["bbox"]:
                continue
            left, top, width, height = (int(value) for value in found["bbox"])
            box = {"class_id": class_of[found["category_id"]], "top": top, "left": left, "width": width}
            line["annotations"].append({**box, "height": height})
            line["categories"].append({"class_id": found["category_id"], "name": name_of[found["category_id"]]})
        if line["annotations"]:
            written.append(folder / (image["file_name"].split(".")[0] + ".json"))
            written[-1].write_text(json.dumps(line))
    return written
