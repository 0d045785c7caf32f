"""Shell completion of all commands, by shtab."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
from typing import Mapping

from ssd_train.cli.arguments import Parser
from ssd_train.config import TrainConfig
from ssd_train.config_fields import choice_texts
from ssd_train.errors import ConfigError, require_extra


def completion(shell: str, commands: Mapping[str, str]) -> str:
    """Return the completion script of a shell.

    Args:
        shell: a shell that shtab knows.
        commands: help by command.

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
    for name, text in commands.items():
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
