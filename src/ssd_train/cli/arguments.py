"""Progress output for terminals and logs, and the argument parser of all commands."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator, NoReturn, Optional, Sequence, TextIO, TypeVar

from ssd_train import builtin_algorithm
from ssd_train.cli.aliases import ALIASES, HINTS, hints
from ssd_train.cli.config_file import Entry, read_config
from ssd_train.config import LABEL_FORMATS, SETTING_ALIASES, TrainConfig
from ssd_train.config_fields import BOOLEANS, choice_texts, did_you_mean, range_text
from ssd_train.errors import ConfigError, SsdTrainError
from ssd_train.progress import Item, Progress
from ssd_train.redaction import redact
from ssd_train.storage.atomic import is_standard_output

if TYPE_CHECKING:
    from ssd_train.data.labels import LabelOptions
    from ssd_train.deploy.detector import Detector

LOG_SECONDS = 30.0
METAVARS = {"int": "N", "float": "NUMBER", "Union[float, str]": "NUMBER", "bool": "BOOL"}  # by type of a setting
Number = TypeVar("Number", int, float)


class TerminalProgress(Progress):
    """Progress bars on standard error, with lines above them on `stream`."""

    def __init__(self, stream: Optional[TextIO] = None) -> None:
        self._stream = stream

    def info(self, text: str) -> None:
        """Write a redacted line above the bars."""
        from tqdm import tqdm

        stream = self._stream or sys.stdout
        tqdm.write(redact(text), file=stream)
        stream.flush()

    def track(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        """Yield the items and show a progress bar."""
        from tqdm import tqdm

        bar = tqdm(items, desc=what, total=total, leave=False, dynamic_ncols=True, file=sys.stderr)
        _open_bars.append(bar)
        try:
            yield from bar
        finally:
            bar.close()
            _open_bars.remove(bar)


_open_bars: list[Any] = []


def close_bars() -> None:
    """Close the progress bars that an exception has left open, so that the next line starts at the margin."""
    for bar in reversed(_open_bars):
        bar.close()


class LogProgress(Progress):
    """Plain lines on `stream`; progress every LOG_SECONDS."""

    def __init__(self, stream: Optional[TextIO] = None) -> None:
        self._stream = stream

    def info(self, text: str) -> None:
        """Write a redacted line."""
        print(redact(text), flush=True, file=self._stream or sys.stdout)

    def track(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        """Yield the items and log their number every LOG_SECONDS."""
        last = time.monotonic()
        for done, item in enumerate(items, start=1):
            yield item
            if time.monotonic() - last >= LOG_SECONDS:
                last = time.monotonic()
                self.info(f"{what}: {done} of {total}")


def make_progress(beside: Iterable[object] = ()) -> Progress:
    """Return a TerminalProgress on a terminal, else a LogProgress.

    Lines go to standard output, or to standard error if one of the values `beside` is a path to standard output.
    """
    stream = sys.stderr if any(map(is_standard_output, beside)) else None
    return TerminalProgress(stream) if sys.stderr.isatty() and sys.stdout.isatty() else LogProgress(stream)


def program(*words: str) -> str:
    """Return the program's name as it was called, followed by `words`."""
    called = "ssd-train" if os.path.basename(sys.argv[0]) == "ssd-train" else "python -m ssd_train"
    return " ".join([called, *words])


