"""Manifests as whole files: which attribute is read, of which type of job, with which classes, found where."""

import json

import pytest
from helpers.ground_truth import BOX_TYPE, GOOD, REMOVED, box, entry, label, metadata, write

from ssd_train.data.formats import ground_truth as gt
from ssd_train.data.formats.ground_truth import read_ground_truth
from ssd_train.errors import ConfigError, DataError

LINES = "\n".join(json.dumps(entry(f"s3://b/{i}.jpg"), ensure_ascii=False) for i in range(3))
PRETTY = json.dumps(entry(), indent=2)
WHOLE_FILES = {
    "empty": (b"", r"m\.manifest: is empty"),
    "JSON array": (
        ("[" + LINES.replace("\n", ",\n") + "]").encode(),
        r"m\.manifest:1: starts a JSON array, expected JSON Lines",
    ),
    "pretty-printed": (PRETTY.encode(), r"m\.manifest:1: starts JSON printed over several lines"),
    "UTF-16": (LINES.encode("utf-16"), r"m\.manifest: is UTF-16"),
    "gzip": (b"\x1f\x8b\x08" + b"x" * 50, r"m\.manifest: is compressed with gzip"),
    "latin-1": (LINES.replace("b/1", "b/é").encode("latin-1"), r"m\.manifest:2: found byte 0xe9, which is not UTF-8"),
    "a picture": (b"\xff\xd8\xff\xe0\0\x10JFIF\0", r"m\.manifest: is UTF-16 or no text"),
}


@pytest.mark.parametrize("data, message", WHOLE_FILES.values(), ids=WHOLE_FILES.keys())
def test_read_ground_truth_no_json_lines_is_an_error(tmp_path, data, message):
    path = tmp_path / "m.manifest"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_ground_truth(path)


ACCEPTED_FILES = {
    "no last line feed": LINES.encode(),
    "CRLF": LINES.replace("\n", "\r\n").encode(),
    "byte order mark": b"\xef\xbb\xbf" + LINES.encode(),
    "blank lines between": LINES.replace("\n", "\n\n  \n").encode(),
}


@pytest.mark.parametrize("data", ACCEPTED_FILES.values(), ids=ACCEPTED_FILES.keys())
def test_read_ground_truth_line_ends_and_marks_are_accepted(tmp_path, data):
    path = tmp_path / "m.manifest"
    path.write_bytes(data)
    assert [record.name for record in read_ground_truth(path).records] == [f"s3://b/{i}.jpg" for i in range(3)]


def test_read_ground_truth_chained_job_uses_the_newest_attribute(tmp_path):
    new = {"new": label(box(left=1)), "new-metadata": metadata(creation_date="2021-01-01T00:00:00.000000")}
    path = write(tmp_path, entry(**new), entry("s3://b/b.jpg", about=metadata(creation_date="2020-12-31T00:00:00")))
    labels = read_ground_truth(path)
    assert labels.records[0].boxes[0, 0] == 1
    assert labels.details["label_attribute"] == "new"
    assert labels.details["other_attributes"] == f"bb ({BOX_TYPE})"
    assert [(line.where, line.reason) for line in labels.skipped] == [(f"{path}:2", gt.NO_LABEL)]


def test_read_ground_truth_label_attribute_selects_it(tmp_path):
    new = {"new": label(box(left=1)), "new-metadata": metadata(creation_date="2021-01-01T00:00:00.000000")}
    assert read_ground_truth(write(tmp_path, entry(**new)), "bb").records[0].boxes[0, 0] == 10


def test_read_ground_truth_two_attributes_of_one_date_are_an_error(tmp_path):
    path = write(tmp_path, entry(other=label(), **{"other-metadata": metadata()}))
    with pytest.raises(DataError, match=r"same creation-date \(bb, other\), expected --label_attribute"):
        read_ground_truth(path)


def test_read_ground_truth_unknown_attribute_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="label_attribute: found 'boxes', expected one with boxes in .*: bb"):
        read_ground_truth(write(tmp_path, *GOOD), "boxes")


