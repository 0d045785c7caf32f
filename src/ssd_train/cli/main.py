"""Command line entry point: ssd-train [COMMAND] [flags]; the default command is train."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import os
import sys
import traceback
from pathlib import Path
from typing import Iterator, List, Optional

from ssd_train import __version__
from ssd_train.cli.arguments import Parser, close_bars, normalize_flags, overview, program
from ssd_train.config import TrainConfig
from ssd_train.config_fields import choice_texts
from ssd_train.environment import is_hosted, write_failure_file
from ssd_train.errors import ConfigError, SsdTrainError, require_extra
from ssd_train.redaction import redact

# each is a module of this package with a function run(arguments) that returns the exit code
COMMANDS = {
    "train": "train a detector on labels and images, score it and write a report",
    "evaluate": "score a model, or a file of predictions, against labels",
    "audit": "find likely label errors: a page to look through, JSON Lines, a manifest",
    "check": "find problems in labels and images before training",
    "prepare": "prepare manifests and images: join, keep, relabel, split, augment, ...",
    "label": "pre-label images with a model, for a Ground Truth adjustment job",
    "predict": "detect objects in images: JSON Lines, overlays, PDF",
    "export": "export a model as ONNX file or MXNet symbol, optionally quantized, and verify it",
    "serve": "serve a model over HTTP, with a test page",
    "convert": "convert a model of SageMaker's built-in Object Detection algorithm",
    "launch": "train, tune and serve on SageMaker, or show the requests without sending them",
    "verify": "verify training and inference on this machine's devices",
    "demo": "draw a labelled data set, train on it and show the result",
}
INTERRUPTED, BROKEN_PIPE = 130, 141  # exit codes of shells for Ctrl-C and SIGPIPE


def main(arguments: Optional[List[str]] = None) -> int:
    """Run a command and return its exit code: 0 success, 2 an error the user can correct, 1 other errors."""
    given = normalize_flags(sys.argv[1:] if arguments is None else arguments)
    command, rest = (given[0], given[1:]) if given and not given[0].startswith("-") else ("train", given)
    try:
        with _write_failure_file():
            return _run(given, command, rest)
    except SsdTrainError as error:
        close_bars()
        print(f"error: {redact(str(error))}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has exited
        return BROKEN_PIPE
    except Exception:  # a bug: print the traceback
        close_bars()
        print(redact(traceback.format_exc()), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        close_bars()
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _run(given: List[str], command: str, rest: List[str]) -> int:
    if given[:1] in (["--help"], ["-h"], ["help"]):
        epilog = (
            f"{program('COMMAND')} --help lists the flags of a command. {program()} --print-completion bash (zsh, "
            "tcsh) prints the completion of a shell. --version prints the version."
        )
        print(overview("[COMMAND] [flags]; without a command: train", COMMANDS, epilog))
        return 0
    if given[:1] == ["--version"]:
        print(f"ssd_train {__version__}")
        return 0
    if given[:1] and given[0].partition("=")[0] == "--print_completion":
        print(completion(given[0].partition("=")[2] or "".join(given[1:2])))
        return 0
    if command not in COMMANDS:
        raise ConfigError(f"command: found {command!r}, expected one of {', '.join(COMMANDS)}")
    return importlib.import_module(f"ssd_train.cli.{command}").run(rest)


@contextlib.contextmanager
def _write_failure_file() -> Iterator[None]:
    """In a SageMaker job, write the failure file for any exception, and re-raise it."""
    try:
        yield
    except Exception as error:
        if is_hosted():
            write_failure_file(redact(str(error) if isinstance(error, SsdTrainError) else _crash(error)))
        raise


def _crash(error: Exception) -> str:
    """Return an unexpected exception in one line: type, message and source line."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text} ({Path(frame.filename).name}:{frame.lineno}; see the log)"


def completion(shell: str) -> str:
    """Return the completion script of a shell that shtab knows, of all commands.

    Raises:
        ConfigError: the shell is unknown.
        DependencyError: shtab is missing.
    """
    with require_extra("cli"):
        import shtab
    if shell not in shtab.SUPPORTED_SHELLS:
        raise ConfigError(f"print_completion: found {shell!r}, expected one of {', '.join(shtab.SUPPORTED_SHELLS)}")
    root = argparse.ArgumentParser(prog="ssd-train")
    subparsers = root.add_subparsers()
    for name, text in COMMANDS.items():
        module = importlib.import_module(f"ssd_train.cli.{name}")
        if name == "prepare":
            steps = subparsers.add_parser(name, help=text).add_subparsers()
            for step in module.STEPS:
                _add(steps, step, module.STEPS[step].summary, module.make_parser(step))
        elif name == "launch":
            modes = map(module.make_mode_parser, module.MODES)
            _add(subparsers, name, text, module.make_launch_parser(), *modes)
        else:
            _add(subparsers, name, text, module.make_parser())
    return str(shtab.complete(root, shell))


def _add(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str, *of: Parser) -> None:
    """Add a command with the flags of its parsers; FILE, FOLDER and PATH complete to names of files and folders."""
    import shtab

    settings = {item.name: item for item in dataclasses.fields(TrainConfig)}
    for parser in of:
        parser.add_aliases()
        for action in parser._actions:
            if action.dest in parser.settings:
                action.choices = choice_texts(settings[action.dest]) or None
            elif action.metavar in ("FILE", "PATH", "MANIFEST", "LABELS", "SOURCE", "VIDEO"):
                action.complete = shtab.FILE  # type: ignore[attr-defined]  # read by shtab
            elif action.metavar == "FOLDER":
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]  # read by shtab
    subparsers.add_parser(name, help=text, parents=list(of), add_help=False, conflict_handler="resolve")