class HelpFormatter(argparse.HelpFormatter):
    """Wraps help to the terminal, keeps the lines of descriptions and epilogs, and names a flag's value once."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        hanging = indent + "    "
        return "\n".join(
            textwrap.fill(
                line,
                width,
                initial_indent=indent,
                subsequent_indent=hanging if line[:1] == " " else indent,
                break_on_hyphens=False,
            )
            for line in text.splitlines()
        )

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _get_help_string(self, action: argparse.Action) -> str:
        """Add the default, unless the help says what it is."""
        shown = action.default and isinstance(action.default, (str, int, float, Path)) and action.nargs != 0
        shown = shown and action.default is not argparse.SUPPRESS and "default" not in (action.help or "")
        return "; ".join(filter(None, [action.help or "", "default: %(default)s" if shown else ""]))

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings[:3])} {value}"  # docs/settings.md has all


class Parser(argparse.ArgumentParser):
    """Argument parser that raises ConfigError and rejects repeated flags.

    argparse itself would exit, and use the last of repeated flags. Flags also have the names of cli/aliases.py, and
    --config FILE.yaml gives values to those that are not on the command line.

    Args:
        others: Names that are valid without a flag in this parser, for suggestions of misspelt names.
        **settings: Arguments of ArgumentParser.
    """

    def __init__(self, others: Iterable[str] = (), **settings: Any) -> None:
        self.others = frozenset(others)
        self.settings: set[str] = set()
        self._given: list[str] = []
        self._positional_flags: dict[str, argparse.Action] = {}
        super().__init__(allow_abbrev=False, formatter_class=HelpFormatter, **settings)
        self.register("action", None, _StoreOnce)
        self.register("action", "store", _StoreOnce)
        self.stored: set[str] = set()
        self.add_argument(
            "--config",
            type=Path,
            metavar="FILE",
            default=argparse.SUPPRESS,
            help="YAML file of flags by name; flags on the command line override it",
        )

    @property
    def names(self) -> set[str]:
        """Names of all flags."""
        return {text[2:] for text in self._option_string_actions if text.startswith("--")}

    def add_positional(self, name: str, *flags: str, **settings: Any) -> None:
        """Add a positional argument that may also follow one of `flags`, which other commands have for it."""
        settings["help"] = f"{settings.get('help', '')} (also {', '.join(flags)})".strip()
        action = self.add_argument(name, **settings)
        self._positional_flags.update({flag[2:]: action for flag in flags})

    def add_settings(self, hidden: bool = False) -> None:
        """Add a flag for each setting of TrainConfig, in groups, for `parse_settings`; values are texts."""
        old = {new: [name for name, to in SETTING_ALIASES.items() if to == new] for new in SETTING_ALIASES.values()}
        group: Any = self
        for item in dataclasses.fields(TrainConfig):
            if item.name in GROUPS:
                group = self if hidden else self.group(GROUPS[item.name])
            self.settings.add(item.name)
            group.add_argument(
                *[f"--{name}" for name in (item.name, *old.get(item.name, ()))],
                metavar=METAVARS.get(str(item.type), "TEXT"),
                default=argparse.SUPPRESS,
                help=argparse.SUPPRESS if hidden else setting_help(item),
            )

    def group(self, title: str) -> Any:
        """Return the argument group with this title, which is added if there is none."""
        groups = [group for group in self._action_groups if group.title == title]
        return groups[0] if groups else self.add_argument_group(title)

    def add_aliases(self) -> None:
        """Add the names of cli/aliases.py to the flags; a flag of this parser keeps its name."""
        for name, others in ALIASES.items():
            action = self._option_string_actions.get(f"--{name}")
            for other in [f"--{other}" for other in others if action]:
                if action and other not in self._option_string_actions:
                    action.option_strings = [*action.option_strings, other]
                    self._option_string_actions[other] = action

    def format_help(self) -> str:
        """Return the help, with aliases."""
        self.add_aliases()
        return super().format_help()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does; all other parse methods call this one."""
        args = sys.argv[1:] if args is None else list(args)
        self.add_aliases()
        self.stored.clear()
        self._given = [text[2:].partition("=")[0] for text in args if text.startswith("--")]
        args = list(self._with_positionals(args))
        for path in [Path(path) for path in _values_of("--config", args)]:
            for entry in read_config(path):
                self._set_default(entry)
        return super().parse_known_args(args, namespace)

    def _with_positionals(self, args: Sequence[str]) -> Iterator[str]:
        """Yield the arguments without the flags of positional arguments, whose values stay."""
        for text in args:
            name, equals, value = text.partition("=")
            if text.startswith("--") and name[2:] in self._positional_flags:
                yield from [value] if equals else []
            else:
                yield text

    def _set_default(self, entry: Entry) -> None:
        """Make an entry of the configuration file the default of its argument.

        Raises:
            ConfigError: the name is unknown, or the value invalid; with file and line.
        """
        action = self._option_string_actions.get(f"--{entry.name}") or self._positional_flags.get(entry.name)
        positional = [action for action in self._actions if not action.option_strings and action.dest == entry.name]
        action = action or (positional[0] if positional else None)
        if action is None or entry.name in ("config", "help"):
            known = (self.names | set(self._positional_flags) | self.others) - {"config", "help"}
            advice = "".join(hints([entry.name], self.names)) or f"{entry.name}: unknown flag or setting"
            guess = "" if entry.name in HINTS else did_you_mean(entry.name, known, ())
            raise ConfigError(f"{entry.where}: {advice}{guess}")
        action.required = False
        if any(text[2:] in self._given for text in action.option_strings):
            return
        try:
            action.default = self._typed(action, entry.values)
        except argparse.ArgumentError as error:
            raise ConfigError(f"{entry.where}: {entry.name}: {error.message}") from None
        except SsdTrainError as error:
            raise type(error)(f"{entry.where}: {error}") from None

    def _typed(self, action: argparse.Action, texts: Sequence[str]) -> Any:
        """Return the value that argparse would give an action for `texts`."""
        if action.nargs == 0:
            if list(texts) not in (["true"], ["false"]):
                raise argparse.ArgumentError(action, f"found {', '.join(texts)}, expected true or false")
            return texts[0] == "true"
        several = action.nargs in ("+", "*") or type(action).__name__ in ("_AppendAction", "_ExtendAction")
        if not action.option_strings:
            action.nargs = "*" if several else "?"
        values = [self._get_value(action, text) for text in (texts if several else [",".join(texts)])]
        for value in values:
            self._check_value(action, value)
        return values if several else values[0]

    def error(self, message: str) -> NoReturn:
        """Raise a ConfigError instead of exiting."""
        raise ConfigError(f"{message}{self._suggestions(message)} (see {self.prog} --help)")

    def _unknown(self) -> list[str]:
        known = self.names | self.others | set(self._positional_flags)
        return [name for name in self._given if name not in known]

    def _suggestions(self, message: str) -> str:
        """Return suggestions for the unknown flags that were given, and for a value without its flag."""
        unknown = self._unknown()
        advice = hints(unknown, self.names)
        known = self.names | self.others
        guesses = {name: did_you_mean(name, (), known) for name in unknown if name not in HINTS}
        advice += [f"found --{name}{guess}" for name, guess in guesses.items() if guess]
        value = message.partition("unrecognized arguments: ")[2].split(" ")[0]
        flags = [f"--{name}" for name in ("images", "model") if name in self.names]
        if flags and value and not value.startswith("-"):
            advice.append(f"expected {flags[0]} {value}")
        return "".join(f"; {text}" for text in advice)

    def parse_settings(self, arguments: Sequence[str]) -> "tuple[argparse.Namespace, dict[str, str]]":
        """Parse known flags into a namespace, and settings and unknown flags into a dictionary of texts by name.

        Raises:
            ConfigError: a flag without a value, or a value without a flag.
        """
        known, rest = self.parse_known_args(list(arguments))
        advice = hints(self._unknown(), self.names)
        if advice:
            raise ConfigError("; ".join(advice))
        given = {name: vars(known).pop(name) for name in self.settings & set(vars(known))}
        vars(known).pop("config", None)
        return known, {**given, **_pairs(rest)}


