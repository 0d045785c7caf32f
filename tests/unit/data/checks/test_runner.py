"""What a check finds: every code of the list from a small broken file that the test builds, with its place."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from helpers.data import HeardProgress, label_set
from helpers.faulty_sets import (
    ANCHORS,
    BAD_FILES,
    BAD_IMAGES,
    BAD_LINES,
    BAD_SETS,
    JPEG,
    TEN,
    found,
    labels_of,
    line,
    side_of,
    turned,
    with_box,
)

from ssd_train.cli.check import make_parser, read_splits
from ssd_train.data.checks.codes import CODES, SEVERITIES, Finding
from ssd_train.data.checks.runner import (
    CheckResult,
    Split,
    check_data,
    drop_errors,
    quick_check,
    raise_on_errors,
    unreadable_labels_result,
)
from ssd_train.data.formats.voc import read_voc
from ssd_train.data.image_sources import FolderImages
from ssd_train.data.labels import read_labels
from ssd_train.errors import DataError


@pytest.mark.parametrize("bad, code", BAD_LINES.values(), ids=BAD_LINES.keys())
def test_check_bad_line_has_its_code_and_place(tmp_path, bad, code):
    found_here = found(side_of(tmp_path, [bad], {"bad.jpg": JPEG}))
    # a box left out is told beside the image that has none left; an image without a label beside its file
    extra = {"box-dropped", "image-without-label"} - {code}
    assert [entry for entry in found_here if entry[0] not in extra] == [(code, "a.manifest:11")]


@pytest.mark.parametrize("text, code", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_check_unusable_labels_have_their_code(tmp_path, text, code):
    path = tmp_path / "a.manifest"
    if text is not None:
        path.write_text(text, "utf-8")
    with pytest.raises(DataError) as caught:
        read_labels(path, None, "skip")
    finding, *lines = unreadable_labels_result(caught.value).findings
    assert bool(lines) == ("no line can be used" in finding.detail)
    assert (finding.code, finding.severity) == (code, "error")
    assert re.fullmatch(re.escape(str(path)) + r"(:\d+)?", finding.where)
    assert finding.detail and not finding.detail.startswith(finding.where)


def test_check_unusable_labels_list_their_lines(tmp_path):
    bad = [with_box(width="10"), {"source-ref": "a.jpg"}, with_box(class_id=7)]
    path = tmp_path / "a.manifest"
    path.write_text("\n".join(json.dumps(value) for value in bad), "utf-8")
    with pytest.raises(DataError) as caught:
        read_labels(path, None, "skip")
    assert [(f.code, f.where) for f in unreadable_labels_result(caught.value).findings] == [
        ("labels-unusable", str(path)),
        ("bad-coordinates", f"{path}:1"),
        ("unknown-class", f"{path}:3"),
        ("unlabelled-line", f"{path}:2"),
    ]


@pytest.mark.parametrize("boxes, code, where", BAD_SETS.values(), ids=BAD_SETS.keys())
def test_check_boxes_hard_to_learn_are_found(boxes, code, where):
    found_here = found(Split("train", labels_of(boxes)))
    assert [entry for entry in found_here if entry[0] == code] == [(code, where)]
    assert len(found_here) == (2 if code == "crowded" else 1)  # a crowd is too wide a label as well


def test_check_good_boxes_and_background_have_no_finding():
    assert found(Split("train", labels_of([]))) == []


def test_check_tiny_box_depends_on_image_shape():
    labels = labels_of([[100, 100, 108, 108]])
    assert found(Split("train", labels), shape=300) == [("box-tiny", "train.manifest:11")]
    assert ("box-tiny", "train.manifest:11") not in found(Split("train", labels), shape=512)


def test_check_class_with_few_boxes_is_found():
    labels = label_set([[[0, 0, 200, 200]]] * 12, [[0]] * 9 + [[1]] * 3, (400, 400), ("cat", "dog", "cow"))
    result = check_data([Split("train", labels)], 300, ANCHORS)
    assert [f.detail for f in result.findings] == [
        f"found {count} boxes of class {name!r}" for name, count in (("cat", 9), ("dog", 3), ("cow", 0))
    ]
    assert set(result.counts) == {"few-examples"}


def test_check_class_id_without_name_and_box_is_noted_and_no_class_with_few_boxes():
    boxes, ids = [[[0, 0, 200, 200], [50, 50, 300, 300]]] * 12, [[0, 3]] * 12
    labels = label_set(boxes, ids, (400, 400), ("cat", "class_1", "cow", "dog"))
    result = check_data([Split("train", labels)], 300, ANCHORS)
    assert [(f.code, f.severity, f.where) for f in result.findings] == [
        ("few-examples", "warning", "train.manifest"),  # a class that has a name
        ("unused-class-id", "note", "train.manifest"),
    ]
    assert "class_1" in result.findings[1].detail and "cow" in result.findings[0].detail


def test_check_validation_has_given_class_names_as_training_has(tmp_path):
    for name, class_id in (("train", 0), ("validation", 1)):
        (tmp_path / name).mkdir()
        box = {"class_id": class_id, "left": 1, "top": 1, "width": 9, "height": 9}
        label = {"file": f"{name}.jpg", "annotations": [box], "categories": [{"class_id": 18, "name": "dog"}]}
        (tmp_path / name / "a.json").write_text(json.dumps(label))
    arguments = ["--labels", f"{tmp_path}/train", "--validation_labels", f"{tmp_path}/validation"]
    flags = make_parser().parse_args([*arguments, "--class_names", "cat,dog"])

    train, validation = read_splits(flags, HeardProgress())

    assert train.labels.class_names.names == validation.labels.class_names.names == ("cat", "dog")
    assert [s.labels.records[0].class_ids.tolist() for s in (train, validation)] == [[0], [1]]
    codes = [code for code, _ in found(train, validation)]
    assert codes.count("categories-ignored") == 2 and "unknown-class" not in codes


def test_check_class_only_in_validation_is_found():
    train = label_set([[[0, 0, 200, 200]]] * 12, [[0]] * 12, (400, 400), ("cat", "dog"))
    validation = label_set([[[0, 0, 200, 200]]], [[0]], (400, 400), ("dog",))
    codes = [code for code, _ in found(Split("train", train), Split("validation", validation))]
    assert codes == ["few-examples", "class-only-in-training", "class-only-in-validation"]


def test_raise_on_errors_names_the_first():
    findings = [Finding("missing-image", f"a:{n}", "image not found", f"{n}.jpg") for n in range(5)]
    with pytest.raises(
        DataError, match=r"^5 errors in the data: a:0: image not found \(missing-image\); a:1: .* 2 more"
    ):
        raise_on_errors([Finding("crowded", "a:9", "found 101 boxes"), *findings])
    raise_on_errors([Finding("crowded", "a:9", "found 101 boxes"), Finding("few-examples", "a", "found 3 boxes")])


def test_drop_errors_leaves_out_their_images(tmp_path):
    side = side_of(tmp_path, [line("s3://b/images/absent.jpg"), "broken", line()], {"bad.jpg": turned(3)})
    findings = quick_check(side.labels, side.images)
    assert sorted(finding.code for finding in findings) == ["missing-image", "orientation-applied"]
    kept = drop_errors(side.labels, findings)
    assert [record.basename for record in kept.records] == [*(f"{n}.jpg" for n in range(TEN)), "bad.jpg"]
    assert kept.skipped == side.labels.skipped and len(kept.skipped) == 1


def test_check_result_is_sorted_counted_and_json(tmp_path):
    lines = [line("s3://b/images/absent.jpg"), with_box(left=90)]
    progress = HeardProgress()
    result = check_data([side_of(tmp_path, lines, {"bad.jpg": turned(8)})], 300, ANCHORS, progress)
    assert list(result.counts.items()) == [("missing-image", 1), ("box-clipped", 1), ("orientation-turned", 1)]
    assert [result.number(severity) for severity in SEVERITIES] == [1, 1, 1]
    document = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert sorted(document) == ["counts", "errors", "findings", "notes", "statistics", "version", "warnings"]
    first = document["findings"][0]
    assert sorted(first) == ["code", "detail", "image", "severity", "where"]
    assert first["image"] == "s3://b/images/absent.jpg"
    assert first["where"].endswith("a.manifest:11")


def test_check_filename_of_another_image_is_a_warning(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jpg").write_bytes(JPEG)
    box = "<xmin>5</xmin><ymin>5</ymin><xmax>60</xmax><ymax>60</ymax>"
    text = f"<annotation><filename>b.jpg</filename><object><name>x</name><bndbox>{box}</bndbox></object></annotation>"
    (tmp_path / "a.xml").write_text(text)
    labels = read_voc(tmp_path, images=tmp_path)
    assert ("filename-differs", "a.xml") in found(Split("train", labels, FolderImages(tmp_path)))
    assert CODES["filename-differs"].severity == "warning"


def test_check_every_code_has_a_case():
    tables = [code for *_, code in [*BAD_IMAGES.values(), *BAD_LINES.values(), *BAD_FILES.values()]]
    sets = [code for _, code, _ in BAD_SETS.values()]
    single = ["too-large", "few-examples", "class-only-in-validation", "duplicate-picture", "image-without-label"]
    single.append("filename-differs")
    single += ["class-only-in-training", "unused-class-id", "categories-ignored"]
    pairs = ["same-image-in-train-and-validation", "near-duplicate-picture", "near-duplicate-in-validation"]
    assert set(CODES) == {*tables, *sets, *single, *pairs}


def test_check_codes_equal_the_documentation():
    text = (Path(__file__).resolve().parents[4] / "docs" / "check-codes.md").read_text("utf-8")
    rows = re.findall(r"^\| `([a-z-]+)` \| (error|warning|note) \| (.*) \| (.*) \|$", text, re.MULTILINE)
    assert rows == [tuple(code) for code in CODES.values()]


def test_check_result_unknown_code_raises():
    with pytest.raises(KeyError):
        CheckResult((Finding("no-such-code", "a", "b"),))


def test_check_image_whose_namesake_in_another_folder_is_there_is_missing(tmp_path):
    lines = [line("s3://b/cam1/bad.jpg"), line("s3://b/cam2/bad.jpg")]
    side = side_of(tmp_path, lines, {"cam1/bad.jpg": JPEG})
    missing = [entry for entry in found(side) if entry[0] == "missing-image"]
    assert [place.rpartition(":")[2] for _, place in missing] == ["12"]
