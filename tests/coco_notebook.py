"""Image + JSON as AWS's notebook object_detection_image_json_format (amazon-sagemaker-examples) makes it of COCO.

It numbers the classes of the annotations anew from 0 and leaves COCO's own ids in `categories`, one entry for each
object; `int()` cuts coordinates, so that a box under a pixel has a width or height of 0; images without an object get
no file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List

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
