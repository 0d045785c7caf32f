"""What the benchmarks are made of: turns that alternate, figures of them, tables from results."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import pytest

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
