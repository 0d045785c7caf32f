"""Ground Truth manifests: what is read, skipped, mended and refused, each with its place; real ones; round trips."""

import re

import numpy as np
import pytest
from helpers.ground_truth import GOOD, REMOVED, box, entry, label, metadata, text, with_box, write

from ssd_train.data.formats import ground_truth as gt
from ssd_train.data.formats.builder import BAD_LINE, CLIPPED, DUPLICATE, NO_BOX_LEFT, OUTSIDE, TOO_SMALL
from ssd_train.data.formats.ground_truth import read_ground_truth
from ssd_train.errors import DataError

BAD_LINES = {
    "not JSON": ("hello", r"bad JSON at column 1 \("),
    "two objects": ("{} {}", r"bad JSON at column 4 \(Extra data"),
    "an array": ('["a"]', "found a JSON list, expected one JSON object"),
    "deep nesting": ("[" * 200_000, "nested too deep"),
    "an integer of 9000 digits": (
        text(with_box(left=7), '"left": 7', '"left": ' + "7" * 9000),
        "box 0: left|limit|digits",
    ),
    "key twice inside": (text(with_box(), '"left": 10', '"left": 10, "left": 11'), "key 'left' twice"),
    "NaN": (text(with_box(left=7), '"left": 7', '"left": NaN'), "found NaN, which is not JSON"),
    "too large a float": (text(with_box(left=7), '"left": 7', '"left": 1e999'), "box 0: left: found inf"),
    "string left": (with_box(left="10"), "box 0: left: found '10', expected a number"),
    "no height": (with_box(height=REMOVED), "box 0: height: found null, expected a number"),
    "negative width": (with_box(width=-1), "box 0: found width -1 and height 40, expected neither below 0"),
    "class_id unknown": (with_box(class_id=7), r"box 0: class_id: found 7, expected one of the class-map: \[0, 1\]"),
    "class_id a half": (with_box(class_id=0.5), "box 0: class_id: found 0.5, expected an integer"),
    "second box": (entry(value=label(box(), box(left="1"))), "box 1: left: found '1'"),
    "annotations missing": (entry(value={"image_size": []}), "image_size|annotations: found null, expected a list"),
    "image_size of two": (
        entry(value={**label(), "image_size": [{}, {}]}),
        "image_size: found an array, expected a list of one",
    ),
    "class-map an array": (entry(about=metadata(class_map=["cat"])), "class-map: found an array, expected an object"),
    "class-map key": (
        entry(about=metadata(class_map={"x": "cat"})),
        "class-map: class id: found 'x', expected an integer",
    ),
    "one name, two ids": (entry(about=metadata(class_map={"0": "cat", "2": "cat"})), "'cat' under the ids 0 and 2"),
    "empty source-ref": (entry(""), "source-ref: found '', expected the name"),
    "NUL in source-ref": (entry("s3://b/\0.jpg"), "source-ref: .* without NUL"),
    "lone surrogate": (text(entry("QQ"), "QQ", "\\ud800"), "source-ref: .* surrogates"),
    "other boxes for an image": (entry("s3://b/good.jpg", label()), r"with other boxes than at .*m\.manifest:1"),
}


@pytest.mark.parametrize("line, message", BAD_LINES.values(), ids=BAD_LINES.keys())
def test_read_ground_truth_malformed_line_is_an_error_or_skipped(tmp_path, line, message):
    path = write(tmp_path, *GOOD, line)
    with pytest.raises(DataError) as caught:
        read_ground_truth(path)
    assert re.match(re.escape(f"{path}:3: ") + f".*({message})", str(caught.value))
    assert "\n" not in str(caught.value)
    labels = read_ground_truth(path, on_bad="skip")
    assert [record.name for record in labels.records] == ["s3://b/good.jpg", "s3://b/background.jpg"]
    assert [(skipped.where, skipped.reason) for skipped in labels.skipped] == [(f"{path}:3", BAD_LINE)]


SKIPPED_LINES = {
    "video source": ({"source": "text", "bb": label(), "bb-metadata": metadata()}, gt.NO_SOURCE),
    "not labelled": ({"source-ref": "s3://b/a.jpg"}, gt.NO_LABEL),
    "labelled by another job only": (entry(attribute="other", about=metadata(creation_date="2001")), gt.NO_LABEL),
    "failed": (entry(about=metadata(failure_reason="ClientError: no image")), gt.FAILED),
    "label a number": (entry(value=1), gt.NOT_AN_OBJECT),
    "classification": (entry(value=1, about=metadata(type="groundtruth/image-classification")), gt.OTHER_TYPE),
    "metadata missing": ({"source-ref": "s3://b/a.jpg", "bb": label(box())}, gt.OTHER_TYPE),
    "same line again": (GOOD[0], DUPLICATE),
    "only box outside": (with_box(left=200), NO_BOX_LEFT),
}


