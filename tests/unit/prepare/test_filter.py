"""keep: lines by condition, boxes by confidence."""

from __future__ import annotations

import pytest
from helpers import manifests

from ssd_train.errors import ConfigError, DataError
from ssd_train.prepare.filter import ConfidenceFilter, LineFilter, keep, read_ids


def verified(name, class_name, job="check"):
    metadata = {"type": "groundtruth/label-verification", "class-name": class_name, "confidence": 0.9}
    return {**manifests.line(name), job: "1", f"{job}-metadata": metadata}


@pytest.fixture
def manifest(tmp_path):
    lines = [
        manifests.line("s3://b/one/a.x.jpg", object="box", n=1, deep={"in": {"side": "left"}}),
        manifests.line("s3://b/two/b.jpg", object="bin", n=2),
        manifests.line("s3://b/two/c.jpg", [], object="box", flag=True),
    ]
    return manifests.write(tmp_path / "a", lines)


@pytest.mark.parametrize(
    "conditions, expected",
    [
        pytest.param(LineFilter(ids=["a.x"]), "a", id="stem-of-a-name-with-dots"),
        pytest.param(LineFilter(ids=["b.jpg", "s3://b/two/c.jpg"]), "bc", id="file-name-and-address"),
        pytest.param(LineFilter(source_regex="/two/"), "bc", id="regex"),
        pytest.param(LineFilter(where=[("object", "box")]), "ac", id="key"),
        pytest.param(LineFilter(where=[("n", "2")]), "b", id="number"),
        pytest.param(LineFilter(where=[("flag", "true")]), "c", id="true"),
        pytest.param(LineFilter(where=[("deep.in.side", "left")]), "a", id="dots"),
        pytest.param(LineFilter(where=[("object", "box")], source_regex="two"), "c", id="all-must-hold"),
    ],
)
def test_conditions(tmp_path, manifest, conditions, expected):
    before = manifest.read_bytes().splitlines()

    kept, dropped = tmp_path / "kept", tmp_path / "dropped"
    keep(manifest, kept, conditions)
    keep(manifest, dropped, conditions, invert=True)

    assert "".join(source.rsplit("/", 1)[1][0] for source in manifests.sources(kept)) == expected
    assert sorted([*kept.read_bytes().splitlines(), *dropped.read_bytes().splitlines()]) == sorted(before)


@pytest.mark.parametrize(
    "conditions, expected",
    [
        pytest.param(LineFilter(), "no condition", id="none"),
        pytest.param(LineFilter(ids=["a.x", "zz"]), "'zz' stands for 0 images", id="unknown-id"),
        pytest.param(LineFilter(source_regex="("), "expected a regular expression", id="bad-regex"),
        pytest.param(LineFilter(verified="good"), "none .no line was verified", id="nothing-verified"),
    ],
)
def test_conditions_that_cannot_be(tmp_path, manifest, conditions, expected):
    with pytest.raises(ConfigError, match=expected):
        keep(manifest, tmp_path / "out", conditions)


def test_verified_labels(tmp_path):
    path = manifests.write(
        tmp_path / "a", [verified("1.jpg", "good"), verified("2.jpg", "bad"), manifests.line("3.jpg")]
    )

    keep(path, tmp_path / "good", LineFilter(verified="good"))
    keep(path, tmp_path / "rest", LineFilter(verified="bad"), invert=True)

    assert manifests.sources(tmp_path / "good") == ["1.jpg"]
    assert manifests.sources(tmp_path / "rest") == ["1.jpg", "3.jpg"]


def test_one_of_several_verification_jobs_is_named(tmp_path):
    path = manifests.write(tmp_path / "a", [verified("1.jpg", "good"), verified("2.jpg", "good", job="again")])

    with pytest.raises(ConfigError, match="2 verification jobs .*again, check"):
        keep(path, tmp_path / "out", LineFilter(verified="good"))
    keep(path, tmp_path / "out", LineFilter(verified="good", verification="again"))

    assert manifests.sources(tmp_path / "out") == ["2.jpg"]


@pytest.fixture
def unsure(tmp_path):
    boxes = [(0, 1, 1, 5, 5), (1, 2, 2, 6.50, 6)]
    lines = [
        manifests.line("both.jpg", boxes, confidences=[0.9, 0.5]),
        manifests.line("one.jpg", boxes, confidences=[0.4, 0.8]),
        manifests.line("none.jpg", boxes, confidences=[0.1, 0.2]),
        manifests.line("empty.jpg", []),
        {"source-ref": "unlabelled.jpg"},
    ]
    return manifests.write(tmp_path / "a", lines)


@pytest.mark.parametrize(
    "when_empty, expected",
    [
        pytest.param("drop", {"both": 2, "one": 1, "empty": 0}, id="drop"),
        pytest.param("background", {"both": 2, "one": 1, "none": 0, "empty": 0}, id="background"),
    ],
)
def test_sure_boxes(tmp_path, unsure, when_empty, expected):
    done = keep(unsure, tmp_path / "out", LineFilter(), ConfidenceFilter(0.5, when_empty))

    lines = {value["source-ref"].split(".")[0]: value for value in manifests.read(tmp_path / "out")}
    assert {name: len(value["bb"]["annotations"]) for name, value in lines.items() if "bb" in value} == expected
    assert "unlabelled" in lines
    assert lines["one"]["bb"]["annotations"] == [{"class_id": 1, "left": 2, "top": 2, "width": 6.5, "height": 6}]
    assert lines["one"]["bb-metadata"]["objects"] == [{"confidence": 0.8}]
    assert done.boxes_dropped == 3
    assert unsure.read_bytes().splitlines()[0] in (tmp_path / "out").read_bytes()


@pytest.mark.parametrize(
    "objects, expected",
    [
        pytest.param([{}], "a:1: box 0: found confidence null", id="missing"),
        pytest.param([{"confidence": "0.9"}], "a:1: box 0: found confidence '0.9'", id="text"),
        pytest.param([], "a:1: bb-metadata: found 0 objects for 1 boxes", id="too-few"),
    ],
)
def test_box_without_a_confidence(tmp_path, objects, expected):
    value = manifests.line("1.jpg")
    value["bb-metadata"]["objects"] = objects

    with pytest.raises(DataError, match=expected):
        keep(manifests.write(tmp_path / "a", [value]), tmp_path / "out", LineFilter(), ConfidenceFilter(0.5))


def test_ids_in_a_file(tmp_path):
    (tmp_path / "ids.txt").write_text("\ufeffa,1\r\n\n b \n", "utf-8")
    (tmp_path / "none.txt").write_text("\n")

    assert read_ids(str(tmp_path / "ids.txt")) == ("a,1", "b")
    with pytest.raises(ConfigError, match="found none"):
        read_ids(str(tmp_path / "none.txt"))
