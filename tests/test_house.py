"""The house keeps the rules of house.py, each of which finds what breaks it."""

from __future__ import annotations

from pathlib import Path

import pytest
from house import FLOORS, in_circles, module_name, told_in_map, violations

import ssd_train

SOURCE = Path(__file__).resolve().parents[1] / "src" / "ssd_train"


def test_the_house_keeps_its_rules():
    assert violations(SOURCE, FLOORS) == []


def test_the_map_names_every_module_and_nothing_else():
    listed, told = told_in_map(ssd_train.__doc__)
    files = list(SOURCE.rglob("*.py"))
    modules = {module_name(SOURCE, path) for path in files if path.name != "__init__.py"}
    assert modules - listed - told == set()
    assert listed - {module_name(SOURCE, path) for path in files} == set()


def test_a_map_is_read_by_its_indentation():
    """A module is not told of by another of its name, nor by a word that happens to be one."""
    text = """A house. The map.

    errors.py           what goes wrong (words, terms: how it
                        is said; lines: where)
    launch/             asks for a job; far.py: away
        job.py              one
            near, far           and beside
        deep/               lower
            end.py              two
    cli/                the doors
    """
    listed, told = told_in_map(text)
    inside = {f"launch.{name}" for name in ("job", "near", "far", "deep", "deep.end")}
    assert listed == {"errors", "launch", "cli", *inside}
    assert told == {"words", "terms", "lines", "launch.far"}


SMALL_HOUSE = [[""], ["data", "model"], ["data.artwork"], ["cli"]]


@pytest.mark.parametrize(
    "path, code, expected",
    [
        pytest.param("data/records.py", "from ssd_train.errors import DataError", None, id="down"),
        pytest.param("data/records.py", "from ssd_train import errors", None, id="down-by-module"),
        pytest.param("data/records.py", "from ssd_train.data import images", None, id="on-one-floor"),
        pytest.param("data/records.py", "from ssd_train import __version__", None, id="version"),
        pytest.param("model/anchors.py", "from ssd_train.data import boxes", None, id="common-to-both-wings"),
        pytest.param("framework.py", "import mxnet, os\nos.environ['A'] = '1'", None, id="the-one-door"),
        pytest.param("cli/main.py", "import sys\nprint('a')\nsys.exit(1)", None, id="the-command-line"),
        pytest.param("metric_lines.py", "print('loss=1')", None, id="metric-line"),
        pytest.param(
            "errors.py", "net.eval()\nimport numpy as np\nnp.load('a', allow_pickle=False)", None, id="harmless"
        ),
        pytest.param("errors.py", "import ssd_train.data.records", "imports data.records (floor 1): up", id="up"),
        pytest.param("errors.py", "from .data import records", "imports data.records (floor 1): up", id="up-relative"),
        pytest.param("data/records.py", "from . import boxes\nfrom ..cli import main", ":2: data.records", id="line"),
        pytest.param("errors.py", "def f():\n    import ssd_train.data.records", "(floor 1): up", id="in-a-function"),
        pytest.param("data/boxes.py", "import ssd_train.data.artwork", "(floor 2): up", id="above-its-package"),
        pytest.param("data/boxes.py", "import ssd_train.view.draw", "view.draw, which has no floor", id="to-no-floor"),
        pytest.param("model/anchors.py", "import ssd_train.data.records", "from wing to wing", id="wings"),
        pytest.param("view/draw.py", "", "view.draw has no floor", id="no-floor"),
        pytest.param("data/__init__.py", "A = 1", "not empty", id="init-not-empty"),
        pytest.param("__init__.py", "import os", "__init__.py imports", id="first-init-imports"),
        pytest.param("errors.py", "def f():\n    print('a')", "errors.py:2: errors calls print", id="print"),
        pytest.param("errors.py", "import sys\nsys.exit(2)", "errors calls sys.exit", id="exit"),
        pytest.param("errors.py", "raise SystemExit(2)", "errors uses SystemExit", id="system-exit"),
        pytest.param("errors.py", "import os\nos._exit(2)", "errors calls os._exit", id="os-exit"),
        pytest.param("errors.py", "from os import _exit", "bare name of os._exit", id="os-exit-bare"),
        pytest.param("errors.py", "import mxnet.gluon as g", "errors imports mxnet", id="mxnet"),
        pytest.param("errors.py", "from gluoncv import loss", "errors imports gluoncv", id="gluoncv"),
        pytest.param(
            "errors.py", "importlib.import_module('gluoncv.nn')", "errors imports gluoncv", id="import-module"
        ),
        pytest.param("errors.py", "import os\na = os.environ.get('A')", "errors uses os.environ", id="environ"),
        pytest.param("errors.py", "from os import environ", "bare name of os.environ", id="environ-bare"),
        pytest.param("errors.py", "import os\nos.getenv('A')", "errors calls os.getenv", id="getenv"),
        pytest.param("errors.py", "import pickle", "errors imports pickle", id="pickle"),
        pytest.param("errors.py", "np.load('a', allow_pickle=True)", "errors allows pickles", id="numpy-pickle"),
        pytest.param("errors.py", "trainer.load_states('a')", "errors calls trainer.load_states", id="trainer-pickle"),
        pytest.param("errors.py", "eval('1')", "errors calls eval", id="eval"),
        pytest.param("errors.py", "yaml.load(text)", "errors calls yaml.load", id="yaml"),
    ],
)
def test_the_rules_find(tmp_path, path, code, expected):
    for name in (
        "errors.py",
        "framework.py",
        "metric_lines.py",
        "data/boxes.py",
        "data/records.py",
        "model/anchors.py",
    ):
        write(tmp_path / name, "")
    write(tmp_path / path, code)

    found = violations(tmp_path, SMALL_HOUSE)

    assert len(found) == (0 if expected is None else 1), found
    assert expected is None or expected in found[0]


@pytest.mark.parametrize(
    "imported, expected",
    [
        pytest.param({"a": {"b"}, "b": {"c", "os"}, "c": set()}, [], id="a-line"),
        pytest.param({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}, [], id="two-ways-to-one-place"),
        pytest.param({"a": {"a"}}, ["a"], id="itself"),
        pytest.param({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}, ["b", "c"], id="with-ways-in-and-out"),
        pytest.param({"a": {"b"}, "b": {"c"}, "c": {"a"}, "x": {"y"}, "y": {"x"}}, [*"abcxy"], id="two-circles"),
    ],
)
def test_circles_of_imports_are_found(imported, expected):
    assert in_circles(imported) == expected


def test_a_circle_is_told(tmp_path):
    write(tmp_path / "data" / "boxes.py", "from ssd_train.data import records")
    write(tmp_path / "data" / "records.py", "def f():\n    from ssd_train.data.boxes import area")
    assert violations(tmp_path, SMALL_HOUSE) == ["data.boxes, data.records: import each other in a circle"]


def write(path: Path, code: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
