"""The extras of pyproject.toml are those that README lists, and the only ones that anything names."""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]


def extras():
    """The names of the optional dependencies."""
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"])


def test_readme_lists_all_extras_and_no_other():
    table = (ROOT / "README.md").read_text("utf-8").split("| extra | what it is for |\n|---|---|\n")[1].split("\n\n")[0]
    rows = [row.split("|")[1] for row in table.splitlines()]
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(extras())


def test_messages_name_existing_extras_only():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("examples/**/*.md")]
    texts = [
        path.read_text("utf-8") for path in [*pages, *(ROOT / "src").rglob("*.py"), *ROOT.glob("examples/**/*.py")]
    ]
    named = re.findall(r"""(?:ssd-train\[|'\.\[|require_extra\(")([\w,]+)[\]"]""", "\n".join(texts))
    assert {name for names in named for name in names.split(",")} - extras() == set()
    assert len(named) > 5
