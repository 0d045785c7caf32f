"""Manifest lines, good and odd, for tests of the reader."""

from __future__ import annotations

import json

BOX_TYPE = "groundtruth/object-detection"
BOX = {"class_id": 0, "left": 10, "top": 20, "width": 30, "height": 40}
REMOVED = object()


def box(**changes):
    changed = {**BOX, **changes}
    return {key: value for key, value in changed.items() if value is not REMOVED}


def metadata(**changes):
    found = {
        "type": BOX_TYPE,
        "class-map": {"0": "cat", "1": "dog"},
        "creation-date": "2020-01-01T00:00:00.000000",
        "objects": [],
        "human-annotated": "yes",
    }
    found.update({key.replace("_", "-"): value for key, value in changes.items()})
    return {key: value for key, value in found.items() if value is not REMOVED}


def label(*boxes, size=(100, 80)):
    found = {"annotations": list(boxes)}
    return found if size is None else {**found, "image_size": [{"width": size[0], "height": size[1], "depth": 3}]}


def entry(name="s3://b/a.jpg", value=None, about=None, attribute="bb", **more):
    return {
        "source-ref": name,
        attribute: label(box()) if value is None else value,
        attribute + "-metadata": metadata() if about is None else about,
        **more,
    }


def write(folder, *lines, name="m.manifest"):
    """A manifest of `lines`: objects, or text as it is."""
    path = folder / name
    path.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n", encoding="utf-8"
    )
    return path


GOOD = [entry("s3://b/good.jpg"), entry("s3://b/background.jpg", label())]


def with_box(**changes):
    return entry(value=label(box(**changes)))


def text(line, old, new):
    """`line` as JSON text with `old` replaced by `new`, for what json.dumps cannot write."""
    found = json.dumps(line)
    assert old in found
    return found.replace(old, new)
