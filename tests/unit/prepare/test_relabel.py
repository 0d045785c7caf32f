"""relabel: other classes."""

from __future__ import annotations

import pytest
from helpers import manifests

from ssd_train.data.formats.ground_truth import read_ground_truth
from ssd_train.errors import ConfigError, DataError
from ssd_train.prepare.relabel import RelabelRules, relabel

THREE = {0: "cat", 3: "dog", 7: "cow"}


@pytest.fixture
def manifest(tmp_path):
    lines = [
        manifests.line("1.jpg", [(0, 1, 1, 5, 5), (3, 2, 2, 6, 6)], {0: "cat", 3: "dog"}, color="blue", object="box"),
        manifests.line("2.jpg", [(7, 1, 1, 5, 5)], THREE, color="yellow", object="box"),
        manifests.line("3.jpg", [], {}, color="red"),
        {"source-ref": "4.jpg", "n": 1.50},
    ]
    return manifests.write(tmp_path / "a", lines)


def names(path):
    labels = read_ground_truth(path)
    return [[labels.class_names[i] for i in record.class_ids] for record in labels.records]


@pytest.mark.parametrize(
    "how, classes, expected",
    [
        pytest.param(
            RelabelRules(from_keys=["color", "object"]),
            *[{"blue box": 0, "yellow box": 1}, [["blue box", "blue box"], ["yellow box"], []]],
            id="keys",
        ),
        pytest.param(
            RelabelRules(rename={"cow": "ox"}), {"cat": 0, "dog": 3, "ox": 7}, [["cat", "dog"], ["ox"], []], id="rename"
        ),
        pytest.param(
            RelabelRules(rename={"cat": "dog", "dog": "cat"}),
            *[{"dog": 0, "cat": 3, "cow": 7}, [["dog", "cat"], ["cow"], []]],
            id="exchange",
        ),
        pytest.param(RelabelRules(drop=["dog"]), {"cat": 0, "cow": 7}, [["cat"], ["cow"], []], id="drop"),
        pytest.param(
            RelabelRules(drop=["cow"], when_empty="drop"),
            {"cat": 0, "dog": 3},
            [["cat", "dog"], []],
            id="drop-the-line",
        ),
        pytest.param(
            RelabelRules(["color"], {"blue": "cold", "yellow": "warm"}, ["warm"]),
            *[{"cold": 0}, [["cold", "cold"], [], []]],
            id="all-three",
        ),
        pytest.param(
            RelabelRules(drop=["dog"], renumber=True),
            {"cat": 0, "cow": 1},
            [["cat"], ["cow"], []],
            id="drop-and-renumber",
        ),
    ],
)
def test_new_classes(tmp_path, manifest, how, classes, expected):
    before = manifest.read_bytes()

    done = relabel(manifest, tmp_path / "out", how)

    lines = manifests.read(tmp_path / "out")
    labelled = [value for value in lines if "bb" in value]
    assert names(tmp_path / "out") == expected
    assert done.ids == classes and list(done.boxes) == list(classes)
    assert [value["bb-metadata"]["class-map"] for value in labelled] == [
        {str(class_id): name for name, class_id in classes.items()}
    ] * len(labelled)
    assert [len(value["bb-metadata"]["objects"]) for value in labelled] == [len(row) for row in expected]
    assert list(done.boxes.values()) == [sum(row.count(name) for row in expected) for name in classes]
    assert done.boxes_dropped == 3 - sum(map(len, expected))
    assert manifest.read_bytes() == before
    assert (tmp_path / "out").read_bytes().splitlines()[-1] == before.splitlines()[-1]


def test_the_rest_of_a_line_stays(tmp_path):
    text = (
        '{"source-ref":"1.jpg","keep":{"x":1.50},"bb":{"annotations":[{"class_id":"0","width":5.10,"top":1,"height":5,'
        '"left":1e0,"note":"é"}],"image_size":[{"width":40,"depth":3,"height":30}]},"bb-metadata":{"class-map":{"0":"cat"},'
        '"objects":[{"confidence":0.090}],"type":"groundtruth/object-detection"}}'
    )
    path = manifests.write(tmp_path / "a", [text])

    relabel(path, tmp_path / "out", RelabelRules(rename={"cat": "lion"}))

    expected = text.replace('"class_id":"0"', '"class_id":0').replace('"cat"', '"lion"')
    assert (tmp_path / "out").read_text("utf-8") == expected + "\n"


@pytest.mark.parametrize(
    "how, error, expected",
    [
        pytest.param({}, ConfigError, "nothing to do", id="nothing"),
        pytest.param({"rename": {"cta": "x"}}, ConfigError, "rename: found 'cta', expected one of 'cat'", id="unknown"),
        pytest.param({"drop": ["x"]}, ConfigError, "drop: found 'x'", id="unknown-drop"),
        pytest.param({"drop": ["cat", "dog", "cow"]}, ConfigError, "no class would be left", id="none-left"),
        pytest.param({"rename": {"cat": " "}}, DataError, "not blank", id="blank"),
        pytest.param({"from_keys": ["size"]}, DataError, "a:1: size: found none", id="no-key"),
    ],
)
def test_relabel_bad_rules_are_an_error(tmp_path, manifest, how, error, expected):
    with pytest.raises(error, match=expected):
        relabel(manifest, tmp_path / "out", RelabelRules(**how))

    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [None, True, 1.5, "", " ", ["a"], {}], ids=repr)
def test_key_that_is_no_word(tmp_path, value):
    path = manifests.write(tmp_path / "a", [manifests.line("1.jpg", color=value)])

    with pytest.raises(DataError, match="a:1: color: found"):
        relabel(path, tmp_path / "out", RelabelRules(from_keys=["color"]))
