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
