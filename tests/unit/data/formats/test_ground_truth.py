"""Ground Truth manifests: what is read, skipped, mended and refused, each with its place; real ones; round trips."""

import json
import re
from datetime import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_train.data.formats import ground_truth as gt
from ssd_train.data.formats.fields import CLIPPED, OUTSIDE, TOO_SMALL
from ssd_train.data.formats.gather import BAD_LINE, DUPLICATE, NO_BOX_LEFT
from ssd_train.data.formats.ground_truth import read_ground_truth, write_ground_truth
from ssd_train.data.records import ClassNames, Record
from ssd_train.errors import ConfigError, DataError, SsdTrainError

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


BAD_LINES = {
    "not JSON": ("hello", r"bad JSON at column 1 \("),
    "half a line": ('{"source-ref": "s3://b/a', r"bad JSON at column"),
    "two objects": ("{} {}", r"bad JSON at column 4 \(Extra data"),
    "a number": ("17", "found a JSON int, expected one JSON object"),
    "an array": ('["a"]', "found a JSON list, expected one JSON object"),
    "deep nesting": ("[" * 200_000, "nested too deep"),
    "an integer of 9000 digits": (
        text(with_box(left=7), '"left": 7', '"left": ' + "7" * 9000),
        "box 0: left|limit|digits",
    ),
    "key twice": ('{"source-ref": "a", "source-ref": "b"}', "key 'source-ref' twice"),
    "key twice inside": (text(with_box(), '"left": 10', '"left": 10, "left": 11'), "key 'left' twice"),
    "NaN": (text(with_box(left=7), '"left": 7', '"left": NaN'), "found NaN, which is not JSON"),
    "Infinity": (text(with_box(left=7), '"left": 7', '"left": -Infinity'), "found -Infinity, which is not JSON"),
    "too large a float": (text(with_box(left=7), '"left": 7', '"left": 1e999'), "box 0: left: found inf"),
    "too large an integer": (with_box(left=10**40), "box 0: left: found 1000"),
    "string left": (with_box(left="10"), "box 0: left: found '10', expected a number"),
    "boolean top": (with_box(top=True), "box 0: top: found true, expected a number"),
    "null width": (with_box(width=None), "box 0: width: found null, expected a number"),
    "no height": (with_box(height=REMOVED), "box 0: height: found null, expected a number"),
    "a list for left": (with_box(left=[1]), "box 0: left: found an array"),
    "zero width": (with_box(width=0), "box 0: found width 0 and height 40, expected both above 0"),
    "negative height": (with_box(height=-3), "box 0: found width 30 and height -3, expected both above 0"),
    "class_id unknown": (with_box(class_id=7), r"box 0: class_id: found 7, expected one of the class-map: \[0, 1\]"),
    "class_id negative": (with_box(class_id=-1), "box 0: class_id: found -1, expected an integer"),
    "class_id a half": (with_box(class_id=0.5), "box 0: class_id: found 0.5, expected an integer"),
    "class_id a float": (with_box(class_id=1.0), "box 0: class_id: found 1.0, expected an integer"),
    "class_id true": (with_box(class_id=True), "box 0: class_id: found true, expected an integer"),
    "class_id null": (with_box(class_id=None), "box 0: class_id: found null, expected an integer"),
    "class_id missing": (with_box(class_id=REMOVED), "box 0: class_id: found null, expected an integer"),
    "class_id a word": (with_box(class_id="cat"), "box 0: class_id: found 'cat', expected an integer"),
    "class_id other digits": (with_box(class_id="²"), "box 0: class_id: found '²', expected an integer"),
    "second box": (entry(value=label(box(), box(left="1"))), "box 1: left: found '1'"),
    "box not an object": (entry(value=label("box")), "box 0: found 'box', expected an object"),
    "annotations missing": (entry(value={"image_size": []}), "image_size|annotations: found null, expected a list"),
    "annotations an object": (entry(value={"annotations": {}}), "annotations: found an object, expected a list"),
    "image_size an object": (
        entry(value={**label(), "image_size": {"width": 3}}),
        "image_size: found an object, expected a list",
    ),
    "image_size of two": (
        entry(value={**label(), "image_size": [{}, {}]}),
        "image_size: found an array, expected a list of one",
    ),
    "width a string": (entry(value=label(size=("100", 80))), "image_size width: found '100', expected an integer"),
    "height zero": (entry(value=label(size=(100, 0))), "image_size height: found 0, expected an integer from 1"),
    "width a boolean": (entry(value=label(size=(True, 80))), "image_size width: found true, expected an integer"),
    "image_size null inside": (
        entry(value={**label(), "image_size": [None]}),
        "image_size: found null, expected an object",
    ),
    "class-map an array": (entry(about=metadata(class_map=["cat"])), "class-map: found an array, expected an object"),
    "class-map null": (entry(about=metadata(class_map=None)), "class-map: found null, expected an object"),
    "class-map key": (
        entry(about=metadata(class_map={"x": "cat"})),
        "class-map: class id: found 'x', expected an integer",
    ),
    "class name null": (
        entry(about=metadata(class_map={"0": None})),
        "class-map: class 0: found null, expected a name",
    ),
    "class name blank": (entry(about=metadata(class_map={"0": " "})), "class-map: class 0: found ' ', expected a name"),
    "one name, two ids": (entry(about=metadata(class_map={"0": "cat", "2": "cat"})), "'cat' under the ids 0 and 2"),
    "empty source-ref": (entry(""), "source-ref: found '', expected the name"),
    "NUL in source-ref": (entry("s3://b/\0.jpg"), "source-ref: .* without NUL"),
    "lone surrogate": (text(entry("QQ"), "QQ", "\\ud800"), "source-ref: .* surrogates"),
    "other boxes for an image": (entry("s3://b/good.jpg", label()), r"with other boxes than at .*m\.manifest:1"),
}