# first setting of each group of --help -> its title; train has flags of its own in some of the groups
GROUPS = {
    "preset_defaults": "presets",
    "base_network": "network",
    "num_training_samples": "data",
    "grayscale": "augmentation",
    "cache_images": "data",
    "epochs": "optimization",
    "validation_interval": "evaluation and stopping",
    "kv_store": "devices and hosts",
    "checkpoint_minutes": "outputs",
    "pipe_buffer_mb": "Pipe mode",
    "num_workers": "devices and hosts",
}


def setting_help(item: "dataclasses.Field[Any]") -> str:
    """Return the help of a setting, in argparse's format: meaning, limits, default."""
    limits = item.metadata
    among = ", ".join(choice_texts(item)) or range_text(limits)
    among = f" ({among})" if among else ""
    default = f" [{item.default}]" if item.default != "" else ""
    return f"{limits['help']}{among}{default}".replace("%", "%%")


def _values_of(flag: str, args: Sequence[str]) -> list[str]:
    """Return the values of a flag in `args`, as --flag value or --flag=value."""
    after = [value for text, value in zip(args, args[1:]) if text == flag]
    return [*after, *(text[len(flag) + 1 :] for text in args if text.startswith(f"{flag}="))]


def overview(usage: str, commands: dict[str, str], epilog: str) -> str:
    """Return the help of a program with commands.

    Args:
        usage: the usage line, without the program's name.
        commands: help by command.
        epilog: text after the commands.
    """
    parser = Parser(prog=program(), usage=f"{program()} {usage}", epilog=epilog, add_help=False)
    parser._option_string_actions["--config"].help = argparse.SUPPRESS
    group = parser.add_argument_group("commands")
    for name, text in commands.items():
        group.add_argument(name, help=text)
    return parser.format_help().rstrip()


