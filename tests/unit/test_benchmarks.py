"""What the benchmarks are made of: turns that alternate, figures of them, tables from results."""

from __future__ import annotations

import importlib
import json
import re
import sys
import time
from pathlib import Path

import pytest
from helpers.models import talking_model

from ssd_train import mxnet_compat
from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.model.pretrained import read_arrays
from ssd_train.visualization.training_log import TensorBoardLog

mx = mxnet_compat.mxnet()
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bench():
    """benchmarks.NAME by name."""
    sys.path.insert(0, str(ROOT))
    try:
        yield lambda name: importlib.import_module(f"benchmarks.{name}")
    finally:
        sys.path.remove(str(ROOT))


def test_turns_alternate_and_skip_the_warm_up(bench):
    order = []
    turns = {name: (lambda name=name: order.append(name) or 10) for name in "ab"}
    speeds = bench("turns").alternate(turns, rounds=3, warm_up=2)
    assert order == ["a", "b"] * 5
    assert [len(found) for found in speeds.values()] == [3, 3] and min(map(min, speeds.values())) > 0


@pytest.mark.parametrize(
    "ours, theirs, expected",
    [
        pytest.param([20, 30, 10], [10, 10, 10], (3.0, 2.0, "1.5 to 2.5"), id="spread"),
        pytest.param([5], [10], (0.5, 0.5, "0.5"), id="one-turn"),
        pytest.param([40, 20], [20, 10], (2.0, 2.0, "2.0 to 2.0"), id="noise-that-both-had"),
    ],
)
def test_ratios_compare_adjacent_turns(bench, ours, theirs, expected):
    assert tuple(bench("turns").times_as_fast(ours, theirs).values()) == expected


def test_tables_are_replaced_and_text_is_kept(bench):
    main = bench("__main__")
    machine = {**bench("machine").describe(), "processor": "Abacus", "cores": 2}
    rows = [{"case": "x", "speed": {"best": 3, "median": 2}, "reached": True, "aim": None}, {"other": 1}]
    result = {"commands": ["python -m benchmarks.some"], "minutes": 0.5, "machine": machine, "rows": rows}
    text = "# A\nwords\n<!-- table some -->\nold\n<!-- end -->\nmore\n<!-- table absent -->\nkept\n<!-- end -->\n"
    written = main.with_tables(text, {"some": result, "unmentioned": result})
    assert written == main.with_tables(written, {"some": result}), "made again, it is the same"
    lines = written.splitlines()
    assert lines[:2] == ["# A", "words"] and "old" not in lines and "kept" in lines and "more" in lines
    assert "| case | speed | reached | aim |" in lines and "| x | best 3, median 2 | yes |  |" in lines
    assert "| other |" in lines and "Abacus, 2 cores" in written and json.dumps(result)


def test_quality_table_has_the_means_of_the_seeds_and_leaves_out_rows_without_intervals(bench):
    def row(score, small, who="ssd_train"):
        return {
            "who": who,
            "set": "bccd",
            "epochs": 12,
            "mAP": score,
            "mAP@0.5": 0.9,
            "AP@0.5": {"RBC": 0.9},
            "AP": {"RBC": score},
            "AP by size": {"small": small, "large": None},
            "intervals": {"mAP": [score - 0.1, score + 0.1], "mAP@0.5": [0.8, 1.0]},
            "settings": [],
        }

    old = {"who": "ssd_train", "set": "bccd", "epochs": 12, "mAP": 0.1, "settings": []}
    first, other = bench("quality").summarised([row(0.4, 0.1), old, row(0.5, 0.3), row(0.3, None, "rival")])
    assert (first["who"], first["seeds"], other["who"], other["seeds"]) == ("ssd_train", 2, "rival", 1)
    assert first["mAP"] == "0.450 ± 0.071 (0.350 to 0.550)" and first["mAP@0.5"] == "0.900 ± 0.000 (0.800 to 1.000)"
    assert (first["small"], first["large"], first["AP by class"]) == ("0.200", "", {"RBC": "0.450"})
    assert (other["small"], other["mAP"]) == ("", "0.300 (0.200 to 0.400)")


