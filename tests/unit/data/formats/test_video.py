"""Frames of Ground Truth video jobs, as the developer guide shows their files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ssd_train.data.formats.video import ASSUMED_PREFIX, NO_SEQUENCE, NOT_ANNOTATED, read_video_frames
from ssd_train.errors import ConfigError, DataError


def box(class_id="0", **changes):
    attributes = {"label-category-attributes": {"occluded": "no"}}
    return {"height": 41, "width": 53, "top": 152, "left": 339, "class-id": class_id, **attributes, **changes}


def frame(number, *boxes):
    return {"annotations": list(boxes), "frame-no": str(number), "frame": f"frame_{number:04}.jpeg"}


def job(folder, *sequences, kind="object-detection", class_map=None, with_files=True, label="Cars-ref"):
    """The output folder of a job with a list of frames for each of `sequences`."""
    lines = []
    for number, frames in enumerate(sequences):
        place = f"annotations/consolidated-annotation/output/{number}/SeqLabel.json"
        (folder / place).parent.mkdir(parents=True)
        (folder / place).write_text(json.dumps({f"{kind.rpartition('-')[2]}-annotations": frames}))
        listed = [{"frame": frame["frame"]} for frame in frames]
        if with_files:
            sequence = {"seq-no": number, "prefix": f"s3://b/videos/{number}/", "frames": listed}
            (folder / f"seq{number}.json").write_text(json.dumps(sequence))
        metadata = {
            "class-map": {"0": "car", "1": "bus"} if class_map is None else class_map,
            "type": f"groundtruth/video-{kind}",
            "creation-date": "2020-05-15T08:01:16+0000",
        }
        reference = f"s3://out/job/{place}"
        lines.append({"source-ref": f"s3://b/in/seq{number}.json", label: reference, f"{label}-metadata": metadata})
    write_manifest(folder, lines)
    return folder


def write_manifest(folder, lines):
    (folder / "manifests" / "output").mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "manifests" / "output" / "output.manifest").write_text(text)


@pytest.mark.parametrize("kind", ["object-detection", "object-tracking"])
def test_frames_of_a_job(tmp_path, kind):
    tracked = {"object-id": "480dc450", "object-name": "car:1"} if kind == "object-tracking" else {}
    job(tmp_path, [frame(0, box("1", **tracked), box(left=1)), frame(1)], [frame(0, box(1))], kind=kind)

    labels = read_video_frames(tmp_path)

    assert [record.name for record in labels.records] == [
        "s3://b/videos/0/frame_0000.jpeg",
        "s3://b/videos/0/frame_0001.jpeg",
        "s3://b/videos/1/frame_0000.jpeg",
    ]
    assert list(labels.class_names) == ["car", "bus"]
    np.testing.assert_array_equal(labels.records[0].boxes, [[339, 152, 392, 193], [1, 152, 54, 193]])
    np.testing.assert_array_equal(labels.records[0].class_ids, [1, 0])
    assert len(labels.records[1].boxes) == 0
    assert labels.records[1].where.endswith(f"0/SeqLabel.json:{kind.rpartition('-')[2]}-annotations[1]")
    assert labels.details["label_attribute"] == "Cars"
    assert labels.skipped == labels.repaired == ()


def test_manifest_by_its_name(tmp_path):
    job(tmp_path, [frame(0, box())])

    assert len(read_video_frames(tmp_path / "manifests" / "output" / "output.manifest")) == 1


def test_frames_that_were_not_annotated_are_skipped(tmp_path):
    job(tmp_path, [frame(0, box())])
    listed = {"prefix": "s3://b/v", "frames": [{"frame": "frame_0000.jpeg"}, {"frame": "frame_0001.jpeg"}]}
    (tmp_path / "seq0.json").write_text(json.dumps(listed))

    labels = read_video_frames(tmp_path)

    assert [record.name for record in labels.records] == ["s3://b/v/frame_0000.jpeg"]
    assert [(line.reason, line.detail) for line in labels.skipped] == [(NOT_ANNOTATED, "frame_0001.jpeg")]


def test_read_video_missing_sequence_file_assumes_its_folder_and_lists_it(tmp_path):
    job(tmp_path, [frame(0, box())], with_files=False)

    labels = read_video_frames(tmp_path)

    assert labels.records[0].name == "s3://b/in/frame_0000.jpeg"
    assert [line.reason for line in labels.repaired] == [ASSUMED_PREFIX]


def test_sequence_that_was_not_labelled_is_skipped(tmp_path):
    job(tmp_path, [frame(0, box())])
    manifest = tmp_path / "manifests" / "output" / "output.manifest"
    manifest.write_text(manifest.read_text() + '{"source-ref": "s3://b/in/seq9.json"}\n')

    assert [line.reason for line in read_video_frames(tmp_path).skipped] == [NO_SEQUENCE]


@pytest.mark.parametrize(
    "name, text, message",
    [
        pytest.param("SeqLabel.json", None, "not found, expected a file of its own below", id="no-seq-label"),
        pytest.param("SeqLabel.json", "{", "SeqLabel.json: found bad JSON", id="bad-seq-label"),
        pytest.param("SeqLabel.json", "{}", "SeqLabel.json: found an object, expected an object with d", id="no-list"),
        pytest.param("SeqLabel.json", "[]", "SeqLabel.json: found an array", id="array"),
        pytest.param("seq0.json", "[]", "seq0.json: found an array, expected an object with prefix", id="sequence"),
        pytest.param("seq0.json", '{"frames": []}', "seq0.json: prefix: found null", id="no-prefix"),
    ],
)
def test_bad_files(tmp_path, name, text, message):
    job(tmp_path, [frame(0, box())])
    (place,) = tmp_path.rglob(name)
    place.unlink() if text is None else place.write_text(text)

    with pytest.raises(DataError) as error:
        read_video_frames(tmp_path)

    assert message in str(error.value)
    assert str(error.value).startswith(f"{tmp_path / 'manifests/output/output.manifest'}:1: ")


def test_read_video_two_lines_of_one_file_are_an_error(tmp_path):
    job(tmp_path, [frame(0, box())])
    manifest = tmp_path / "manifests" / "output" / "output.manifest"
    manifest.write_text(manifest.read_text() * 2)

    with pytest.raises(DataError, match="output.manifest:2: .*expected a file of its own"):
        read_video_frames(tmp_path)


@pytest.mark.parametrize("names", [{"0": "car", "1": 3}, ["car"], {"x": "car"}], ids=["number", "list", "key"])
def test_bad_class_map(tmp_path, names):
    job(tmp_path, [frame(0, box())], class_map=names)

    with pytest.raises(DataError, match="output.manifest:1: class-map: "):
        read_video_frames(tmp_path)


def test_the_job_that_is_meant(tmp_path):
    job(tmp_path, [frame(0, box())])
    manifest = tmp_path / "manifests" / "output" / "output.manifest"
    line = json.loads(manifest.read_text())
    adjusted = {key.replace("Cars", "Adjusted"): value for key, value in line.items()}
    write_manifest(tmp_path, [{**line, **adjusted}])

    assert read_video_frames(tmp_path, "Cars").details["label_attribute"] == "Cars"
    assert read_video_frames(tmp_path, "Adjusted-ref").details["label_attribute"] == "Adjusted"
    with pytest.raises(ConfigError, match="expected one of Adjusted-ref, Cars-ref"):
        read_video_frames(tmp_path)
    with pytest.raises(DataError, match="found no labels called 'Other'"):
        read_video_frames(tmp_path, "Other")
