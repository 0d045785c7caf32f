"""The extras of setup.py are those that README lists, and the only ones that anything names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def extras():
    """The keys of extras_require, as setup.py has them."""
    tree = ast.parse((ROOT / "setup.py").read_text("utf-8"))
    (found,) = [node.value for node in ast.walk(tree) if getattr(node, "arg", None) == "extras_require"]
    return {ast.literal_eval(key) for key in found.keys}


def test_readme_lists_all_extras_and_no_other():
    table = (ROOT / "README.md").read_text("utf-8").split("| extra | what it is for |\n|---|---|\n")[1].split("\n\n")[0]
    rows = [row.split("|")[1] for row in table.splitlines()]
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(extras())


def test_nobody_is_told_to_install_an_extra_that_there_is_not():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("examples/**/*.md")]
    texts = [
        path.read_text("utf-8") for path in [*pages, *(ROOT / "src").rglob("*.py"), *ROOT.glob("examples/**/*.py")]
    ]
    named = re.findall(r"(?:ssd-train|'\.)\[([\w,]+)\]", "\n".join(texts))
    assert {name for names in named for name in names.split(",")} - extras() == set()
    assert len(named) > 5
