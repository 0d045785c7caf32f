"""Manifests that are written, changed at random, or real."""

import json
from datetime import datetime

import pytest
from helpers.ground_truth import BOX_TYPE, GOOD, write
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_train.data.formats.ground_truth import read_ground_truth, write_ground_truth
from ssd_train.data.structures import ClassNames, LabeledImage
from ssd_train.errors import ConfigError, DataError


@st.composite
def label_sets(draw):
    names = draw(
        st.lists(
            st.text(st.characters(blacklist_categories=["Cs"]), min_size=1), min_size=1, max_size=4, unique_by=str.strip
        )
    )
    names = ClassNames(tuple(name for name in names if name.strip()) or ("x",))
    records = []
    for index in range(draw(st.integers(1, 4))):
        width, height = draw(st.integers(4, 5000)), draw(st.integers(4, 5000))
        boxes = []
        for _ in range(draw(st.integers(0, 3))):
            x1 = draw(st.floats(0, width - 2, width=32))
            y1 = draw(st.floats(0, height - 2, width=32))
            boxes.append([x1, y1, draw(st.floats(x1 + 1.5, width)), draw(st.floats(y1 + 1.5, height))])
        ids = [draw(st.integers(0, len(names) - 1)) for _ in boxes]
        name = draw(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0")))
        records.append(LabeledImage(f"{name}{index}.jpg", boxes, ids, draw(st.sampled_from([(width, height), None]))))
    return names, records


def same(a, b):
    return (
        (a.name, a.size_wh) == (b.name, b.size_wh)
        and a.boxes.tobytes() == b.boxes.tobytes()
        and a.class_ids.tolist() == b.class_ids.tolist()
    )


@settings(max_examples=60)
@given(labels=label_sets())
def test_written_manifest_reads_back_bit_for_bit(tmp_path_factory, labels):
    names, records = labels
    path = tmp_path_factory.mktemp("round") / "out.manifest"
    write_ground_truth(path, iter(records), names, "boxes")
    read = read_ground_truth(path)
    assert read.class_names == names and not read.repaired and not read.skipped
    assert len(read) == len(records) and all(map(same, read.records, records))


def test_written_line_is_as_ground_truth_writes_it(tmp_path):
    path = tmp_path / "out.manifest"
    record = LabeledImage("s3://b/é.jpg", [[1, 2, 4, 6.5]], [0], (10, 20))
    write_ground_truth(path, [record], ClassNames(("cat",)), "bb", datetime(2020, 1, 2, 3, 4, 5))
    raw = path.read_text(encoding="utf-8")
    assert "é" in raw and raw.endswith("}\n")
    assert json.loads(raw) == {
        "source-ref": "s3://b/é.jpg",
        "bb": {
            "annotations": [{"class_id": 0, "left": 1, "top": 2, "width": 3, "height": 4.5}],
            "image_size": [{"width": 10, "height": 20, "depth": 3}],
        },
        "bb-metadata": {
            "class-map": {"0": "cat"},
            "human-annotated": "yes",
            "creation-date": "2020-01-02T03:04:05.000000",
            "type": BOX_TYPE,
            "job-name": "labeling-job/bb",
            "objects": [{"confidence": 1.0}],
        },
    }


def test_failed_write_keeps_the_old_file(tmp_path):
    path = write(tmp_path, *GOOD)
    before = path.read_bytes()

    def records():
        yield LabeledImage("a.jpg", [], [])
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError):
        write_ground_truth(path, records(), ClassNames(("cat",)))
    assert path.read_bytes() == before and [child.name for child in tmp_path.iterdir()] == ["m.manifest"]


def test_name_that_utf8_cannot_hold_is_refused(tmp_path):
    with pytest.raises(DataError, match="expected text that UTF-8 can hold"):
        write_ground_truth(tmp_path / "m", [LabeledImage("\udcff.jpg", [], [])], ClassNames(("cat",)))


@pytest.mark.parametrize("attribute", ["", "bb-metadata", "bb-ref", "source-ref", "source"])
def test_reserved_attribute_names_are_refused(tmp_path, attribute):
    with pytest.raises(ConfigError, match="label_attribute: found"):
        write_ground_truth(tmp_path / "m", [], ClassNames(("cat",)), attribute)


# name -> records, boxes, records without boxes, class names; counted from the files with other code
REAL = {
    "amild": (31, 32, 5, ("A Mild",)),
    "bcbs-logo-labeling": (470, 492, 42, ("BCBS",)),
    "bcbs-logos-small": (86, 86, 1, ("logo",)),
    "cat-labels": (4, 4, 1, ("Cat",)),
    "greengrass-blue-large": (624, 590, 36, ("storage box",)),
    "greengrass-blue-small": (21, 19, 2, ("storage box",)),
    "greengrass-yellow-large": (633, 579, 56, ("storage box",)),
    "greengrass-yellow-small": (32, 33, 1, ("storage box",)),
    "korean-layout-multiclass": (
        404,
        5622,
        0,
        ("header", "passage", "question_block", "question_number", "figure", "footer"),
    ),
    "pid-ocr-multiclass": (5, 36, 0, ("符号", "设备 ", "class_2", "英文")),
    "sagemaker-examples-sample_output": (100, 192, 0, ("Bird",)),
}


@pytest.fixture
def real_manifests(shared_data):
    return shared_data / "data" / "manifests"


@pytest.mark.parametrize("name, expected", REAL.items(), ids=REAL.keys())
def test_real_manifest(real_manifests, name, expected):
    labels = read_ground_truth(real_manifests / f"{name}.manifest")
    boxes = [len(record.boxes) for record in labels.records]
    assert (len(boxes), sum(boxes), boxes.count(0), labels.class_names.names) == expected
    assert not labels.skipped and not labels.repaired
    assert all(record.size_wh for record in labels.records)


def test_real_adjustment_job_is_read_by_its_newest_attribute(real_manifests):
    labels = read_ground_truth(real_manifests / "korean-layout-multiclass.manifest")
    assert labels.details["label_attribute"] == "suneung-korean-layout-detection-v2-chain"
    first = read_ground_truth(
        real_manifests / "korean-layout-multiclass.manifest", "suneung-korean-layout-detection-v2"
    )
    assert sum(len(record.boxes) for record in first.records) == 5603


@pytest.mark.parametrize("name", ["notdet-bird-classification", "notdet-coral-classification"])
def test_real_classification_manifest_is_refused(real_manifests, name):
    with pytest.raises(DataError, match=r"manifest:1: found labels of type groundtruth/image-classification"):
        read_ground_truth(real_manifests / f"{name}.manifest")