@pytest.mark.parametrize("line, message", BAD_LINES.values(), ids=BAD_LINES.keys())
def test_malformed_line_is_an_error_with_its_place(tmp_path, line, message):
    path = write(tmp_path, *GOOD, line)
    with pytest.raises(DataError) as caught:
        read_ground_truth(path)
    assert re.match(re.escape(f"{path}:3: ") + f".*({message})", str(caught.value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("line, message", BAD_LINES.values(), ids=BAD_LINES.keys())
def test_malformed_line_is_skipped_on_demand_with_the_same_words(tmp_path, line, message):
    path = write(tmp_path, *GOOD, line)
    labels = read_ground_truth(path, on_bad="skip")
    assert [record.name for record in labels.records] == ["s3://b/good.jpg", "s3://b/background.jpg"]
    (skipped,) = labels.skipped
    assert (skipped.where, skipped.reason) == (f"{path}:3", BAD_LINE)
    assert re.search(message, skipped.detail)


SKIPPED_LINES = {
    "video source": ({"source": "text", "bb": label(), "bb-metadata": metadata()}, gt.NO_SOURCE),
    "source-ref a number": ({**entry(), "source-ref": 5}, gt.NO_SOURCE),
    "not labelled": ({"source-ref": "s3://b/a.jpg"}, gt.NO_LABEL),
    "labelled by another job only": (entry(attribute="other", about=metadata(creation_date="2001")), gt.NO_LABEL),
    "failed": (entry(about=metadata(failure_reason="ClientError: no image")), gt.FAILED),
    "failed without a label": ({"source-ref": "s3://b/a.jpg", "bb-metadata": {"failure-reason": "x"}}, gt.FAILED),
    "failed with an empty label": (entry(value=label(), about=metadata(failure_reason="x")), gt.FAILED),
    "label a number": (entry(value=1), gt.NOT_AN_OBJECT),
    "label a list": (entry(value=[]), gt.NOT_AN_OBJECT),
    "label null": ({**entry(), "bb": None}, gt.NOT_AN_OBJECT),
    "classification": (entry(value=1, about=metadata(type="groundtruth/image-classification")), gt.OTHER_TYPE),
    "verification": (entry(value="1", about=metadata(type="groundtruth/label-verification")), gt.OTHER_TYPE),
    "metadata missing": ({"source-ref": "s3://b/a.jpg", "bb": label(box())}, gt.OTHER_TYPE),
    "metadata a string": ({**entry(), "bb-metadata": "none"}, gt.OTHER_TYPE),
    "type a number": (entry(about=metadata(type=5)), gt.OTHER_TYPE),
    "same line again": (GOOD[0], DUPLICATE),
    "only box outside": (with_box(left=200), NO_BOX_LEFT),
}


@pytest.mark.parametrize("line, reason", SKIPPED_LINES.values(), ids=SKIPPED_LINES.keys())
def test_line_without_usable_label_is_skipped_and_counted(tmp_path, line, reason):
    path = write(tmp_path, *GOOD, line)
    labels = read_ground_truth(path)
    assert [record.name for record in labels.records] == ["s3://b/good.jpg", "s3://b/background.jpg"]
    assert [(skipped.where, skipped.reason) for skipped in labels.skipped] == [(f"{path}:3", reason)]


ODD_LINES = {
    "integers": (with_box(), [10, 20, 40, 60]),
    "floats": (with_box(left=10.25, width=0.5 + 29), [10.25, 20, 39.75, 60]),
    "class_id as digits": (with_box(class_id="0"), [10, 20, 40, 60]),
    "no image_size": (entry(value=label(box(left=5000), size=None)), [5000, 20, 5030, 60]),
    "confidence 0": (entry(about=metadata(objects=[{"confidence": 0}])), [10, 20, 40, 60]),
    "confidence 0.09": (entry(about=metadata(objects=[{"confidence": 0.09}])), [10, 20, 40, 60]),
    "verified as well": (
        entry(**{"check": "1", "check-metadata": {"type": "groundtruth/label-verification", "class-name": "bad"}}),
        [10, 20, 40, 60],
    ),
    "class of another line's map": (entry(about=metadata(class_map={})), [10, 20, 40, 60]),
    "unknown keys": (entry(color="blue", **{"video-metadata": 5}), [10, 20, 40, 60]),
    "U+2028 in the name": (text(entry("QQ"), "QQ", "\u2028"), [10, 20, 40, 60]),
    "whole image": (with_box(left=0, top=0, width=100, height=80), [0, 0, 100, 80]),
}


@pytest.mark.parametrize("line, corners", ODD_LINES.values(), ids=ODD_LINES.keys())
def test_odd_line_is_read(tmp_path, line, corners):
    path = write(tmp_path, *GOOD, line)
    labels = read_ground_truth(path)
    assert labels.records[2].boxes.tolist() == [corners]
    assert labels.records[2].where == f"{path}:3"
    assert not labels.skipped and not labels.mended


MENDED_BOXES = {
    "left of the image": ({"left": -10}, [0, 20, 20, 60], CLIPPED),
    "right of the image": ({"left": 80, "width": 30}, [80, 20, 100, 60], CLIPPED),
    "below": ({"top": 60, "height": 30}, [10, 60, 40, 80], CLIPPED),
    "rounding of a tool": ({"left": 70.00000001}, [70, 20, 100, 60], None),
    "a tenth left": ({"left": -27}, [0, 20, 3, 60], CLIPPED),
    "less than a tenth left": ({"left": -28}, None, OUTSIDE),
    "wholly outside": ({"left": 200}, None, OUTSIDE),
    "touching from outside": ({"left": 100}, None, OUTSIDE),
    "thinner than a pixel": ({"width": 0.01}, None, TOO_SMALL),
    "thinner than a pixel after clipping": ({"left": -0.5, "width": 1.4}, None, TOO_SMALL),
}


@pytest.mark.parametrize("changes, corners, reason", MENDED_BOXES.values(), ids=MENDED_BOXES.keys())
def test_box_is_fitted_to_its_image_and_counted(tmp_path, changes, corners, reason):
    path = write(tmp_path, entry(value=label(box(left=1), box(**changes), box(left=2))))
    labels = read_ground_truth(path)
    expected = [[1, 20, 31, 60], corners, [2, 20, 32, 60]]
    np.testing.assert_allclose(labels.records[0].boxes, [row for row in expected if row], atol=1e-5)
    assert [(mended.where, mended.reason) for mended in labels.mended] == ([(f"{path}:1", reason)] if reason else [])
    assert all(mended.detail.startswith("box 1: [") for mended in labels.mended)


def test_all_bad_lines_are_in_one_message_and_the_first_three_named(tmp_path):
    path = write(tmp_path, *GOOD, *(["?"] * 5))
    with pytest.raises(DataError, match=r"^5 bad lines: .*:3: .*; .*:4: .*; .*:5: .*; and 2 more$"):
        read_ground_truth(path)


@pytest.mark.parametrize("lines", [["?"], [{"source-ref": "a"}]], ids=["all malformed", "none labelled"])
def test_skipping_everything_is_an_error(tmp_path, lines):
    with pytest.raises(DataError, match=r"m\.manifest:1: "):
        read_ground_truth(write(tmp_path, *lines), on_bad="skip")


def test_no_line_left_tells_the_reasons(tmp_path):
    path = write(tmp_path, entry(about=metadata(failure_reason="no image")), {"source-ref": "s3://b/b.jpg"})
    with pytest.raises(
        DataError, match="no line can be used.* 1 x label attribute missing, 1 x labelling failed.*no image"
    ):
        read_ground_truth(path)


LINES = "\n".join(json.dumps(entry(f"s3://b/{i}.jpg"), ensure_ascii=False) for i in range(3))
PRETTY = json.dumps(entry(), indent=2)
WHOLE_FILES = {
    "empty": (b"", r"m\.manifest: is empty"),
    "blank lines only": (b"\n \r\n\n", r"m\.manifest: is empty"),
    "JSON array": (
        ("[" + LINES.replace("\n", ",\n") + "]").encode(),
        r"m\.manifest:1: starts a JSON array, expected JSON Lines",
    ),
    "pretty-printed": (PRETTY.encode(), r"m\.manifest:1: starts JSON printed over several lines"),
    "UTF-16": (LINES.encode("utf-16"), r"m\.manifest: is UTF-16"),
    "UTF-16 without a mark": (LINES.encode("utf-16-le"), r"m\.manifest: is UTF-16"),
    "gzip": (b"\x1f\x8b\x08" + b"x" * 50, r"m\.manifest: is compressed with gzip"),
    "latin-1": (LINES.replace("b/1", "b/é").encode("latin-1"), r"m\.manifest:2: found byte 0xe9, which is not UTF-8"),
    "a picture": (b"\xff\xd8\xff\xe0\0\x10JFIF\0", r"m\.manifest: is UTF-16 or no text"),
}


@pytest.mark.parametrize("data, message", WHOLE_FILES.values(), ids=WHOLE_FILES.keys())
def test_file_that_is_no_json_lines_is_one_clear_error(tmp_path, data, message):
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
def test_line_ends_and_marks_do_not_matter(tmp_path, data):
    path = tmp_path / "m.manifest"
    path.write_bytes(data)
    assert [record.name for record in read_ground_truth(path).records] == [f"s3://b/{i}.jpg" for i in range(3)]


def test_blank_lines_count_in_line_numbers(tmp_path):
    path = write(tmp_path, "", *GOOD, "", "?")
    with pytest.raises(DataError, match=r"m\.manifest:5: "):
        read_ground_truth(path)


def test_newest_attribute_of_a_chained_job_is_read(tmp_path):
    new = {"new": label(box(left=1)), "new-metadata": metadata(creation_date="2021-01-01T00:00:00.000000")}
    path = write(tmp_path, entry(**new), entry("s3://b/b.jpg", about=metadata(creation_date="2020-12-31T00:00:00")))
    labels = read_ground_truth(path)
    assert labels.records[0].boxes[0, 0] == 1
    assert labels.details["label_attribute"] == "new"
    assert labels.details["other_attributes"] == f"bb ({BOX_TYPE})"
    assert [(line.where, line.reason) for line in labels.skipped] == [(f"{path}:2", gt.NO_LABEL)]


def test_label_attribute_can_be_named(tmp_path):
    new = {"new": label(box(left=1)), "new-metadata": metadata(creation_date="2021-01-01T00:00:00.000000")}
    assert read_ground_truth(write(tmp_path, entry(**new)), "bb").records[0].boxes[0, 0] == 10


def test_two_attributes_of_the_same_date_must_be_told_apart(tmp_path):
    path = write(tmp_path, entry(other=label(), **{"other-metadata": metadata()}))
    with pytest.raises(DataError, match=r"same creation-date \(bb, other\), expected --label_attribute"):
        read_ground_truth(path)


def test_unknown_label_attribute_lists_the_known(tmp_path):
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
def test_manifest_of_another_job_is_refused_by_its_type(tmp_path, kind, message):
    path = write(tmp_path, {"source-ref": "s3://b/a.jpg"}, entry(value=1, about=metadata(type=kind)))
    with pytest.raises(DataError, match=message):
        read_ground_truth(path)


def test_input_manifest_without_labels_is_refused(tmp_path):
    path = write(tmp_path, {"source-ref": "s3://b/a.jpg"})
    with pytest.raises(DataError, match=r":1: found source-ref, expected a label attribute and its metadata"):
        read_ground_truth(path)


def class_maps(*maps):
    return [entry(f"s3://b/{i}.jpg", label(), metadata(class_map=found)) for i, found in enumerate(maps)]


def test_class_names_are_the_union_in_order_of_dense_ids(tmp_path):
    lines = [*class_maps({}, {"3": "text"}, {"0": "valve", "1": "pump "}), entry(value=label(box(class_id=3)))]
    lines[-1]["bb-metadata"] = metadata(class_map={"3": "text"})
    labels = read_ground_truth(write(tmp_path, *lines))
    assert labels.class_names.names == ("valve", "pump ", "text")
    assert labels.records[-1].class_ids.tolist() == [2]


def test_one_name_under_two_ids_is_one_class(tmp_path):
    one, two = (entry(f"s3://b/{i}.jpg", label(box(class_id=i)), metadata(class_map={str(i): "cat"})) for i in (0, 1))
    labels = read_ground_truth(write(tmp_path, one, two))
    assert labels.class_names.names == ("cat",)
    assert [record.class_ids.tolist() for record in labels.records] == [[0], [0]]


CONFLICTS = {
    "one id, two names": (
        [{"0": "cat"}, {}, {"0": "dog"}],
        r"m\.manifest:3: .* class 0 'dog', but .*m\.manifest:1 calls it 'cat'",
    ),
    "one id, two names, other order": (
        [{"0": "dog"}, {"0": "cat"}],
        r"m\.manifest:1: .* 'dog', but .*m\.manifest:2 .*'cat'",
    ),
    "blanks around": ([{"0": "cat"}, {"1": "cat "}], r"m\.manifest:2: .*'cat ', but .*m\.manifest:1 has 'cat'"),
}


@pytest.mark.parametrize("maps, message", CONFLICTS.values(), ids=CONFLICTS.keys())
@pytest.mark.parametrize("on_bad", ["error", "skip"])
def test_conflicting_class_maps_name_both_lines(tmp_path, maps, message, on_bad):
    with pytest.raises(DataError, match=message):
        read_ground_truth(write(tmp_path, *class_maps(*maps)), on_bad=on_bad)


def test_folder_with_its_manifest(tmp_path):
    write(tmp_path, *GOOD, name="only.jsonl")
    assert read_ground_truth(tmp_path).source.endswith("only.jsonl")
    write(tmp_path, *GOOD, name="output.manifest")
    assert read_ground_truth(tmp_path).source.endswith("output.manifest")


def test_output_folder_of_a_job(tmp_path):
    (tmp_path / "manifests/output").mkdir(parents=True)
    write(tmp_path / "manifests/output", *GOOD, name="output.manifest")
    assert len(read_ground_truth(tmp_path)) == 2


@pytest.mark.parametrize(
    "names, listed", [((), "nothing"), (("a.txt",), "a.txt"), (("a.manifest", "b.jsonl"), "a.manifest, b.jsonl")]
)
def test_folder_without_one_manifest_lists_what_is_there(tmp_path, names, listed):
    for name in names:
        write(tmp_path, *GOOD, name=name)
    with pytest.raises(DataError, match=f"found {listed}, expected output.manifest or exactly one"):
        read_ground_truth(tmp_path)


@pytest.mark.parametrize("name", ["none.manifest", "none\0.manifest"])
def test_missing_file_is_named(tmp_path, name):
    with pytest.raises(DataError, match="none.*cannot be read"):
        read_ground_truth(str(tmp_path / name))


def test_unknown_policy_for_bad_lines(tmp_path):
    with pytest.raises(ConfigError, match="on_bad_data: found 'ignore'"):
        read_ground_truth(write(tmp_path, *GOOD), on_bad="ignore")


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
        records.append(Record(f"{name}{index}.jpg", boxes, ids, draw(st.sampled_from([(width, height), None]))))
    return names, records


def same(a, b):
    return (
        (a.name, a.size_wh) == (b.name, b.size_wh)
        and a.boxes.tobytes() == b.boxes.tobytes()
        and a.class_ids.tolist() == b.class_ids.tolist()
    )


@settings(max_examples=60, deadline=None)
@given(labels=label_sets())
def test_written_manifest_reads_back_bit_for_bit(tmp_path_factory, labels):
    names, records = labels
    path = tmp_path_factory.mktemp("round") / "out.manifest"
    write_ground_truth(path, iter(records), names, "boxes")
    read = read_ground_truth(path)
    assert read.class_names == names and not read.mended and not read.skipped
    assert len(read) == len(records) and all(map(same, read.records, records))


def test_written_line_is_as_ground_truth_writes_it(tmp_path):
    path = tmp_path / "out.manifest"
    record = Record("s3://b/é.jpg", [[1, 2, 4, 6.5]], [0], (10, 20))
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
        yield Record("a.jpg", [], [])
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError):
        write_ground_truth(path, records(), ClassNames(("cat",)))
    assert path.read_bytes() == before and [child.name for child in tmp_path.iterdir()] == ["m.manifest"]


def test_name_that_utf8_cannot_hold_is_refused(tmp_path):
    with pytest.raises(DataError, match="expected text that UTF-8 can hold"):
        write_ground_truth(tmp_path / "m", [Record("\udcff.jpg", [], [])], ClassNames(("cat",)))


@pytest.mark.parametrize("attribute", ["", "bb-metadata", "bb-ref", "source-ref", "source"])
def test_reserved_attribute_names_are_refused(tmp_path, attribute):
    with pytest.raises(ConfigError, match="label_attribute: found"):
        write_ground_truth(tmp_path / "m", [], ClassNames(("cat",)), attribute)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_mutated_manifest_gives_our_errors_only(tmp_path_factory, data):
    raw = bytearray("\n".join(json.dumps(line) for line in [*GOOD, entry()]).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(raw) - 1))
        raw[start : start + data.draw(st.integers(0, 6))] = data.draw(
            st.sampled_from([b"", b"0", b'"', b"{", b"]", b"\n", b"\xff", b"-1"])
        )
    path = tmp_path_factory.mktemp("mutated") / "m.manifest"
    path.write_bytes(bytes(raw))
    for policy in ("error", "skip"):
        try:
            labels = read_ground_truth(path, on_bad=policy)
        except SsdTrainError as error:
            assert str(path) in str(error)
        else:
            assert labels.records


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
    "pid-ocr-multiclass": (5, 36, 0, ("符号", "设备 ", "英文")),
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
    assert not labels.skipped and not labels.mended
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


@pytest.mark.parametrize("name", REAL)
def test_real_manifest_survives_writing(real_manifests, tmp_path, name):
    labels = read_ground_truth(real_manifests / f"{name}.manifest")
    write_ground_truth(tmp_path / "copy.manifest", labels.records, labels.class_names)
    copy = read_ground_truth(tmp_path / "copy.manifest")
    assert copy.class_names == labels.class_names and all(map(same, copy.records, labels.records))