@pytest.mark.parametrize("line, reason", SKIPPED_LINES.values(), ids=SKIPPED_LINES.keys())
def test_read_ground_truth_line_without_label_is_skipped(tmp_path, line, reason):
    path = write(tmp_path, *GOOD, line)
    labels = read_ground_truth(path)
    assert [record.name for record in labels.records] == ["s3://b/good.jpg", "s3://b/background.jpg"]
    assert [(skipped.where, skipped.reason) for skipped in labels.skipped] == [(f"{path}:3", reason)]


ODD_LINES = {
    "floats": (with_box(left=10.25, width=0.5 + 29), [10.25, 20, 39.75, 60]),
    "class_id as digits": (with_box(class_id="0"), [10, 20, 40, 60]),
    "no image_size": (entry(value=label(box(left=5000), size=None)), [5000, 20, 5030, 60]),
    "confidence 0.09": (entry(about=metadata(objects=[{"confidence": 0.09}])), [10, 20, 40, 60]),
    "verified as well": (
        entry(**{"check": "1", "check-metadata": {"type": "groundtruth/label-verification", "class-name": "bad"}}),
        [10, 20, 40, 60],
    ),
    "class of another line's map": (entry(about=metadata(class_map={})), [10, 20, 40, 60]),
    "U+2028 in the name": (text(entry("QQ"), "QQ", "\u2028"), [10, 20, 40, 60]),
    "whole image": (with_box(left=0, top=0, width=100, height=80), [0, 0, 100, 80]),
}


@pytest.mark.parametrize("line, corners", ODD_LINES.values(), ids=ODD_LINES.keys())
def test_read_ground_truth_odd_line_is_read(tmp_path, line, corners):
    path = write(tmp_path, *GOOD, line)
    labels = read_ground_truth(path)
    assert labels.records[2].boxes.tolist() == [corners]
    assert labels.records[2].where == f"{path}:3"
    assert not labels.skipped and not labels.repaired


MENDED_BOXES = {
    "left of the image": ({"left": -10}, [0, 20, 20, 60], CLIPPED),
    "below": ({"top": 60, "height": 30}, [10, 60, 40, 80], CLIPPED),
    "rounding of a tool": ({"left": 70.00000001}, [70, 20, 100, 60], None),
    "a tenth left": ({"left": -27}, [0, 20, 3, 60], CLIPPED),
    "less than a tenth left": ({"left": -28}, None, OUTSIDE),
    "wholly outside": ({"left": 200}, None, OUTSIDE),
    "thinner than a pixel": ({"width": 0.01}, None, TOO_SMALL),
    "thinner than a pixel after clipping": ({"left": -0.5, "width": 1.4}, None, TOO_SMALL),
}


@pytest.mark.parametrize("changes, corners, reason", MENDED_BOXES.values(), ids=MENDED_BOXES.keys())
def test_read_ground_truth_box_is_clipped_to_its_image(tmp_path, changes, corners, reason):
    path = write(tmp_path, entry(value=label(box(left=1), box(**changes), box(left=2))))
    labels = read_ground_truth(path)
    expected = [[1, 20, 31, 60], corners, [2, 20, 32, 60]]
    np.testing.assert_allclose(labels.records[0].boxes, [row for row in expected if row], atol=1e-5)
    assert [(mended.where, mended.reason) for mended in labels.repaired] == ([(f"{path}:1", reason)] if reason else [])
    assert all(mended.detail.startswith("box 1: [") for mended in labels.repaired)


def test_read_ground_truth_many_bad_lines_are_one_message(tmp_path):
    path = write(tmp_path, *GOOD, *(["?"] * 5))
    with pytest.raises(DataError, match=r"^5 bad lines: .*:3: .*; .*:4: .*; .*:5: .*; and 2 more$"):
        read_ground_truth(path)


@pytest.mark.parametrize("lines", [["?"], [{"source-ref": "a"}]], ids=["all malformed", "none labelled"])
def test_read_ground_truth_nothing_left_is_an_error(tmp_path, lines):
    with pytest.raises(DataError, match=r"m\.manifest:1: "):
        read_ground_truth(write(tmp_path, *lines), on_bad="skip")
