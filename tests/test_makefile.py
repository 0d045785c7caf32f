"""What the Makefile does when an environment of one tool cannot be set up."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers.environments import ROOT

# an interpreter that makes environments, in which pip ends with a code of its own
PYTHON = """#!/bin/sh
case "$1 $2" in
"-c ") exit 0 ;;
"-m venv") mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
"-m pip") exit %d ;;
esac
"""
VENV = ".venv-toolkit-3.99"


@pytest.fixture
def make(tmp_path):
    """Runs make for VENV in a folder with this Makefile."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements").mkdir()
    for name in ("requirements.txt", "requirements/toolkit-3.99.txt", "requirements/aws-container.txt"):
        (tmp_path / name).touch()

    def run(pip_code: "int | None") -> "subprocess.CompletedProcess[str]":
        """`pip_code`: how pip ends in the interpreter python3.99; None: there is no such interpreter."""
        programs = tmp_path / "bin"
        programs.mkdir()
        if pip_code is not None:
            (programs / "python3.99").write_text(PYTHON % pip_code)
            (programs / "python3.99").chmod(0o755)
        environment = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(tmp_path)}
        command = ["make", f"{VENV}/.done"]
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
        )

    return run


def done(folder: Path) -> bool:
    return (folder / VENV / ".done").exists()


def test_own_venv_when_pip_succeeds_is_done(make, tmp_path):
    assert make(0).returncode == 0 and done(tmp_path)


def test_own_venv_when_pip_fails_ends_make_and_is_not_done(make, tmp_path):
    assert make(1).returncode != 0 and not done(tmp_path)


def test_own_venv_without_the_interpreter_names_it(make, tmp_path):
    result = make(None)
    assert result.returncode == 0 and not done(tmp_path)
    assert "python3.99" in result.stdout
