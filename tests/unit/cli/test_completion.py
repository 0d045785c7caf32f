"""Shell completion by shtab, asked in a real bash, and the time and imports of --help."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers.jobs import SOURCE

from ssd_train.cli.main import COMMANDS, main

ASK = (
    'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_ssd_train; printf "%s\\n" "${COMPREPLY[@]}"'
)


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "ssd-train.bash"
    command = [sys.executable, "-m", "ssd_train", "--print-completion", "bash"]
    path.write_bytes(
        subprocess.run(command, stdout=subprocess.PIPE, check=True, env={"PYTHONPATH": str(SOURCE)}).stdout
    )
    return path


@pytest.mark.parametrize(
    "words, expected",
    [
        ("prep", {"prepare"}),
        ("train --learning_r", {"--learning_rate"}),
        ("train --imgs", {"--imgsz"}),
        ("train --optimizer ad", {"adam", "adadelta"}),
        ("prepare split --frac", {"--fractions"}),
        ("export --format onnx", {"onnx", "onnx-int8"}),
        ("launch --instance_t", {"--instance_type"}),
    ],
)
def test_print_completion_completes_in_bash(script, words, expected):
    command = ["bash", "-c", ASK, "bash", str(script), "ssd-train", *words.split()]
    done = subprocess.run(command, stdout=subprocess.PIPE, universal_newlines=True, check=True)
    assert set(done.stdout.split()) == expected


@pytest.mark.parametrize("shell", ["", "cmd.exe"])
def test_print_completion_unknown_shell_is_an_error(capsys, shell):
    assert main(["--print-completion", shell] if shell else ["--print-completion"]) == 2
    assert capsys.readouterr().err.startswith("error: print_completion: ")


def test_print_completion_without_shtab_names_the_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--print-completion", "bash"]) == 2
    assert "ssd-train[cli]" in capsys.readouterr().err


HEAVY = ["mxnet", "gluoncv", "numpy", "cv2", "PIL", "boto3", "yaml", "shtab", "tqdm"]


def test_help_imports_no_library():
    code = "import sys; from ssd_train.cli.main import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=True,
                          universal_newlines=True, env={"PYTHONPATH": str(SOURCE)})  # fmt: skip
    assert not set(HEAVY) & set(done.stderr.split()) and "usage: " in done.stdout


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"verify"}))  # verify tests MXNet itself
def test_help_of_a_command_needs_neither_mxnet_nor_an_extra(command, tmp_path):
    for name in ("mxnet", "gluoncv", "starlette", "uvicorn", "onnx", "onnxruntime", "boto3", "yaml"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('there is none')")
    command_line = [sys.executable, "-m", "ssd_train", command, "--help"]
    done = subprocess.run(command_line, stdout=subprocess.PIPE, env={"PYTHONPATH": f"{tmp_path}:{SOURCE}"})
    assert done.returncode == 0 and done.stdout.startswith(b"usage: ")


@pytest.mark.parametrize(
    "called, program", [("bin/ssd-train", "ssd-train"), ("ssd_train/__main__.py", "python -m ssd_train")]
)
def test_help_names_the_program_as_it_was_called(capsys, monkeypatch, called, program):
    monkeypatch.setattr(sys, "argv", [called])
    assert main(["--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: {program} [COMMAND]")
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    assert capsys.readouterr().out.startswith(f"usage: {program} predict ")