def test_quality_details_come_from_predictions_and_labels(bench, tmp_path):
    """One image of two objects, of which one is detected with the right box: AP 0.5 on COCO's 101 recalls."""
    label = {
        "image_size": [{"width": 200, "height": 100, "depth": 3}],
        "annotations": [
            {"class_id": 0, "left": 10, "top": 10, "width": 20, "height": 20},
            {"class_id": 0, "left": 100, "top": 10, "width": 50, "height": 50},
        ],
    }
    metadata = {"class-map": {"0": "cell"}, "type": "groundtruth/object-detection"}
    line = {"source-ref": "s3://bucket/a.jpg", "boxes": label, "boxes-metadata": metadata}
    (tmp_path / "validation.manifest").write_text(json.dumps(line) + "\n", "utf-8")
    answers = tmp_path / "answers.jsonl"
    answers.write_text(json.dumps({"image": "a.jpg", "prediction": [[0, 0.9, 0.05, 0.1, 0.15, 0.3]]}) + "\n", "utf-8")
    found = bench("quality").details(tmp_path, str(answers), tmp_path)
    assert found["AP"] == {"cell": pytest.approx(51 / 101)}
    assert found["AP by size"] == {"small": pytest.approx(1.0), "medium": 0.0, "large": None}
    assert found["intervals"] == {"mAP": None, "mAP@0.5": None}  # of one image


def test_split_in_three_takes_the_choosing_part_from_the_training_part(bench):
    parts = bench("quality").three_parts(["v1", "v2"], ["v1", "v2", "t2"], ["t1", "t2", "t3"])
    assert parts == {
        "train.manifest": ["t1", "t3"],
        "choosing.manifest": ["t2"],
        "validation.manifest": ["v1", "v2"],
    }


@pytest.mark.parametrize("name", ["raccoon", "bccd", "fruit"])
def test_split_in_three_keeps_the_validation_part_and_divides_the_training_part(bench, shared_data, tmp_path, name):
    def lines(split):
        return {part.stem: part.read_text("utf-8").splitlines() for part in split.glob("*.manifest")}

    two = lines(bench("quality").split_of(shared_data, name, tmp_path / "two"))
    three = lines(bench("quality").split_of(shared_data, name, tmp_path / "three", third=True))
    assert three["validation"] == two["validation"]
    assert sorted([*three["train"], *three["choosing"]]) == sorted(two["train"])
    assert 0.1 < len(three["choosing"]) / len(two["train"]) < 0.3


def test_quality_table_keeps_runs_of_the_split_in_three_apart(bench):
    row = {"who": "ssd_train", "set": "bccd", "epochs": 12, "mAP": 0.4, "mAP@0.5": 0.9, "AP@0.5": {}, "AP": {}}
    row.update({"AP by size": {}, "intervals": {"mAP": [0.3, 0.5], "mAP@0.5": [0.8, 1.0]}, "settings": []})
    found = bench("quality").summarised([row, {**row, "images": {"train": 2, "choosing": 1, "validation": 1}}])
    assert [one["who"] for one in found] == ["ssd_train", "ssd_train (split in three)"]


@pytest.mark.parametrize(
    "scores, target, expected",
    [
        pytest.param([0.1, 0.3, 0.2, 0.4], 0.25, 2, id="before-a-worse-one"),
        pytest.param([0.1, 0.2], 0.2, 2, id="equal"),
        pytest.param([0.1, 0.2], 0.3, None, id="never"),
        pytest.param([], 0.3, None, id="no-epoch"),
    ],
)
def test_time_to_score_is_that_of_the_first_epoch_that_reaches_it(bench, scores, target, expected):
    module = bench("time_to_score")
    epochs = [module.Epoch(number, 60.0 * number, score) for number, score in enumerate(scores, 1)]
    assert module.first_to_reach(epochs, target) == (epochs[expected - 1] if expected else None)


def test_time_to_score_reads_ends_and_scores_of_evaluated_epochs(bench, tmp_path):
    rows = [{"epoch": 0, "mAP": 0.25}, {"epoch": 1}, {"epoch": 2, "mAP": 0.5}]  # the second was not evaluated
    start = time.time()
    with TensorBoardLog(tmp_path) as log:
        for count in range(1, 4):
            log.log(rows[:count])
    epochs = bench("time_to_score").read_epochs(tmp_path)
    assert [(epoch.number, epoch.score) for epoch in epochs] == [(1, 0.25), (3, 0.5)]
    assert start <= epochs[0].ended <= epochs[1].ended <= time.time()


