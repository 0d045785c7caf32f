"""Exceptions of ssd_train. Messages are one line: `where: found X, expected Y`."""

from __future__ import annotations

import contextlib
from typing import Any, Iterator, List, Mapping, Type


class SsdTrainError(Exception):
    """Base class of all exceptions of this package; `exit_code` is the exit code of the command line."""

    exit_code = 1


class ConfigError(SsdTrainError):
    """A setting is missing, unknown, out of range or conflicts with another. Lists all violations at once."""

    exit_code = 2


class DataError(SsdTrainError):
    """Unusable images or labels; the message starts with file:line if there is one.

    `code` is the code of `check` (data/checks/codes.py), or "" for the code of the caller.
    """

    exit_code = 2

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code

    def at(self, location: object) -> "DataError":
        """Return the error with `location` prepended to its message."""
        return DataError(f"{location}: {self}", self.code)


class locate_errors:  # a class, because it is entered for each box: a generator takes five times as long
    """Context manager that prepends `location` to the message of a DataError of its block."""

    def __init__(self, location: object) -> None:
        self._location = location

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, DataError):
            raise error.at(self._location) from None


@contextlib.contextmanager
def reading(path: object, expected: str, kind: "Type[SsdTrainError]" = DataError) -> Iterator[None]:
    """Replace an OSError in the block by an error of a `kind` that `path` cannot be read."""
    try:
        yield
    except OSError as error:
        raise kind(f"{path}: cannot be read ({error.strerror}), expected {expected}") from error


def check_format(where: object, document: Mapping[str, Any], newest: int, kind: "Type[SsdTrainError]") -> None:
    """Raise an error of a `kind` if a JSON document was written by a newer ssd_train; KeyError if it has no format."""
    if document["format"] > newest:
        raise kind(
            f"{where}: found format {document['format']} of ssd_train {document.get('package')}, expected {newest} or "
            "less: use a newer ssd_train"
        )


class WeightsError(SsdTrainError):
    """A weights file or saved model is unreadable or does not fit the network."""

    exit_code = 2


class CheckpointError(SsdTrainError):
    """A checkpoint cannot be resumed: it has other settings, classes or data, or no intact copy."""

    exit_code = 2


class DependencyError(SsdTrainError):
    """A library is missing or its version is incompatible."""

    exit_code = 2


@contextlib.contextmanager
def require_extra(extra: str) -> Iterator[None]:
    """Replace an ImportError in the block by a DependencyError that says how to install `extra` of this package."""
    try:
        yield
    except ImportError as error:
        reason = str(error) or type(error).__name__
        library = (error.name or "a library").partition(".")[0]
        raise DependencyError(
            f"{library} cannot be imported ({reason}); install the extra: pip install 'ssd-train[{extra}]'"
        ) from None


class TrainingDiverged(SsdTrainError):
    """A loss, gradient or weight became NaN or infinite; the message names the labels of the batch."""


class WorkerLost(SsdTrainError):
    """Another host of the job died, failed, or never connected; the message names it.

    All hosts exit with the exit code of the failed one, if it is known.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class TrainingInterrupted(SsdTrainError):
    """Training was stopped by SIGTERM or Ctrl-C, after saving its state."""

    exit_code = 143  # 128 + SIGTERM, as a shell reports it


def message_lines(error: BaseException) -> List[str]:
    """Return the lines of a library's error; its class if it has no message."""
    return (str(error).strip() or type(error).__name__).splitlines()
