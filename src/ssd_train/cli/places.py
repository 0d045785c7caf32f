"""s3:// paths among a command's flags. Within the command they are local paths; what it says names them as given.

    parser.add_argument("--labels", type=source)
    parser.add_argument("--model_dir", type=target_folder)
    ...
    with localised(flags) as progress:
        ...

argparse's usual type, Path, would make s3:/bucket/key of them.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import uuid
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Union

from ssd_train.cli.console import make_progress
from ssd_train.data.prepare.lines import local_path
from ssd_train.environment import cache_folder
from ssd_train.errors import ConfigError, SsdTrainError
from ssd_train.progress import Item, Progress
from ssd_train.remote import Copies, upload
from ssd_train.s3 import Store, Url, is_url
from ssd_train.storage import STANDARD_OUTPUT


class Remote(NamedTuple):
    """An s3:// path as a flag's value, until `localised` puts a local one in its place."""

    url: Url
    is_target: bool

    def __str__(self) -> str:
        return str(self.url)


def source(text: str) -> Union[Path, Remote]:
    """What a command reads: a file or a folder."""
    return Remote(Url.parse(text), is_target=False) if is_url(text) else local_path(text)


def target(text: str) -> Union[Path, Remote]:
    """What a command writes: a file, or what may be a file or a folder."""
    return _target(text, lambda url: url._replace(key=url.key.rstrip("/")))


def output_file(text: str) -> Path:
    """A file on this machine that a command writes; - is standard output."""
    return STANDARD_OUTPUT if text == "-" else local_path(text)


def target_folder(text: str) -> Union[Path, Remote]:
    """A folder that a command writes."""
    return _target(text, Url.as_folder) if is_url(text) else local_path(text)


def local(text: str) -> Path:
    """What must be on this machine while the command runs."""
    if is_url(text):
        raise ConfigError(f"found {text}, expected a local folder (SageMaker carries it to S3 as it changes)")
    return local_path(text)


@contextlib.contextmanager
def localised(flags: argparse.Namespace) -> Iterator[Progress]:
    """Bring the s3:// paths among `flags` here, and at the end of the block put what was written where it belongs.

    Results are put there also when the command ends in an error of ours: what it has written by then is as whole as it
    would be on a local disk. Yields the progress to talk to, which turns local names back into those given.
    """
    progress = make_progress(beside=_values(flags))
    if not any(isinstance(value, Remote) for value in _values(flags)):
        yield progress
        return
    _refuse_own_input(flags)
    places = _Places(progress)
    for name, value in vars(flags).items():
        setattr(flags, name, places.targets_of(value))
    # weights first: an address without any is told before all the images have been copied
    for name in sorted(vars(flags), key=lambda name: name != "pretrained"):
        setattr(flags, name, places.sources_of(getattr(flags, name)))
    try:
        yield _Renaming(progress, places.as_given)
    except SsdTrainError as error:
        error.args = tuple(places.as_given(str(part)) for part in error.args)
        try:
            places.deliver()
        except SsdTrainError as second:
            progress.warn(str(second))
        raise
    except BaseException:
        places.tell_what_is_left()
        raise
    places.deliver()


class _Places:
    """The local paths that stand for s3:// ones."""

    def __init__(self, progress: Progress) -> None:
        self._store, self._progress = Store(), progress
        self._copies = Copies(self._store, progress)
        self._outgoing = cache_folder() / "outgoing" / uuid.uuid4().hex
        self._targets: List["tuple[Path, Url]"] = []
        self._names: Dict[str, str] = {}

    def targets_of(self, value: object) -> object:
        """`value` with its targets, if any, replaced. That they may be written is asked first of all."""
        return self._replaced(value, True, self._staged)

    def sources_of(self, value: object) -> object:
        """`value` with its sources, if any, replaced by copies of what they name."""
        return self._replaced(value, False, self._copies.bring)

    def as_given(self, text: str) -> str:
        """`text` with s3:// names in place of the local ones."""
        for path in sorted(self._names, key=len, reverse=True):
            text = text.replace(path, self._names[path])
        return text

    def deliver(self) -> None:
        """Put what was written where it belongs."""
        for path, url in self._targets:
            if not path.exists():
                continue
            try:
                count = upload(self._store, path, url, self._progress)
            except SsdTrainError as error:
                raise type(error)(f"{error}; the results are kept in {path}") from error
            self._progress.say(f"uploaded: {url} ({count} file{'s' if count > 1 else ''})")
        shutil.rmtree(self._outgoing, ignore_errors=True)

    def tell_what_is_left(self) -> None:
        """Say where results are that were not put where they belong."""
        for path, url in self._targets:
            if path.exists():
                self._progress.warn(f"{url}: not uploaded; what was written is kept in {path}")

    def _replaced(self, value: object, targets: bool, place: Callable[[Url], Path]) -> object:
        if isinstance(value, list):
            return [self._replaced(part, targets, place) for part in value]
        if not isinstance(value, Remote) or value.is_target != targets:
            return value
        path = place(value.url)
        self._names[str(path)] = str(value.url).rstrip("/")
        return path

    def _staged(self, url: Url) -> Path:
        self._store.check_writable(url)
        path = self._outgoing / str(len(self._targets)) / url.key.rstrip("/").rpartition("/")[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        self._targets.append((path, url))
        return path


class _Renaming(Progress):
    """Tells another progress, after names have been replaced."""

    def __init__(self, progress: Progress, rename: Callable[[str], str]) -> None:
        self._progress, self._rename = progress, rename

    def say(self, text: str) -> None:
        """The line with its names replaced."""
        self._progress.say(self._rename(text))

    def warn(self, text: str) -> None:
        """The warning with its names replaced."""
        self._progress.warn(self._rename(text))

    def track(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        """Yield the items, of what is called by its replaced name."""
        return self._progress.track(items, total, self._rename(what))


def _target(text: str, shape: Callable[[Url], Url]) -> Union[Path, Remote]:
    if not is_url(text):
        return output_file(text)
    url = shape(Url.parse(text))
    if url.key.rstrip("/").rpartition("/")[2] in ("", ".", ".."):
        raise ConfigError(f"found {text!r}, expected s3://bucket/key with a name to write to")
    return Remote(url, is_target=True)


def _refuse_own_input(flags: argparse.Namespace) -> None:
    """A ConfigError when something is to be written where something is read: it would be gone."""
    remotes = [value for value in _values(flags) if isinstance(value, Remote)]
    read = {str(remote).rstrip("/") for remote in remotes if not remote.is_target}
    for remote in remotes:
        if remote.is_target and str(remote).rstrip("/") in read:
            raise ConfigError(f"found {remote} to write to, which is what is read, expected another place")


def _values(flags: argparse.Namespace) -> Iterator[object]:
    for value in vars(flags).values():
        yield from value if isinstance(value, list) else [value]