class _StoreOnce(argparse.Action):
    """Store the value of a flag; raises ConfigError if it is repeated."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        if option_string is not None and self.dest in parser.stored:
            raise ConfigError(f"{option_string}: found twice, expected once")
        parser.stored.add(self.dest)
        setattr(namespace, self.dest, values)


def boolean(text: str) -> bool:
    """Parse a truth value, as an argparse type: the toolkit passes --dry_run True for a hyperparameter."""
    if text.lower() not in BOOLEANS:
        raise argparse.ArgumentTypeError(f"found {text}, expected true or false")
    return BOOLEANS[text.lower()]


def number_in_range(kind: Callable[[str], Number], low: float, high: float) -> Callable[[str], Number]:
    """Return an argparse type for numbers from `low` to `high`, inclusive."""

    def number(text: str) -> Number:
        """Parse a number; raises ArgumentTypeError if it is out of range."""
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"found {text}, expected {low:g} to {high:g}")
        return value

    number.__name__ = kind.__name__  # argparse names the type in its error for other texts
    return number


def add_number(
    parser: "argparse.ArgumentParser | argparse._ArgumentGroup",
    flag: str,
    kind: Callable[[str], Number],
    limits: tuple[float, float],
    default: float,
    help: str,
    **settings: Any,
) -> None:
    """Add a flag for a number within inclusive `limits`."""
    number = number_in_range(kind, *limits)
    parser.add_argument(flag, type=number, default=default, help=help, **settings)


def key_value(text: str) -> tuple[str, str]:
    """Parse KEY=VALUE, an argparse type; the first equals sign separates."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected KEY=VALUE")
    return key, value