def test_ultralytics_detections_become_corners(bench):
    parse = bench("ultralytics").parse_detections
    found = parse("1 0.5 0.5 0.2 0.4 0.9\n0 0.25 0.5 0.5 1 0.001234\n")
    assert found == [pytest.approx([1, 0.9, 0.4, 0.3, 0.6, 0.7]), pytest.approx([0, 0.001234, 0, 0, 0.5, 1])]
    assert parse("") == []


def test_ultralytics_detections_of_the_true_boxes_have_the_full_score(bench, shared_data, tmp_path):
    """The class ids, boxes and image names of the YOLO data set are those that the judge knows."""
    module = bench("ultralytics")
    split = bench("quality").split_of(shared_data, "bccd", tmp_path / "split")
    dataset = module.write_yolo_dataset(shared_data / "data" / "bccd" / "images", split, tmp_path / "yolo")
    found, images = tmp_path / "found", module.validation_images(dataset)
    found.mkdir()
    for labels in (dataset.parent / "validation" / "labels").rglob("*.txt"):
        lines = labels.read_text("utf-8").splitlines()
        (found / labels.name).write_text("".join(f"{line} 0.9\n" for line in lines), "utf-8")
    module.write_predictions(images, found, tmp_path / "predictions.jsonl")
    scores = module.scores(shared_data, split, tmp_path / "predictions.jsonl")
    assert len(images) == 78 and scores["AP@0.5"] == {"RBC": 1.0, "WBC": 1.0, "Platelets": 1.0}
    assert min([scores["mAP"], *scores["AP"].values()]) > 0.99


def test_ultralytics_beside_it_ours_has_the_weights_of_its_last_epoch(bench, tmp_path):
    model = talking_model(tmp_path / "model")
    last = tmp_path / "last.params"
    arrays = read_arrays(model.weights)
    mx.nd.save(str(last), {name: array + 1 for name, array in arrays.items()})
    found = read_arrays(
        SavedModel.load(bench("ultralytics").with_weights(tmp_path / "model", last, tmp_path / "out")).weights
    )
    assert all((found[name] == arrays[name] + 1).min().asscalar() for name in arrays)


def test_results_grow_by_a_row_and_its_command(bench, tmp_path, monkeypatch):
    file, add_row = tmp_path / "result.json", bench("quality").add_row
    monkeypatch.setattr(sys, "argv", ["benchmarks/time_to_score.py", "--sets", "bccd"])
    machine = bench("machine").describe()
    add_row(file, {"set": "bccd"}, 1.5, machine)
    add_row(file, {"set": "fruit"}, 2, machine)
    result = json.loads(file.read_text("utf-8"))
    assert result["commands"] == ["python -m benchmarks.time_to_score --sets bccd"] and result["minutes"] == 3.5
    assert [row["set"] for row in result["rows"]] == ["bccd", "fruit"]
    assert bench("__main__").table(result).count("\n| bccd |") == 1


def test_readme_tables_match_the_results(bench):
    main = bench("__main__")
    text = (ROOT / "benchmarks" / "README.md").read_text("utf-8")
    assert main.with_tables(text, main.read_results()) == text, "expected: python -m benchmarks --tables"


def test_readme_every_table_has_its_results(bench):
    text = (ROOT / "benchmarks" / "README.md").read_text("utf-8")
    assert set(re.findall(r"<!-- table (\S+) -->", text)) <= set(bench("__main__").read_results())


def test_readme_every_figure_of_its_table_is_a_benchmark():
    """Figures of README.md's table are those of benchmarks/README.md, up to trailing zeros."""
    table = (ROOT / "README.md").read_text("utf-8").split("## How good, how fast")[1].split("\n## ")[0]
    measured = (ROOT / "benchmarks" / "README.md").read_text("utf-8")
    figures = re.findall(r"(?<![\w.@])\d+(?:\.\d+)?(?= ms| images/s|,| \||\))", table)
    known = {float(figure) for figure in re.findall(r"\d+(?:\.\d+)?", measured)}
    assert len(figures) > 20 and {figure for figure in figures if float(figure) not in known} == set()
