"""Manifest lines as Ground Truth writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

Box = Tuple[int, float, float, float, float]  # class id, left, top, width, height
CLASSES = {0: "cat", 1: "dog"}


def line(
    source: str,
    boxes: Sequence[Box] = ((0, 1, 2, 3, 4),),
    classes: Optional[Mapping[int, str]] = None,
    attribute: str = "bb",
    size_wh: Optional[Tuple[int, int]] = (40, 30),
    confidences: Optional[Sequence[float]] = None,
    **keys: Any,
) -> Dict[str, Any]:
    """A line as Ground Truth writes it; `keys` stand before the label. `classes` are CLASSES unless given."""
    label: Dict[str, Any] = {
        "annotations": [dict(zip(("class_id", "left", "top", "width", "height"), box)) for box in boxes]
    }
    if size_wh is not None:
        label["image_size"] = [{"width": size_wh[0], "depth": 3, "height": size_wh[1]}]
    metadata = {
        "class-map": {str(class_id): name for class_id, name in (CLASSES if classes is None else classes).items()},
        "objects": [{"confidence": value} for value in confidences or [0.09] * len(boxes)],
        "creation-date": "2020-01-01T00:00:00.000000",
        "type": "groundtruth/object-detection",
    }
    return {"source-ref": source, **keys, attribute: label, f"{attribute}-metadata": metadata}


def write(path: Path, lines: Sequence["Dict[str, Any] | str"]) -> Path:
    """A manifest of objects, or of texts as they are to stand in it."""
    texts = [value if isinstance(value, str) else json.dumps(value, separators=(",", ":")) for value in lines]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(text + "\n" for text in texts), "utf-8")
    return path


def read(path: Path) -> List[Dict[str, Any]]:
    """The objects of a manifest."""
    return [json.loads(text) for text in path.read_text("utf-8").splitlines()]


def sources(path: Path) -> List[str]:
    """The images of a manifest, in order."""
    return [value["source-ref"] for value in read(path)]
