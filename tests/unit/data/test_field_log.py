"""Each case of tests/field_cases.yaml, and the page that lists them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.data import picture, write_files

from ssd_train.data.image_io import encode_jpeg, encode_png
from ssd_train.data.labels import LabelOptions, load_labels
from ssd_train.errors import DataError

ROOT = Path(__file__).resolve().parents[3]
CASES = yaml.safe_load((ROOT / "tests" / "field_cases.yaml").read_text("utf-8"))


def picture_file(name):
    return (encode_png if name.endswith("png") else encode_jpeg)(picture((200, 160), len(name)))


@pytest.mark.parametrize("case", CASES, ids=[case["source"] for case in CASES])
def test_read_labelled_case_of_the_field(tmp_path, case):
    files = case["files"].items()
    write_files(tmp_path, {name: picture_file(name) if text == "PICTURE" else text for name, text in files})
    images, labels = (None if place is None else tmp_path / place for place in case.get("given", [".", None]))
    if "error" in case:
        place, word = case["error"]
        with pytest.raises(DataError) as raised:
            load_labels(images, labels)
        assert str(raised.value).startswith(str(tmp_path / place)) and word in str(raised.value)
        return
    data, boxes = load_labels(images, labels, LabelOptions(on_bad=case.get("on_bad", "error"))), case["boxes"]
    assert {record.name: len(record.boxes) for record in data.labels.records} == {k: len(v) for k, v in boxes.items()}
    for record in data.labels.records:
        np.testing.assert_allclose(record.boxes, np.reshape(boxes[record.name], (-1, 4)), atol=2e-3)
        assert data.images.read(record)
    assert (len(data.labels.repaired), len(data.labels.skipped)) == (case.get("mended", 0), case.get("skipped", 0))
    assert list(data.labels.class_names) == case.get("class_names", list(data.labels.class_names))


def result_of(case):
    """The words of docs/field-cases.md."""
    if "error" in case:
        place, word = case["error"]
        return f"refused: {f'names {place}' if place else 'no label can be used'} ({word})"
    notes = [f"{case['mended']} noted"] if "mended" in case else []
    notes += [f"{case['skipped']} left out and counted"] if "skipped" in case else []
    boxes = sum(map(len, case["boxes"].values()))
    return "; ".join([f"read: {_counted(len(case['boxes']), 'image')}, {_counted(boxes, 'box')}", *notes])


def _counted(number, word):
    return f"{number} {word if number == 1 else {'box': 'boxes'}.get(word, word + 's')}"


def test_page_lists_every_case():
    page = (ROOT / "docs" / "field-cases.md").read_text("utf-8")
    for case in CASES:
        name = case["source"].replace("/issues/", "#").replace("/pull/", "#")
        assert f"| [{name}](https://github.com/{case['source']}) | {case['input']} | {result_of(case)} |\n" in page
