"""The front door: python -m ssd_train COMMAND ..., where no command means train."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from pathlib import Path
from typing import Iterator, List, Optional

from ssd_train import __version__
from ssd_train.cli.console import normalised
from ssd_train.environment import is_hosted, report_failure
from ssd_train.errors import ConfigError, SsdTrainError
from ssd_train.secrecy import hidden

# each a module beside this one, with a function run(arguments) that returns the exit code
COMMANDS = {
    "train": "labels and images in, a scored detector and its report out",
    "evaluate": "score a model, or a file of answers, against labels",
    "check": "what is wrong with labels and images, line by line, before training",
    "prepare": "manifests and pictures made ready: join, keep, relabel, split, augment, ...",
    "predict": "what a model finds in pictures: JSON Lines, overlays, PDF",
    "export": "a model as ONNX file or MXNet symbol, also in 8 bits, compared before it is written",
    "serve": "a model behind HTTP, with a page to try it on",
    "convert": "a model of SageMaker's built-in Object Detection algorithm as one that can be used here",
    "launch": "train, tune and serve on SageMaker: send the job, or show what would be sent",
    "verify": "whether training and answers are right on this machine's GPUs: a line a check, and a JSON file",
    "demo": "draw a labelled data set, train on it and show the result",
}
INTERRUPTED, BROKEN_PIPE = 130, 141  # what a shell reports of a program ended by Ctrl-C, or by `| head`


def main(arguments: Optional[List[str]] = None) -> int:
    """Run a command and return its exit code: 0 done, 2 something the user can mend, 1 the rest."""
    given = normalised(sys.argv[1:] if arguments is None else arguments)
    command, rest = (given[0], given[1:]) if given and not given[0].startswith("-") else ("train", given)
    try:
        with _failure_reported():
            return _run(given, command, rest)
    except SsdTrainError as error:
        print(f"error: {hidden(str(error))}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read our output has seen enough
        return BROKEN_PIPE
    except Exception:  # nobody foresaw it: all of it is told
        print(hidden(traceback.format_exc()), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _run(given: List[str], command: str, rest: List[str]) -> int:
    if given[:1] in (["--help"], ["-h"], ["help"]):
        print(_overview())
        return 0
    if given[:1] == ["--version"]:
        print(f"ssd_train {__version__}")
        return 0
    if command not in COMMANDS:
        raise ConfigError(f"found command {command!r}, expected one of {', '.join(COMMANDS)}")
    return importlib.import_module(f"ssd_train.cli.{command}").run(rest)


@contextlib.contextmanager
def _failure_reported() -> Iterator[None]:
    """In a SageMaker job, whatever ends it is left for its user to see; the error goes on."""
    try:
        yield
    except Exception as error:
        if is_hosted():
            report_failure(hidden(str(error) if isinstance(error, SsdTrainError) else _crash(error)))
        raise


def _crash(error: Exception) -> str:
    """An error that nobody foresaw, in a line: its kind, its text, and where it came from."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text} ({Path(place.filename).name}:{place.lineno}; the log has more)"


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: python -m ssd_train [COMMAND] [flags]; without a command: train",
            "",
            *lines,
            "",
            "python -m ssd_train COMMAND --help lists the flags of a command",
        ]
    )
