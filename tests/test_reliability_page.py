"""docs/reliability.md names only tests that exist, and what it lists of the settings is what config.py says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from ssd_train.config import resumable_settings

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "reliability.md").read_text("utf-8")
FILES = dict(re.findall(r"\[(\w+)\] `(tests/[\w/]+\.py)`", PAGE))
# [file] `test_a`, `test_b` (fast); the names that follow a file's are of that file until the next
PLACES = re.split(r"\[(\w+)\](?!\()", PAGE)


def named():
    """(file's short name, test) of each test on the page."""
    for short, text in zip(PLACES[1::2], PLACES[2::2]):
        for test in re.findall(r"`(test_\w+)`", text.split("\n\n")[0]):
            yield short, test


def functions_of(path):
    return {node.name for node in ast.parse((ROOT / path).read_text("utf-8")).body if isinstance(node, ast.FunctionDef)}


def test_the_page_names_many_tests():
    assert len(set(named())) > 60 and set(FILES) <= {short for short, _ in named()}


@pytest.mark.parametrize("short", sorted({short for short, _ in named()}))
def test_tests_named_by_the_page_exist(short):
    assert {test for found, test in named() if found == short} - functions_of(FILES[short]) == set()


def is_slow(mark):
    return isinstance(mark, ast.Attribute) and mark.attr in ("faults", "slow", "sagemaker")


def test_tests_called_fast_are_not_slow():
    slow = set()
    for short in FILES:
        for node in ast.parse((ROOT / FILES[short]).read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and any(is_slow(mark) for mark in node.decorator_list):
                slow.add((short, node.name))
    fast = {
        (short, test)
        for short, text in zip(PLACES[1::2], PLACES[2::2])
        for test in re.findall(r"`(test_\w+)` \(fast\)", text.split("\n\n")[0])
    }
    assert slow and not slow & fast


def test_the_settings_that_may_change_are_those_of_config():
    text = PAGE.split("all others not:")[1].split("The fixture")[0]
    assert set(re.findall(r"`(\w+)`", text)) == set(resumable_settings())


def reviewed():
    """(package, version) of the first column of the page's table: `numpy 1.26, 1.23 (AWS), six 1.17`."""
    for row in PAGE.split("## Dependencies")[1].lower().splitlines():
        package = ""
        for word in re.sub(r"\s*\(.*?\)", "", row.split("|")[1] if row.startswith("|") else "").split():
            if word[0].isdigit():
                yield package, word.rstrip(",;")
            elif word != "to":
                package = word


def test_each_dependency_that_is_pinned_has_been_reviewed_in_that_version():
    files = [ROOT / "requirements.txt", *(ROOT / "requirements" / f"{name}.txt" for name in ("s3", "onnx", "serve"))]
    pinned = {pin for file in files for pin in re.findall(r"(?m)^([\w.-]+)==([\w.]+)", file.read_text("utf-8"))}
    known = set(reviewed())
    assert len({name for name, _ in pinned}) > 40
    parts = {(name, version): version.split(".") for name, version in pinned}
    prefixes = {pin: {(pin[0], ".".join(words[:count])) for count in range(2, 5)} for pin, words in parts.items()}
    assert {pin for pin, shorter in prefixes.items() if not shorter & known} == set()