def unique_keys(flag: str, pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return key-value pairs as a dictionary; raises ConfigError, which names `flag`, for a repeated key."""
    values: dict[str, str] = {}
    for key, value in pairs:
        if key in values:
            raise ConfigError(f"--{flag}: found {key!r} twice, expected each once")
        values[key] = value
    return values


def normalize_flags(arguments: Sequence[str]) -> list[str]:
    """Replace hyphens in the names of flags by underscores: --batch-size=8 becomes --batch_size=8."""
    return [re.sub("(?<=^--)[^=]+", lambda name: name[0].replace("-", "_"), argument) for argument in arguments]


def _pairs(rest: Sequence[str]) -> dict[str, str]:
    """Parse --name value and --name=value into a dictionary."""
    values: dict[str, str] = {}
    name: Optional[str] = None
    for argument in rest:
        is_flag = argument.startswith("--")
        if name is None and not is_flag:
            raise ConfigError(f"found {argument!r} without a flag before it, expected --name value")
        if is_flag:
            _require_value(name)
            name, equals, value = argument[2:].partition("=")
            if name in values:
                raise ConfigError(f"--{name}: found twice, expected once")
            if not equals:
                continue
        else:
            value = argument
        values[str(name)], name = value, None
    _require_value(name)
    return values


def _require_value(name: Optional[str]) -> None:
    if name is not None:
        raise ConfigError(f"--{name}: found no value, expected one after it")


MODEL_HELP = "a model folder, its model.tar.gz, or an .onnx file"


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose the inference engine and its device."""
    from ssd_train.deploy.detector import ENGINES

    group = parser.add_argument_group("engine")
    group.add_argument(
        "--devices",
        default="auto",
        help="of MXNet: auto (the first GPU or else the CPU), cpu, gpu, gpu:1",
    )
    group.add_argument(
        "--engine",
        default="auto",
        choices=("auto", *ENGINES),
        help="what runs the model: auto (what fits it and is installed), mxnet, symbol (an exported symbol, by MXNet), "
        "onnxruntime, openvino, openvino_bf16 (in bfloat16, on a CPU that has it)",
    )


def add_threshold_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag for the lowest score of drawn boxes, which `score_threshold` evaluates."""
    from ssd_train.evaluation.results import FIXED_SCORE

    parser.add_argument(
        "--threshold",
        type=number_in_range(float, 0, 1),
        help="lowest score of a box that is drawn, 0 to 1; default: the threshold with the best F1 on the validation "
        f"data, which the model states, or else {FIXED_SCORE}",
    )


def score_threshold(flags: argparse.Namespace, detector: "Detector", progress: Progress) -> float:
    """Return the lowest score of drawn boxes: --threshold, or else the detector's."""
    return threshold_or_stated(flags, detector.engine.score_threshold, "the model", progress)


def threshold_or_stated(flags: argparse.Namespace, stated: Optional[float], source: str, progress: Progress) -> float:
    """Return the lowest score of drawn boxes: --threshold, or else the one that `source` states, if not None."""
    from ssd_train.evaluation.results import FIXED_SCORE

    if flags.threshold is not None:
        return float(flags.threshold)
    if stated is None:
        progress.info(f"threshold {FIXED_SCORE}: {source} states none (--threshold gives another)")
        return FIXED_SCORE
    return stated


def add_label_flags(parser: argparse.ArgumentParser, *other_names: str) -> None:
    """Add the flags for reading labels, which `label_options` evaluates.

    `other_names` are aliases of --labels_format.
    """
    group = parser.add_argument_group("labels")
    group.add_argument(
        "--labels_format",
        *other_names,
        dest="labels_format",
        default="",
        metavar="FORMAT",
        help=f"{', '.join(LABEL_FORMATS)}, or a channel's content type (default: detected from the files)",
    )
    group.add_argument(
        "--split",
        default="",
        metavar="NAME",
        help="only this set of those that the data names (ImageSets/Main, data.yaml): train, val, test, ...",
    )
    group.add_argument(
        "--verified",
        default="",
        metavar="NAME",
        help="only images whose labels a Ground Truth verification job called so, e.g. good",
    )
    add_fetch_flag(group)
    group.add_argument("--label_attribute", default="", metavar="NAME", help="default: by type and date")
    group.add_argument(
        "--class_names", default="", metavar="A,B,...", help="names for labels without (RecordIO), in order of ids"
    )


def add_fetch_flag(parser: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    """Add the flag for downloading images from the S3 URLs in the labels."""
    parser.add_argument(
        "--fetch_images",
        type=int,
        choices=(0, 1),
        default=0,
        help="1: images that labels name on S3 and the folder lacks are got from there; default: 0",
    )


def label_options(flags: argparse.Namespace, progress: Progress, on_bad: str = "error") -> "LabelOptions":
    """Return the options for reading labels from parsed flags.

    Raises:
        ConfigError: a value is invalid.
    """
    from ssd_train.data.labels import LabelOptions, parse_class_names
    from ssd_train.storage.s3_cache import image_fetcher

    format = builtin_algorithm.CONTENT_TYPES.get(flags.labels_format.lower(), flags.labels_format)
    fetch = image_fetcher(progress) if flags.fetch_images else None
    names = parse_class_names(flags.class_names)
    return LabelOptions(format, flags.label_attribute, on_bad, names, fetch, flags.split, flags.verified)
