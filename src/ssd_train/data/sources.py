"""Where the bytes of a record's image come from: a folder, copies fetched for it, or memory."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Set, Tuple, Union

from ssd_train.data.patience import in_time
from ssd_train.data.records import Record
from ssd_train.environment import read_seconds
from ssd_train.errors import DataError


class FolderImages:
    """Images below a folder, found by their names in the labels.

    ``s3://bucket/a/b/c.jpg`` and ``a/b/c.jpg`` mean the same here: the first that exists of a/b/c.jpg, b/c.jpg, c.jpg
    under the folder, else the only file called c.jpg anywhere below it. Keys are literal: ``%20`` and ``+`` stand for
    themselves. Names that point out of the folder are refused, and so are links that lead out of it. A file that cannot
    be read within environment.read_seconds() is an error like any other.
    """

    def __init__(self, root: "str | os.PathLike[str]") -> None:
        self.root = os.path.realpath(os.fspath(root))
        if not os.path.isdir(self.root):
            raise DataError(f"{os.fspath(root)}: not found or not a folder, expected a folder of images")
        try:
            os.scandir(self.root).close()  # what may not be listed would look like images that are not there
        except OSError as error:
            raise DataError(
                f"{os.fspath(root)}: cannot be read ({error.strerror}), expected a readable folder of images"
            ) from error
        self._by_basename: Optional[Dict[str, List[str]]] = None
        self._plain_folders: Set[str] = set()
        self._located: Dict[str, str] = {}
        self._seconds = read_seconds()

    def read(self, record: Record) -> bytes:
        """The encoded image; a DataError names the record's place when it cannot be had."""
        return in_time(lambda: self._read(record), self._seconds, f"{_place(record)}: image {record.name!r}")

    def ends(self, record: Record, size: int) -> Tuple[bytes, bytes]:
        """The first and the last `size` bytes of the encoded image; nothing of what is no file. Errors as `read`, and
        OSError."""
        where = f"{_place(record)}: image {record.name!r}"
        return in_time(lambda: _ends(self.locate(record), size), self._seconds, where)

    def _read(self, record: Record) -> bytes:
        path = self.locate(record)
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # opening a FIFO would wait for ever
                raise DataError(f"{_place(record)}: image {path} is a folder or a device, expected a file")
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise DataError(
                f"{_place(record)}: image {path} cannot be read ({error.strerror}), expected a file"
            ) from error

    def locate(self, record: Record) -> str:
        """The path of the image, links resolved and inside the folder; looked for once."""
        path = self._located.get(record.name)
        if path is None:
            path = self._located[record.name] = self._look_for(record)
        return path

    def _look_for(self, record: Record) -> str:
        parts = key_parts(record)
        path, is_link = self._by_path(parts) or self._by_unique_basename(record, parts[-1])
        real = os.path.realpath(path) if is_link or not self._is_plain(os.path.dirname(path)) else path
        if not real.startswith(os.path.join(self.root, "")):
            raise DataError(f"{_place(record)}: {path} is a link to {real}, expected an image inside {self.root}")
        return real

    def _is_plain(self, folder: str) -> bool:
        """Whether no part of the path `folder` is a link. It is looked at once: resolving each of a hundred thousand
        paths from its first part on takes seconds."""
        if folder not in self._plain_folders and os.path.realpath(folder) == folder:
            self._plain_folders.add(folder)
        return folder in self._plain_folders

    def holds(self, record: Record) -> bool:
        """Whether there is such an image, or several of its name."""
        parts = key_parts(record)
        return self._by_path(parts) is not None or parts[-1] in self._names()

    def _by_path(self, parts: List[str]) -> Optional[Tuple[str, bool]]:
        """What is there under a path, and whether it is a link."""
        for first in range(len(parts)):
            path = os.path.join(self.root, *parts[first:])
            with contextlib.suppress(OSError, ValueError):
                return path, stat.S_ISLNK(os.lstat(path).st_mode)
        return None

    def _by_unique_basename(self, record: Record, basename: str) -> Tuple[str, bool]:
        paths = self._names().get(basename, [])
        if not paths:
            elsewhere = "; --fetch_images 1 gets it from S3" if is_on_s3(record) else ""
            raise DataError(
                f"{_place(record)}: image {record.name!r} not found, "
                f"expected {basename!r} below {self.root}{elsewhere}",
                "missing-image",
            )
        if len(paths) > 1:
            raise DataError(
                f"{_place(record)}: image {record.name!r} may be {paths[0]} or {paths[1]} ({len(paths)} files of that "
                "name), expected one, or the path of the labels below the folder",
                "ambiguous-image",
            )
        return paths[0], os.path.islink(paths[0])

    def _names(self) -> Dict[str, List[str]]:
        if self._by_basename is None:  # two threads may both build it; they build the same
            self._by_basename = _files_by_basename(self.root)
        return self._by_basename


