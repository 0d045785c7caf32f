"""join: several manifests as one."""

from __future__ import annotations

import pytest
from helpers import manifests

from ssd_train.data.formats.ground_truth import read_ground_truth
from ssd_train.errors import DataError
from ssd_train.prepare.merge import join


def test_lines_come_one_manifest_after_the_other_byte_for_byte(tmp_path):
    a = manifests.write(tmp_path / "a", ['{"source-ref" : "1.jpg", "x": 1.50}'])
    b = manifests.write(tmp_path / "b", [manifests.line("2.jpg", foo=[1e3])])

    done = join([a, b], tmp_path / "out")

    assert (tmp_path / "out").read_bytes() == a.read_bytes() + b.read_bytes()
    assert (done.lines_in, done.lines_out, done.duplicates, done.renumbered) == ([1, 1], 2, 0, {})


@pytest.mark.parametrize(
    "on_duplicate, expected",
    [
        pytest.param("keep-first", ["a1", "a2", "b3"], id="first"),
        pytest.param("keep-last", ["a1", "b2", "b3"], id="last"),
        pytest.param("keep-all", ["a1", "a2", "b2", "b3"], id="all"),
    ],
)
def test_image_that_comes_again(tmp_path, on_duplicate, expected):
    a = manifests.write(tmp_path / "a", [manifests.line("1.jpg", tag="a1"), manifests.line("2.jpg", tag="a2")])
    b = manifests.write(tmp_path / "b", [manifests.line("2.jpg", tag="b2"), manifests.line("3.jpg", tag="b3")])

    done = join([a, b], tmp_path / "out", on_duplicate)

    assert [value["tag"] for value in manifests.read(tmp_path / "out")] == expected
    assert done.duplicates == 1


def test_image_that_comes_again_is_an_error_that_names_both_places(tmp_path):
    a = manifests.write(tmp_path / "a", [manifests.line("1.jpg")])

    with pytest.raises(DataError, match=r"a:1: found image '1\.jpg' again, first at .*a:1.*--on_duplicate"):
        join([a, a], tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_labels_get_a_common_name_where_they_stand(tmp_path):
    a = manifests.write(tmp_path / "a", [{**manifests.line("1.jpg", attribute="x"), "after": 1}])
    b = manifests.write(tmp_path / "b", [manifests.line("2.jpg", attribute="y")])

    join([a, b], tmp_path / "out", label_attribute="boxes")

    first, second = manifests.read(tmp_path / "out")
    assert list(first) == ["source-ref", "boxes", "boxes-metadata", "after"]
    assert second["boxes"] == manifests.line("2.jpg")["bb"]


def test_common_name_that_a_line_uses_already(tmp_path):
    a = manifests.write(tmp_path / "a", [manifests.line("1.jpg", attribute="x", boxes_of="me", y="taken")])

    with pytest.raises(DataError, match="a:1: 'x' cannot be called 'y', expected a line without 'y'"):
        join([a], tmp_path / "out", label_attribute="y")


def test_named_labels_are_taken_where_a_manifest_has_several(tmp_path):
    both = {**manifests.line("1.jpg", attribute="old"), **manifests.line("1.jpg", [], attribute="new")}
    both["new-metadata"]["creation-date"] = "2024"
    a = manifests.write(tmp_path / "a", [both])

    join([a], tmp_path / "out", label_attribute="old")

    assert (tmp_path / "out").read_bytes() == a.read_bytes()


def test_join_ids_that_clash_are_made_anew_and_the_others_stay(tmp_path):
    a = manifests.write(tmp_path / "a", [manifests.line("1.jpg", [(3, 1, 1, 5, 5)], {0: "cat", 3: "cow"})])
    b = manifests.write(
        tmp_path / "b", [manifests.line("2.jpg", [(0, 2, 2, 5, 5), (1, 1, 1, 9, 9)], {0: "dog", 1: "emu", 7: "cow"})]
    )

    done = join([a, b], tmp_path / "out")

    assert done.renumbered == {"cat": 0, "emu": 1, "cow": 3, "dog": 4}
    labels = read_ground_truth(tmp_path / "out")
    assert labels.class_names.names == ("cat", "emu", "class_2", "cow", "dog")
    assert [record.class_ids.tolist() for record in labels.records] == [[3], [4, 1]]


def test_names_that_differ_in_blanks_are_an_error(tmp_path):
    a = manifests.write(tmp_path / "a", [manifests.line("1.jpg", classes={0: "cat"})])
    b = manifests.write(tmp_path / "b", [manifests.line("2.jpg", classes={0: "cat "})])

    with pytest.raises(DataError, match="has class 'cat ', but .*a has 'cat'"):
        join([a, b], tmp_path / "out")


@pytest.mark.parametrize(
    "lines, on_duplicate, error, expected",
    [
        pytest.param(['{"a":1'], "error", DataError, "a:1: found bad JSON", id="bad-line"),
        pytest.param([{"x": 1}], "error", DataError, "a:1: source-ref", id="no-image"),
        pytest.param(
            [{"source-ref": "1", "c": 0, "c-metadata": {"type": "groundtruth/image-classification"}}],
            *["error", DataError, "expected groundtruth/object-detection"],
            id="wrong-job",
        ),
    ],
)
def test_join_bad_input_is_an_error(tmp_path, lines, on_duplicate, error, expected):
    with pytest.raises(error, match=expected):
        join([manifests.write(tmp_path / "a", lines)], tmp_path / "out", on_duplicate)

    assert not (tmp_path / "out").exists()
