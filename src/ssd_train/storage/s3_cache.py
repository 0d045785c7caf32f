"""Cache of S3 objects and uploads of results: parallel, with progress, resumable.

Layout of the cache:

    s3/STORE/BUCKET/files/KEY       a copy of an object, written atomically
    s3/STORE/BUCKET/index.jsonl     ETag, size and modification time of each copy, to detect changes
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import threading
import uuid
from pathlib import Path
from typing import Callable, Collection, Dict, Iterator, List, Optional, Sequence, TypeVar, Union

from ssd_train.environment import cache_folder
from ssd_train.errors import ConfigError, DataError, SsdTrainError
from ssd_train.parallel import ordered_map
from ssd_train.progress import Progress
from ssd_train.storage import atomic
from ssd_train.storage.s3 import WORKERS, Entry, Store, Unavailable, Url

_MB = 1e6
# of keys that no file can have: a part of more than 255 bytes, or one that is a file because it is a key, too
_UNFIT = (errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY)

Item = TypeVar("Item")
Result = TypeVar("Result")


class S3Cache:
    """Cache of S3 objects; outdated copies are downloaded again when they are requested.

    All methods raise a DataError that names bucket, key and cause, or an SsdTrainError if the disk is full.
    """

    def __init__(self, store: Store, progress: Progress) -> None:
        self._store, self._progress = store, progress
        self._root = cache_folder() / "s3" / re.sub(r"[^A-Za-z0-9.]+", "-", store.name)
        self._indexes: Dict[str, _Index] = {}

    def fetch(self, url: Url) -> Path:
        """Return the path of a copy of the object at `url`, or of a folder with all objects below it."""
        entry = None if url.is_folder else self._store.find(url)
        if entry is None:
            return self._fetch_folder(url.as_folder())
        self._fetch_entries(url, [entry])
        return self._path(url)

    def fetch_each(self, addresses: Sequence[str]) -> Dict[str, Union[Path, Unavailable]]:
        """Return for each s3:// address the path of a copy, or the error that concerns this object only."""
        invalid: Dict[str, Union[Path, Unavailable]] = {}
        urls = []
        for address in addresses:
            try:
                urls.append(Url.parse(address))
                self._index(urls[-1].bucket)  # created before threads use it
            except ConfigError as error:
                invalid[address] = Unavailable(str(error))

        def fetch(url: Url) -> Union[Path, Unavailable]:
            """Return the copy of one object, or its error."""
            try:
                return self._fetch_if_changed(url)
            except Unavailable as error:
                return error

        fetched = iter(_each(fetch, urls, self._progress, "images from S3"))
        return {address: invalid[address] if address in invalid else next(fetched) for address in addresses}

    def _fetch_folder(self, url: Url) -> Path:
        # the S3 console represents an empty folder by an object "train/"
        entries = [entry for entry in self._store.list(url) if not entry.key.endswith("/")]
        if not entries:
            raise DataError(f"{url}: found no objects, expected an object with this key or some below it")
        self._fetch_entries(url, entries)
        folder = self._path(url)
        wanted = {str(self._path(url._replace(key=entry.key))) for entry in entries}
        for path in [Path(at) / name for at, _, names in os.walk(folder) for name in names]:
            if str(path) not in wanted:  # its object was deleted
                path.unlink()
        return folder

    def _fetch_entries(self, url: Url, entries: Sequence[Entry]) -> None:
        index = self._index(url.bucket)
        urls = {entry.key: url._replace(key=entry.key) for entry in entries}
        new = [entry for entry in entries if not index.is_current(entry, self._path(urls[entry.key]))]
        if not new:
            return
        size = sum(entry.size for entry in new)
        self._progress.info(f"{url}: {len(new)} of {len(entries)} files to download ({size / _MB:.1f} MB)")
        self._check_free_space(url, size)
        _each(lambda entry: self._download(urls[entry.key]), new, self._progress, f"from {url}")

    def _fetch_if_changed(self, url: Url) -> Path:
        path, index = self._path(url), self._index(url.bucket)
        if index.is_intact(url.key, path):
            entry = self._store.find(url)
            if entry is not None and index.is_current(entry, path):
                return path
        return self._download(url)

    def _download(self, url: Url) -> Path:
        path = self._path(url)
        temporary = self._incoming(url.bucket) / uuid.uuid4().hex
        with _errors_of_copy(url, path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(temporary, "wb") as file:
                    entry = self._store.read(url, file)
                os.replace(temporary, path)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    temporary.unlink()
            self._index(url.bucket).add(entry, path)
        return path

    def _path(self, url: Url) -> Path:
        """Return the path of the copy of `url`; raises Unavailable if its key is not a valid relative path."""
        parts = url.key.split("/")
        if parts[-1] == "":
            parts.pop()
        if {"", ".", ".."}.intersection(parts) or "\0" in url.key:
            raise Unavailable(f"{url}: found a key with an empty part, '.', '..' or NUL, expected a relative path")
        return self._root.joinpath(url.bucket, "files", *parts)

    def _index(self, bucket: str) -> "_Index":
        if bucket not in self._indexes:
            incoming = self._root / bucket / "incoming"
            with _errors_of_copy(Url(bucket, ""), incoming):
                incoming.parent.mkdir(parents=True, exist_ok=True)
                atomic.remove_leftovers(incoming)
                atomic.temp_path_for(incoming).mkdir()
            self._indexes[bucket] = _Index(self._root / bucket / "index.jsonl")
        return self._indexes[bucket]

    def _incoming(self, bucket: str) -> Path:
        return atomic.temp_path_for(self._root / bucket / "incoming")

    def _check_free_space(self, url: Url, size: int) -> None:
        path = self._path(url)
        if size > shutil.disk_usage(self._root).free:
            raise atomic.full_disk(path, size)


class _Index:
    """Index of the copies of a bucket, one JSON line each; later lines replace earlier ones."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._known: Dict[str, List[object]] = {}
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        for line in lines:
            with contextlib.suppress(ValueError):  # a line truncated by a kill: the object is downloaded again
                key, *facts = json.loads(line)
                self._known[key] = facts

    def is_intact(self, key: str, path: Path) -> bool:
        """Return whether the copy at `path` is unchanged since it was written."""
        return self._known.get(key, [None])[1:] == _stamp(path)

    def is_current(self, entry: Entry, path: Path) -> bool:
        """Return whether the copy at `path` is unchanged and up to date."""
        return self.is_intact(entry.key, path) and self._known[entry.key][:2] == [entry.etag, entry.size]

    def add(self, entry: Entry, path: Path) -> None:
        """Add the copy at `path`."""
        facts = [entry.etag, *(_stamp(path) or [])]
        with self._lock, open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps([entry.key, *facts]) + "\n")
            self._known[entry.key] = facts


def _stamp(path: Path) -> Optional[List[object]]:
    """Return size and modification time of a file, or None if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def image_fetcher(progress: Progress) -> "Callable[[Sequence[str]], Dict[str, Union[Path, Unavailable]]]":
    """Return a function like `S3Cache.fetch_each` that connects to S3 when it is called."""

    def fetch(addresses: Sequence[str]) -> "Dict[str, Union[Path, Unavailable]]":
        """Connect to S3 and download `addresses`."""
        progress.info(f"{len(addresses)} images are missing in their folder and are downloaded from S3")
        return S3Cache(Store(), progress).fetch_each(addresses)

    return fetch


def upload(store: Store, path: Path, url: Url, progress: Progress, leave: Collection[Path] = ()) -> int:
    """Upload the file `path` to `url`, or all files of a folder but those in `leave` to below it; returns their number.

    JSON files are uploaded last, because they refer to the other files.
    """
    if path.is_file():
        store.write(path, url)
        return 1
    files = sorted(file for file in path.rglob("*") if file.is_file() and file not in leave)
    folder = url.as_folder()

    def put(file: Path) -> None:
        """Upload one file of the folder."""
        store.write(file, folder._replace(key=folder.key + file.relative_to(path).as_posix()))

    for last in (False, True):
        _each(put, [file for file in files if (file.suffix == ".json") == last], progress, f"to {url}")
    return len(files)


def _each(work: Callable[[Item], Result], items: Sequence[Item], progress: Progress, what: str) -> List[Result]:
    """Return work(item) of each item, in order, computed by threads; raises the first error."""
    results = ordered_map(work, items, WORKERS, at_once=1)
    return list(progress.track(results, len(items), what))


@contextlib.contextmanager
def _errors_of_copy(url: Url, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if atomic.is_disk_full(error, _existing(path)):
            raise atomic.full_disk(path, 0) from error
        if error.errno in _UNFIT:
            raise Unavailable(f"{url}: its copy {path} cannot be written: {error.strerror}") from None
        raise SsdTrainError(f"{url}: its copy {path} cannot be written: {error.strerror or error}") from error


def _existing(path: Path) -> Path:
    return next(parent for parent in path.absolute().parents if parent.is_dir())
