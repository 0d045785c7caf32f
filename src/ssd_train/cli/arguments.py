"""Progress output for terminals and logs, and the argument parser of all commands."""

from __future__ import annotations

import argparse
import sys
import time
from typing import (
    Any,
    Callable,
    Collection,
    Dict,
    Iterable,
    Iterator,
    List,
    NoReturn,
    Optional,
    Sequence,
    Set,
    TextIO,
    TypeVar,
)

from ssd_train import builtin_algorithm
from ssd_train.config import LABEL_FORMATS
from ssd_train.config_fields import did_you_mean
from ssd_train.data.labels import LabelOptions, parse_class_names
from ssd_train.deploy.detector import ENGINES, Detector
from ssd_train.errors import ConfigError
from ssd_train.evaluation.results import FIXED_SCORE
from ssd_train.progress import Item, Progress
from ssd_train.redaction import redact
from ssd_train.storage.atomic import is_standard_output
from ssd_train.storage.s3_cache import image_fetcher

LOG_SECONDS = 30.0
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

    def warning(self, text: str) -> None:
        """Write a warning."""
        self.info(f"warning: {text}")

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


_open_bars: List[Any] = []


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

    def warning(self, text: str) -> None:
        """Write a warning."""
        self.info(f"warning: {text}")

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


class Parser(argparse.ArgumentParser):
    """Argument parser that raises ConfigError and rejects repeated flags.

    argparse itself would exit, and use the last of repeated flags.

    Args:
        others: Names that are valid without a flag in this parser, for suggestions of misspelt names.
        **settings: Arguments of ArgumentParser.
    """

    def __init__(self, others: Collection[str] = (), **settings: Any) -> None:
        self.names: Set[str] = set()  # of all flags; __init__ of argparse adds --help
        self.others = frozenset(others)
        self._given: List[str] = []
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)
        self.register("action", None, _StoreOnce)
        self.register("action", "store", _StoreOnce)
        self.stored: Set[str] = set()

    def add_argument(self, *spellings: Any, **settings: Any) -> argparse.Action:
        """Add a flag as argparse does, and record its name."""
        action = super().add_argument(*spellings, **settings)
        self.names.update(spelling[2:] for spelling in action.option_strings if spelling.startswith("--"))
        return action

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does; all other parse methods call this one."""
        args = sys.argv[1:] if args is None else list(args)
        self.stored.clear()
        self._given = [text[2:].partition("=")[0] for text in args if text.startswith("--")]
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise a ConfigError instead of exiting."""
        raise ConfigError(f"{message}{self._suggestions()} (see {self.prog} --help)")

    def _suggestions(self) -> str:
        """Return suggestions for the unknown flags that were given."""
        known = self.names | self.others
        guesses = {name: did_you_mean(name, (), known) for name in self._given if name not in known}
        return "".join(f"; found --{name}{guess}" for name, guess in guesses.items() if guess)

    def parse_settings(self, arguments: Sequence[str]) -> "tuple[argparse.Namespace, Dict[str, str]]":
        """Parse known flags into a namespace, and all others into a dictionary of texts by name.

        Raises:
            ConfigError: a flag without a value, or a value without a flag.
        """
        known, rest = self.parse_known_args(list(arguments))
        return known, _pairs(rest)


class _StoreOnce(argparse.Action):
    """Store the value of a flag; raises ConfigError if it is repeated."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        if option_string is not None and self.dest in parser.stored:
            raise ConfigError(f"{option_string}: found twice, expected once")
        parser.stored.add(self.dest)
        setattr(namespace, self.dest, values)


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


def normalize_flags(arguments: Sequence[str]) -> List[str]:
    """Replace hyphens in the names of flags by underscores: --batch-size=8 becomes --batch_size=8."""
    return [_underscored(argument) for argument in arguments]


def _underscored(argument: str) -> str:
    if not argument.startswith("--") or argument == "--":
        return argument
    name, equals, value = argument[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def _pairs(rest: Sequence[str]) -> Dict[str, str]:
    """Parse --name value and --name=value into a dictionary."""
    values: Dict[str, str] = {}
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
    parser.add_argument(
        "--devices",
        default="auto",
        help="of MXNet: auto (the first GPU or else the CPU), cpu, gpu, gpu:1; default: auto",
    )
    parser.add_argument(
        "--engine",
        default="auto",
        choices=("auto", *ENGINES),
        help="what runs the model: auto (what fits it and is installed), mxnet, symbol (an exported symbol, by MXNet), "
        "onnxruntime, openvino; default: auto",
    )


def add_threshold_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag for the lowest score in pictures, which `score_threshold` evaluates."""
    parser.add_argument(
        "--threshold",
        type=number_in_range(float, 0, 1),
        help="lowest score of a box in pictures, 0 to 1; default: the threshold with the best F1 on the validation "
        f"data, which the model states, or else {FIXED_SCORE}",
    )


def score_threshold(flags: argparse.Namespace, detector: Detector, progress: Progress) -> float:
    """Return the lowest score in pictures: --threshold, or else the model's own."""
    if flags.threshold is not None:
        return float(flags.threshold)
    if detector.engine.score_threshold is None:
        progress.info(f"threshold {FIXED_SCORE}: the model states none (--threshold gives another)")
    return detector.score_threshold


def add_label_flags(parser: argparse.ArgumentParser, *other_names: str) -> None:
    """Add the flags for reading labels, which `label_options` evaluates.

    `other_names` are aliases of --labels_format.
    """
    parser.add_argument(
        "--labels_format",
        *other_names,
        dest="labels_format",
        default="",
        metavar="FORMAT",
        help=f"{', '.join(LABEL_FORMATS)}, or a channel's content type (default: found by looking)",
    )
    parser.add_argument(
        "--split",
        default="",
        metavar="NAME",
        help="only this set of those that the data names (ImageSets/Main, data.yaml): train, val, test, ...",
    )
    parser.add_argument(
        "--verified",
        default="",
        metavar="NAME",
        help="only images whose labels a Ground Truth verification job called so, e.g. good",
    )
    add_fetch_flag(parser)
    parser.add_argument("--label_attribute", default="", metavar="NAME", help="default: by type and date")
    parser.add_argument(
        "--class_names", default="", metavar="A,B,...", help="names for labels without (RecordIO), in order of ids"
    )


def add_fetch_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag for downloading images from the S3 URLs in the labels."""
    parser.add_argument(
        "--fetch_images",
        type=int,
        choices=(0, 1),
        default=0,
        help="1: images that labels name on S3 and the folder lacks are got from there; default: 0",
    )


def label_options(flags: argparse.Namespace, progress: Progress, on_bad: str = "error") -> LabelOptions:
    """Return the options for reading labels from parsed flags.

    Raises:
        ConfigError: a value is invalid.
    """
    format = builtin_algorithm.CONTENT_TYPES.get(flags.labels_format.lower(), flags.labels_format)
    fetch = image_fetcher(progress) if flags.fetch_images else None
    names = parse_class_names(flags.class_names)
    return LabelOptions(format, flags.label_attribute, on_bad, names, fetch, flags.split, flags.verified)
