"""Progress on a terminal (bars by tqdm) or in a log (a plain line now and then), and the way flags are read."""

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

from ssd_train.errors import ConfigError
from ssd_train.progress import Item, Progress
from ssd_train.secrecy import hidden
from ssd_train.setting_values import did_you_mean
from ssd_train.storage import is_standard_output

LOG_SECONDS = 30.0
Number = TypeVar("Number", int, float)


class TerminalProgress(Progress):
    """Bars on the terminal, lines above them; `stream` is where the lines go."""

    def __init__(self, stream: Optional[TextIO] = None) -> None:
        self._stream = stream

    def say(self, text: str) -> None:
        """Write the line above the bars, without secrets."""
        from tqdm import tqdm

        stream = self._stream or sys.stdout
        tqdm.write(hidden(text), file=stream)
        stream.flush()

    def warn(self, text: str) -> None:
        """Write the line as a warning."""
        self.say(f"warning: {text}")

    def track(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        """Yield the items under a bar on standard error."""
        from tqdm import tqdm

        yield from tqdm(items, desc=what, total=total, leave=False, dynamic_ncols=True, file=sys.stderr)


class LogProgress(Progress):
    """Plain lines, and of long work one every half minute; `stream` is where they go."""

    def __init__(self, stream: Optional[TextIO] = None) -> None:
        self._stream = stream

    def say(self, text: str) -> None:
        """Write the line, without secrets."""
        print(hidden(text), flush=True, file=self._stream or sys.stdout)

    def warn(self, text: str) -> None:
        """Write the line as a warning."""
        self.say(f"warning: {text}")

    def track(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        """Yield the items and say how many have passed, every LOG_SECONDS."""
        last = time.monotonic()
        for done, item in enumerate(items, start=1):
            yield item
            if time.monotonic() - last >= LOG_SECONDS:
                last = time.monotonic()
                self.say(f"{what}: {done} of {total}")


def make_progress(beside: Iterable[object] = ()) -> Progress:
    """Bars where a person looks on, lines elsewhere: on standard output, or on standard error where one of the values
    `beside` it is a path that leads to standard output."""
    stream = sys.stderr if any(map(is_standard_output, beside)) else None
    return TerminalProgress(stream) if sys.stderr.isatty() and sys.stdout.isatty() else LogProgress(stream)


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are ConfigErrors: one line, and exit code 2 by the usual way. A flag with a
    value is given once; argparse itself would take the last without a word. `others` are names that are taken though
    the parser has no flag for them: a misspelt one may have meant these, too."""

    def __init__(self, others: Collection[str] = (), **settings: Any) -> None:
        self.names: Set[str] = set()  # of all flags; argparse itself adds one
        self.others = frozenset(others)
        self._given: List[str] = []
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)
        self.register("action", None, _StoreOnce)
        self.register("action", "store", _StoreOnce)
        self.stored: Set[str] = set()

    def add_argument(self, *spellings: Any, **settings: Any) -> argparse.Action:
        """As argparse's; `names` are those of all flags."""
        action = super().add_argument(*spellings, **settings)
        self.names.update(spelling[2:] for spelling in action.option_strings if spelling.startswith("--"))
        return action

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's (None: those of the command line); every other way of parsing goes through here."""
        args = sys.argv[1:] if args is None else list(args)
        self.stored.clear()
        self._given = [text[2:].partition("=")[0] for text in args if text.startswith("--")]
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """A ConfigError in place of argparse's exit."""
        raise ConfigError(f"{message}{self._meant()} (see {self.prog} --help)")

    def _meant(self) -> str:
        """What flags that are none may have been meant for."""
        known = self.names | self.others
        guesses = {name: did_you_mean(name, (), known) for name in self._given if name not in known}
        return "".join(f"; found --{name}{guess}" for name, guess in guesses.items() if guess)

    def parse_settings(self, arguments: Sequence[str]) -> "tuple[argparse.Namespace, Dict[str, str]]":
        """Known flags, and all others as name -> value; a flag without a value, or a value without a flag, is
        refused."""
        known, rest = self.parse_known_args(list(arguments))
        return known, _pairs(rest)


class _StoreOnce(argparse.Action):
    """Keeps the value of a flag; a ConfigError when it comes again."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        if option_string is not None and self.dest in parser.stored:
            raise ConfigError(f"{option_string}: found twice, expected once")
        parser.stored.add(self.dest)
        setattr(namespace, self.dest, values)


def within(kind: Callable[[str], Number], low: float, high: float) -> Callable[[str], Number]:
    """A type of flag: numbers from `low` to `high`, both included."""

    def number(text: str) -> Number:
        """The number in `text`; an ArgumentTypeError when it lies outside."""
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"found {text}, expected {low:g} to {high:g}")
        return value

    number.__name__ = kind.__name__  # argparse tells it of what is no number
    return number


def normalised(arguments: Sequence[str]) -> List[str]:
    """Flags with hyphens in place of underscores become one spelling: --batch-size=8 and --batch_size 8 are the
    same."""
    return [_underscored(argument) for argument in arguments]


def _underscored(argument: str) -> str:
    if not argument.startswith("--") or argument == "--":
        return argument
    name, equals, value = argument[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def _pairs(rest: Sequence[str]) -> Dict[str, str]:
    """--name value and --name=value as a dictionary."""
    found: Dict[str, str] = {}
    name: Optional[str] = None
    for argument in rest:
        is_flag = argument.startswith("--")
        if name is None and not is_flag:
            raise ConfigError(f"found {argument!r} without a flag before it, expected --name value")
        if is_flag:
            _refuse_open(name)
            name, equals, value = argument[2:].partition("=")
            if name in found:
                raise ConfigError(f"--{name}: found twice, expected once")
            if not equals:
                continue
        else:
            value = argument
        found[str(name)], name = value, None
    _refuse_open(name)
    return found


def _refuse_open(name: Optional[str]) -> None:
    if name is not None:
        raise ConfigError(f"--{name}: found no value, expected one after it")
