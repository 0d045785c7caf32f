"""The script that plants faults, on a package of two files."""

from __future__ import annotations

import pytest
from mutation import planted_faults
from mutation.planted_faults import Fault, ScriptError, read_faults


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / planted_faults.PACKAGE / "data"
    folder.mkdir(parents=True)
    (folder / "boxes.py").write_text("def area(w, h):\n    return w * h\n")
    (folder / "other.py").write_text("A = 1\nB = 1\n")
    return tmp_path


def test_read_faults_of_two_blocks_returns_both():
    text = "# how it is written\n\none data/a.py boxes\n- a\n-     b\n+ c\n\ntwo data/b.py boxes\n- d\n"
    assert read_faults(text) == [
        Fault("one", "data/a.py", "boxes", "a\n    b", "c"),
        Fault("two", "data/b.py", "boxes", "d", ""),
    ]


@pytest.mark.parametrize(
    "text", ["one data/a.py\n- a\n", "one data/a.py boxes\n+ a\n", "one data/a.py boxes\n- a\nb\n"]
)
def test_read_faults_of_a_broken_block_is_a_script_error(text):
    with pytest.raises(ScriptError):
        read_faults(text)


@pytest.mark.parametrize("file", ["data/boxes.py", "data/renamed.py", "data/other.py"])
def test_planted_finds_the_snippet_where_it_is_now(root, file):
    found, text = planted_faults._planted(Fault("a", file, "boxes", "w * h", "w + h"), root)
    assert found.name == "boxes.py" and text == "def area(w, h):\n    return w + h\n"


@pytest.mark.parametrize(
    "old, new",
    [
        pytest.param("w / h", "w", id="nowhere"),
        pytest.param("= 1", "= 2", id="twice"),
        pytest.param("w * h", "w *", id="does-not-compile"),
    ],
)
def test_planted_of_an_unusable_fault_is_a_script_error(root, old, new):
    with pytest.raises(ScriptError):
        planted_faults._planted(Fault("a", "data/boxes.py", "boxes", old, new), root)


@pytest.mark.parametrize("flags", [["--only", "no-such-fault"], ["--group", "no-such-group"]])
def test_main_with_an_unknown_name_returns_1(flags):
    assert planted_faults.main([*flags, "--check"]) == 1