OTHER_JOBS = {
    "classification": (
        "groundtruth/image-classification",
        r":2: found labels of type groundtruth/image-classification \(bb\)",
    ),
    "video": ("groundtruth/video-object-detection", "prepare convert"),
    "no type": (REMOVED, r"no type \(bb\), expected groundtruth/object-detection"),
}


@pytest.mark.parametrize("kind, message", OTHER_JOBS.values(), ids=OTHER_JOBS.keys())
def test_read_ground_truth_another_job_type_is_an_error(tmp_path, kind, message):
    path = write(tmp_path, {"source-ref": "s3://b/a.jpg"}, entry(value=1, about=metadata(type=kind)))
    with pytest.raises(DataError, match=message):
        read_ground_truth(path)


def class_maps(*maps):
    return [entry(f"s3://b/{i}.jpg", label(), metadata(class_map=found)) for i, found in enumerate(maps)]


def test_ground_truth_class_ids_with_a_gap_stay_and_the_gap_has_a_name(tmp_path):
    lines = [*class_maps({}, {"3": "text"}, {"0": "valve", "1": "pump "}), entry(value=label(box(class_id=3)))]
    lines[-1]["bb-metadata"] = metadata(class_map={"3": "text"})
    labels = read_ground_truth(write(tmp_path, *lines))
    assert labels.class_names.names == ("valve", "pump ", "class_2", "text")
    assert labels.records[-1].class_ids.tolist() == [3] and labels.unused_ids() == (2,)


def test_ground_truth_class_id_beyond_all_classes_is_an_error_with_its_line(tmp_path):
    path = write(tmp_path, *class_maps({"0": "valve"}, {"10000": "text"}))
    with pytest.raises(DataError) as error:
        read_ground_truth(path)
    assert str(error.value).startswith(f"{path}:2: ") and error.value.code == "bad-class-map"


def test_read_ground_truth_one_name_under_two_ids_is_one_class(tmp_path):
    one, two = (entry(f"s3://b/{i}.jpg", label(box(class_id=i)), metadata(class_map={str(i): "cat"})) for i in (0, 1))
    labels = read_ground_truth(write(tmp_path, one, two))
    assert labels.class_names.names == ("cat",)
    assert [record.class_ids.tolist() for record in labels.records] == [[0], [0]]


CONFLICTS = {
    "one id, two names": (
        [{"0": "cat"}, {}, {"0": "dog"}],
        r"m\.manifest:3: .* class 0 'dog', but .*m\.manifest:1 calls it 'cat'",
    ),
    "blanks around": ([{"0": "cat"}, {"1": "cat "}], r"m\.manifest:2: .*'cat ', but .*m\.manifest:1 has 'cat'"),
}


@pytest.mark.parametrize("maps, message", CONFLICTS.values(), ids=CONFLICTS.keys())
@pytest.mark.parametrize("on_bad", ["error", "skip"])
def test_read_ground_truth_conflicting_class_maps_are_an_error(tmp_path, maps, message, on_bad):
    with pytest.raises(DataError, match=message):
        read_ground_truth(write(tmp_path, *class_maps(*maps)), on_bad=on_bad)


def test_read_ground_truth_folder_uses_its_manifest(tmp_path):
    write(tmp_path, *GOOD, name="only.jsonl")
    assert read_ground_truth(tmp_path).source.endswith("only.jsonl")
    write(tmp_path, *GOOD, name="output.manifest")
    assert read_ground_truth(tmp_path).source.endswith("output.manifest")


@pytest.mark.parametrize(
    "names, listed", [((), "nothing"), (("a.txt",), "a.txt"), (("a.manifest", "b.jsonl"), "a.manifest, b.jsonl")]
)
def test_read_ground_truth_folder_without_one_manifest_is_an_error(tmp_path, names, listed):
    for name in names:
        write(tmp_path, *GOOD, name=name)
    with pytest.raises(DataError, match=f"found {listed}, expected output.manifest or exactly one"):
        read_ground_truth(tmp_path)


@pytest.mark.parametrize("name", ["none.manifest", "none\0.manifest"])
def test_read_ground_truth_missing_file_is_an_error(tmp_path, name):
    with pytest.raises(DataError, match="none.*cannot be read"):
        read_ground_truth(str(tmp_path / name))
