"""Each case of tests/field_cases.py, and the page that lists them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from builders import picture
from field_cases import CASES, PICTURE, SIZE, Error, table

from ssd_train.data.image_io import encode_jpeg, encode_png
from ssd_train.data.labels import LabelOptions, load_labels
from ssd_train.errors import DataError

PAGE = Path(__file__).resolve().parents[3] / "docs" / "field-cases.md"


def build(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content == PICTURE:
            path.write_bytes((encode_png if name.endswith("png") else encode_jpeg)(picture(SIZE, len(name))))
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")


@pytest.mark.parametrize("case", CASES, ids=[case.source.split("github.com/")[1] for case in CASES])
def test_read_labelled_case_of_the_field(tmp_path, case):
    build(tmp_path, case.files)
    images, labels = (None if place is None else tmp_path / place for place in case.given)
    if isinstance(case.found, Error):
        with pytest.raises(DataError) as raised:
            load_labels(images, labels)
        assert str(raised.value).startswith(str(tmp_path / case.found.place)) and case.found.word in str(raised.value)
        return
    data = load_labels(images, labels, LabelOptions(on_bad=case.on_bad))
    assert {record.name: len(record.boxes) for record in data.labels.records} == {
        k: len(v) for k, v in case.found.items()
    }
    for record in data.labels.records:
        np.testing.assert_allclose(record.boxes, np.reshape(case.found[record.name], (-1, 4)), atol=2e-3)
        assert data.images.read(record)
    assert (len(data.labels.repaired), len(data.labels.skipped)) == (case.mended, case.skipped)
    if case.names:
        assert list(data.labels.class_names) == case.names


def test_page_lists_every_case():
    assert table() in PAGE.read_text("utf-8")
