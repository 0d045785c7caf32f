"""label: pre-labels as the input of a Ground Truth adjustment job."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.models import talking_model

from ssd_train.cli.main import main
from ssd_train.data.formats.ground_truth import read_ground_truth
from ssd_train.data.image_io import encode_png
from ssd_train.data.synthetic import draw_shapes_set
from ssd_train.deploy.detector import Detector

NAMES = ("dog", "bone")
# Amazon SageMaker Developer Guide, "Label adjustment job output" (sms-data-output): a line of an adjustment job
ADJUSTED_LINE = {
    "source-ref": "s3://AWSDOC-EXAMPLE-BUCKET/example_image.png",
    "bounding-box": {
        "image_size": [{"width": 500, "height": 400, "depth": 3}],
        "annotations": [
            {"class_id": 0, "left": 111, "top": 134, "width": 61, "height": 128},
            {"class_id": 5, "left": 161, "top": 250, "width": 30, "height": 30},
            {"class_id": 5, "left": 20, "top": 20, "width": 30, "height": 30},
        ],
    },
    "bounding-box-metadata": {
        "objects": [{"confidence": 0.8}, {"confidence": 0.9}, {"confidence": 0.9}],
        "class-map": {"0": "dog", "5": "bone"},
        "type": "groundtruth/object-detection",
        "human-annotated": "yes",
        "creation-date": "2018-10-18T22:18:13.527256",
        "job-name": "identify-dogs-and-toys",
    },
    "adjusted-bounding-box": {
        "image_size": [{"width": 500, "height": 400, "depth": 3}],
        "annotations": [
            {"class_id": 0, "left": 110, "top": 135, "width": 61, "height": 128},
            {"class_id": 5, "left": 161, "top": 250, "width": 30, "height": 30},
            {"class_id": 5, "left": 10, "top": 10, "width": 30, "height": 30},
        ],
    },
    "adjusted-bounding-box-metadata": {
        "objects": [{"confidence": 0.8}, {"confidence": 0.9}, {"confidence": 0.9}],
        "class-map": {"0": "dog", "5": "bone"},
        "type": "groundtruth/object-detection",
        "human-annotated": "yes",
        "creation-date": "2018-11-20T22:18:13.527256",
        "job-name": "adjust-bounding-boxes-on-dogs-and-toys",
        "adjustment-status": "adjusted",
    },
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a model and six images, one in a folder and one with a blank in its name."""
    folder = tmp_path_factory.mktemp("world")
    talking_model(folder / "model", NAMES)
    (folder / "images" / "b").mkdir(parents=True)
    names = ("a.png", "b/a.png", "c.png", "d.png", "e.png", "f 1.png")
    for name, sample in zip(names, draw_shapes_set(6, seed=1)):
        (folder / "images" / name).write_bytes(encode_png(sample.image))
    return folder


@pytest.fixture(scope="module")
def detections(world):
    """The detections of each image by name."""
    detector, images = Detector.load(world / "model"), world / "images"
    return {path.relative_to(images).as_posix(): detector(str(path)) for path in sorted(images.rglob("*.png"))}


@pytest.fixture
def label(world, tmp_path):
    """`label(...)` runs the command; its exit code. The output is the folder `out`."""

    def run(*flags, images=world / "images"):
        places = ["--model", str(world / "model"), "--images", str(images), "--output", str(tmp_path / "out")]
        return main(["label", *places, *map(str, flags)])

    return run


@pytest.fixture
def middle(detections):
    """A score that the best detections of half of the images reach."""
    best = sorted(float(of_image.scores[0]) for of_image in detections.values())
    return (best[2] + best[3]) / 2


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def kinds(value):
    """The keys and types of a JSON value; of a list, those of its items."""
    if isinstance(value, dict):
        return {key: kinds(item) for key, item in value.items()}
    if isinstance(value, list):
        return [kinds(item) for item in value[:1]]
    return type(value)


def test_label_round_trip_reads_the_boxes_of_the_model(label, detections, middle, tmp_path):
    assert label("--threshold", middle, "--prefix", "s3://bucket/photos/") == 0
    labels = read_ground_truth(tmp_path / "out" / "pre-labels.manifest")
    assert tuple(labels.class_names) == NAMES and labels.details["label_attribute"] == "pre-labels"
    assert labels.skipped == () and labels.repaired == ()
    expected = {f"s3://bucket/photos/{n}": d.above(middle) for n, d in detections.items() if len(d.above(middle))}
    assert [record.name for record in labels.records] == list(expected) and len(expected) == 3
    for record in labels.records:
        np.testing.assert_allclose(record.boxes, expected[record.name].boxes, atol=0.5)
        np.testing.assert_array_equal(record.class_ids, expected[record.name].class_ids)
        assert record.size_wh == expected[record.name].size_wh
    for line in lines(tmp_path / "out" / "pre-labels.manifest"):
        scores = [entry["confidence"] for entry in line["pre-labels-metadata"]["objects"]]
        np.testing.assert_allclose(scores, expected[line["source-ref"]].scores, atol=1e-4)