# gets s3:// addresses: for each a file with what is there, or why it cannot be had
Fetch = Callable[[Sequence[str]], Mapping[str, Union[Path, DataError]]]


class FetchedImages:
    """Images below a folder, and copies of those that their labels name on S3 and the folder lacks."""

    def __init__(self, folder: FolderImages, records: Sequence[Record], fetch: Fetch) -> None:
        self._folder = folder
        missing = [record.name for record in records if is_on_s3(record) and not folder.holds(record)]
        self._fetched = fetch(sorted(set(missing))) if missing else {}

    def read(self, record: Record) -> bytes:
        """The encoded image; a DataError names the record's place when it cannot be had."""
        if record.name not in self._fetched:
            return self._folder.read(record)
        with open(self.locate(record), "rb") as file:
            return file.read()

    def locate(self, record: Record) -> str:
        """The path of the image or of its copy."""
        found = self._fetched.get(record.name)
        if isinstance(found, DataError):
            raise DataError(f"{_place(record)}: image {found}", "missing-image")
        return self._folder.locate(record) if found is None else str(found)


class MemoryImages:
    """Encoded images by their names in the labels, kept in memory."""

    def __init__(self, images: Mapping[str, bytes]) -> None:
        self._images = dict(images)

    def read(self, record: Record) -> bytes:
        """The encoded image; a DataError names the record's place when there is none of that name."""
        if record.name not in self._images:
            raise DataError(
                f"{_place(record)}: image {record.name!r} not found, expected one of {len(self._images)} in memory",
                "missing-image",
            )
        return self._images[record.name]

    def locate(self, record: Record) -> str:
        """The name itself: there is no file."""
        return record.name


def is_on_s3(record: Record) -> bool:
    """Whether the labels name the image by its address on S3."""
    return record.name[:5].lower() == "s3://"


def key_parts(record: Record) -> List[str]:
    """The path of a record's image as parts, without the bucket; a DataError for a name that could leave its folder."""
    name = record.name
    scheme, separator, rest = name.partition("://")
    if separator and scheme.lower() != "s3":
        raise DataError(
            f"{_place(record)}: image {name!r}, expected s3://bucket/key or a relative path", "bad-image-name"
        )
    key = rest.partition("/")[2] if separator else name
    if "\0" in key or key.startswith("/"):
        raise DataError(
            f"{_place(record)}: image {name!r} is an absolute path or holds a NUL, expected a relative path",
            "bad-image-name",
        )
    parts = [part for part in key.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise DataError(
            f"{_place(record)}: image {name!r} leaves its folder by '..', expected a path inside it", "bad-image-name"
        )
    if not parts or key.endswith("/"):
        raise DataError(
            f"{_place(record)}: image {name!r} has no file name, expected s3://bucket/key or a relative path",
            "bad-image-name",
        )
    return parts


def _place(record: Record) -> str:
    return record.where or record.name


def _files_by_basename(root: str) -> Dict[str, List[str]]:
    """Paths below `root`, sorted, by their last part."""
    found: Dict[str, List[str]] = {}
    for folder, subfolders, names in os.walk(root):
        subfolders.sort()
        for name in sorted(names):
            found.setdefault(name, []).append(os.path.join(folder, name))
    return found


def _ends(path: str, size: int) -> Tuple[bytes, bytes]:
    if not os.path.isfile(path):
        return b"", b""
    with open(path, "rb", buffering=0) as file:
        head = file.read(size)
        if len(head) < size:
            return head, head
        file.seek(max(size, os.fstat(file.fileno()).st_size - size))
        return head, file.read(size) or head