def test_label_leaves_images_below_the_score_to_people(label, detections, middle, tmp_path):
    assert label("--threshold", middle, "--prefix", "s3://bucket/photos") == 0
    left = lines(tmp_path / "out" / "unlabelled.manifest")
    below = [name for name, of_image in detections.items() if of_image.scores[0] < middle]
    assert left == [{"source-ref": f"s3://bucket/photos/{name}"} for name in below] and len(left) == 3
    assert label("--threshold", 1, "--prefix", "s3://bucket/photos", "--overwrite") == 0
    assert len(lines(tmp_path / "out" / "unlabelled.manifest")) == 6
    assert lines(tmp_path / "out" / "pre-labels.manifest") == []


def test_label_line_has_the_keys_and_types_of_genuine_manifests(label, middle, shared_data, tmp_path):
    """Of lines with boxes of Ground Truth jobs, apart from attributes of their own and the class-map's ids."""
    assert label("--threshold", middle, "--prefix", "s3://bucket/photos", "--label_attribute", "bb") == 0
    (ours, *others) = lines(tmp_path / "out" / "pre-labels.manifest")
    genuine = lines(shared_data / "data" / "manifests" / "greengrass-blue-small.manifest")
    genuine = next(line for line in genuine if line["bb"]["annotations"])
    assert {key: kinds(ours[key]) for key in ("source-ref", "bb")} == {
        key: kinds(genuine[key]) for key in ("source-ref", "bb")
    }
    about, theirs = ours["bb-metadata"], genuine["bb-metadata"]
    assert kinds({**about, "class-map": {}}) == kinds({**theirs, "class-map": {}})
    assert (about["type"], about["job-name"].split("/")[0]) == (theirs["type"], theirs["job-name"].split("/")[0])
    assert len(about["creation-date"]) == len(theirs["creation-date"])
    assert about["human-annotated"] == "no" != theirs["human-annotated"]
    assert about["job-name"] == "labeling-job/bb"


def test_label_class_map_names_every_box_as_the_worker_template_looks_it_up(label, middle, tmp_path):
    """`task.input.manifestLine.ATTRIBUTE-metadata.class-map[class_id]` of the templates for crowd-bounding-box."""
    assert label("--threshold", middle) == 0
    categories = json.loads((tmp_path / "out" / "label-categories.json").read_text())
    # CreateLabelingJob, LabelCategoryConfigS3Uri
    assert categories == {"document-version": "2018-11-28", "labels": [{"label": "dog"}, {"label": "bone"}]}
    allowed = {entry["label"] for entry in categories["labels"]}
    for line in lines(tmp_path / "out" / "pre-labels.manifest"):
        names = line["pre-labels-metadata"]["class-map"]
        assert {names[str(box["class_id"])] for box in line["pre-labels"]["annotations"]} <= allowed
        (size,) = line["pre-labels"]["image_size"]
        for box in line["pre-labels"]["annotations"]:
            assert all(isinstance(box[key], int) for key in ("left", "top", "width", "height"))
            assert box["left"] + box["width"] <= size["width"] and box["top"] + box["height"] <= size["height"]


def test_read_ground_truth_adjusted_line_of_the_guide_reads_the_newest_job(tmp_path):
    (tmp_path / "output.manifest").write_text(json.dumps(ADJUSTED_LINE) + "\n")
    labels = read_ground_truth(tmp_path)
    assert labels.details["label_attribute"] == "adjusted-bounding-box"
    np.testing.assert_array_equal(labels.records[0].boxes[0], [110, 135, 171, 263])


def test_label_unreadable_image_is_named_and_others_are_written(label, world, tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes((world / "images" / "a.png").read_bytes())
    (images / "bad.png").write_bytes(b"no image")
    assert label("--threshold", 0, images=images) == 2
    said = capsys.readouterr()
    assert "bad.png" in said.err and "--prefix" in said.out
    assert [line["source-ref"] for line in lines(tmp_path / "out" / "pre-labels.manifest")] == ["a.png"]
    assert lines(tmp_path / "out" / "unlabelled.manifest") == []


@pytest.mark.parametrize("name", ["pre-labels.manifest", "unlabelled.manifest", "label-categories.json"])
def test_label_file_of_an_earlier_run_is_refused_and_kept(label, tmp_path, capsys, name):
    (tmp_path / "out").mkdir()
    earlier = tmp_path / "out" / name
    earlier.write_text("corrected by people")
    assert label("--threshold", 0) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'out'}: found {name}, ")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
    assert earlier.read_text() == "corrected by people"


def test_label_overwrite_replaces_the_earlier_run(label, tmp_path):
    assert label("--threshold", 1) == 0
    assert label("--threshold", 0) == 2
    assert label("--threshold", 0, "--overwrite") == 0
    assert len(lines(tmp_path / "out" / "pre-labels.manifest")) == 6
    assert lines(tmp_path / "out" / "unlabelled.manifest") == []


@pytest.mark.parametrize(
    "flags",
    [("--label_attribute", "boxes-ref"), ("--label_attribute", "a b"), ("--prefix", "bucket/photos")],
    ids=["reserved", "blank", "prefix"],
)
def test_label_invalid_flag_is_refused(label, tmp_path, flags):
    assert label(*flags) == 2
    assert not (tmp_path / "out").exists()


def test_label_prefix_of_images_on_s3_is_refused(label, capsys):
    assert label("--prefix", "s3://bucket/other", images="s3://bucket/photos") == 2
    assert "prefix" in capsys.readouterr().err
