"""Sources of encoded images: a folder, a folder with downloads from S3, or memory."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple, Union

from ssd_train.data.file_names import IMAGE_FORMATS, folded, is_image_name, is_plain, paths_below, readings
from ssd_train.data.structures import LabeledImage
from ssd_train.environment import read_seconds
from ssd_train.errors import DataError, locate_errors, reading
from ssd_train.parallel import call_with_timeout


class FolderImages:
    """Images below a folder, found by their names in the labels.

    ``s3://bucket/a/b/c.jpg`` and ``a/b/c.jpg`` are equivalent. The image is the first that exists of a/b/c.jpg, b/c.jpg
    and c.jpg in the folder; else the only file named c.jpg anywhere below it; else the only one whose name differs in
    case or Unicode form; else, for a name without an image extension, the only one that differs in the extension. Of
    several files, the one that shares the longest tail of the path is chosen. `file_names.readings` describes other
    URLs, absolute paths and backslashes. S3 keys are literal: ``%20`` and ``+`` are not decoded.

    Names and links that lead out of the folder are errors, and so is a file that cannot be read within
    environment.read_seconds().
    """

    def __init__(self, root: "str | os.PathLike[str]") -> None:
        self.root = os.path.realpath(os.fspath(root))
        if not os.path.isdir(self.root):
            raise DataError(f"{os.fspath(root)}: not found or not a folder, expected a folder of images")
        with reading(os.fspath(root), "a readable folder of images"):
            os.scandir(self.root).close()  # otherwise all images would be reported as missing
        self._index: Optional[FileIndex] = None
        self._plain_folders: Set[str] = set()
        self._located: Dict[str, str] = {}
        self._seconds = read_seconds()

    def read(self, record: LabeledImage) -> bytes:
        """Return the encoded image.

        Raises:
            DataError: The image is not available; the message names the record's place.
        """
        return call_with_timeout(lambda: self._read(record), self._seconds, f"{record.location}: image {record.name!r}")

    def read_head_and_tail(self, record: LabeledImage, size: int) -> Tuple[bytes, bytes]:
        """Return the first and last `size` bytes of the encoded image.

        They are empty if the path is not a regular file.

        Raises:
            DataError: The image is not found, or reading takes too long.
            OSError: The file cannot be read.
        """
        where = f"{record.location}: image {record.name!r}"
        return call_with_timeout(lambda: _ends(self.locate(record), size), self._seconds, where)

    def _read(self, record: LabeledImage) -> bytes:
        path = self.locate(record)
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # opening a FIFO would block forever
                raise DataError(f"{record.location}: image {path} is a folder or a device, expected a file")
            with open(path, "rb", buffering=0) as file:
                return file.read()
        except OSError as error:
            raise DataError(
                f"{record.location}: image {path} cannot be read ({error.strerror or error}), expected a file"
            ) from error

    def locate(self, record: LabeledImage) -> str:
        """Return the resolved path of the image; the result is cached.

        Raises:
            DataError: The image is missing, ambiguous, or outside the folder.
        """
        path = self._located.get(record.name)
        if path is None:
            path = self._located[record.name] = self._resolve(record)
        return path

    def _resolve(self, record: LabeledImage) -> str:
        paths = _readings(record)
        path, is_link = self._by_path(paths) or self._by_name(record, paths)
        real = os.path.realpath(path) if is_link or not self._is_plain(os.path.dirname(path)) else path
        if not real.startswith(os.path.join(self.root, "")):
            raise DataError(
                f"{record.location}: {path} is a link to {real}, expected an image inside {self.root}", "missing-image"
            )
        return real

    def _is_plain(self, folder: str) -> bool:
        """Return whether no part of the path `folder` is a link.

        A positive answer is cached: resolving 100 000 paths from the root takes seconds.
        """
        if folder not in self._plain_folders and os.path.realpath(folder) == folder:
            self._plain_folders.add(folder)
        return folder in self._plain_folders

    def portable_name(self, record: LabeledImage) -> str:
        """Return the image's name in a form that other programs read.

        This is the name in the labels, unless it is another URL, an absolute path, or a spelling that differs from the
        file's. Then it is the path relative to the folder.
        """
        paths = _readings(record)
        if is_plain(record.name) and self._by_path(paths[:1]):
            return record.name
        match = self._by_path(paths) or next(((f[0], False) for f in map(self.index.find, paths) if len(f) == 1), None)
        if match is None:
            return portable_name(record)
        same = is_plain(record.name) and os.path.basename(match[0]) == paths[0][-1]
        return record.name if same else os.path.relpath(match[0], self.root).replace(os.sep, "/")

    def contains(self, record: LabeledImage) -> bool:
        """Return whether the folder contains the image, or several candidates."""
        paths = _readings(record)
        return self._by_path(paths) is not None or any(self.index.find(path) for path in paths)

    def _by_path(self, paths: Sequence[List[str]]) -> Optional[Tuple[str, bool]]:
        """Return the first existing path and whether it is a link, or None."""
        for parts in paths:
            for first in range(len(parts)):
                path = os.path.join(self.root, *parts[first:])
                try:
                    return path, stat.S_ISLNK(os.lstat(path).st_mode)
                except (OSError, ValueError):
                    continue
        return None

    def _by_name(self, record: LabeledImage, paths: Sequence[List[str]]) -> Tuple[str, bool]:
        basename = paths[0][-1]
        files = next(filter(None, map(self.index.find, paths)), [])
        if not files:
            elsewhere = "; --fetch_images 1 gets it from S3" if is_on_s3(record) else ""
            raise DataError(
                f"{record.location}: image {record.name!r} not found, "
                f"expected {basename!r} below {self.root}{elsewhere}",
                "missing-image",
            )
        if len(files) > 1:
            raise DataError(
                f"{record.location}: image {record.name!r} may be {files[0]} or {files[1]} ({len(files)} files of that "
                "name), expected one, or the path of the labels below the folder",
                "ambiguous-image",
            )
        return files[0], os.path.islink(files[0])

    @property
    def index(self) -> "FileIndex":
        """Index of all files below the folder, built on first use."""
        if self._index is None:  # no lock: if two threads both build it, the results are equal
            self._index = FileIndex(self.root, paths_below(self.root))
        return self._index


class FileIndex:
    """Index of the files below a folder by name.

    A name is matched exactly, then ignoring case and Unicode form, then without an image extension.
    """

    def __init__(self, root: str, files: Iterable[str]) -> None:
        self._root = root
        self._exact: Dict[str, List[str]] = {}
        self._folded: Dict[str, List[str]] = {}
        self._stems: Dict[str, List[str]] = {}
        for path in files:
            name = os.path.basename(path)
            self._exact.setdefault(name, []).append(path)
            key = folded(name)
            self._folded.setdefault(key, []).append(path)
            stem, ending = os.path.splitext(key)
            if ending in IMAGE_FORMATS:
                self._stems.setdefault(stem, []).append(path)

    def find(self, parts: Sequence[str]) -> List[str]:
        """Return the paths that a name can stand for; several if it is ambiguous.

        An exact match precedes one that differs in case or Unicode form, which precedes one without extension. Of
        several files those are returned that share the longest tail of the path.

        Args:
            parts: The name as parts of a path.
        """
        name = parts[-1]
        files = self._exact.get(name) or self._folded.get(folded(name))
        if not files and not is_image_name(name):
            files = self._stems.get(folded(name))
        return self._nearest(files, parts[:-1]) if files else []

    def pictures(self, stem: str) -> List[str]:
        """Return the paths of images whose names without extension are `stem`.

        Exact matches precede those that differ in case or Unicode form, and these precede files without an extension.
        """
        files = self._stems.get(folded(stem), [])
        exact = [path for path in files if os.path.splitext(os.path.basename(path))[0] == stem]
        return exact or files or self._exact.get(stem, [])

    def _nearest(self, paths: List[str], folders: Sequence[str]) -> List[str]:
        if len(paths) < 2:
            return paths
        wanted = [folded(part) for part in folders]
        shared = [shared_tail(self._folders(path), wanted) for path in paths]
        return [path for path, count in zip(paths, shared) if count == max(shared)]

    def _folders(self, path: str) -> List[str]:
        return [folded(part) for part in os.path.relpath(path, self._root).split(os.sep)[:-1]]


def shared_tail(a: Sequence[str], b: Sequence[str]) -> int:
    """Count the equal parts at the end of two paths."""
    count = 0
    for left, right in zip(reversed(a), reversed(b)):
        if left != right:
            break
        count += 1
    return count


# takes s3:// URLs; returns for each the downloaded file or the error
Fetch = Callable[[Sequence[str]], Mapping[str, Union[Path, DataError]]]


class FetchedImages:
    """Images below a folder, and downloads from S3 of those missing there."""

    def __init__(self, folder: FolderImages, records: Sequence[LabeledImage], fetch: Fetch) -> None:
        self._folder = folder
        missing = [record.name for record in records if is_on_s3(record) and not folder.contains(record)]
        self._fetched = fetch(sorted(set(missing))) if missing else {}

    def read(self, record: LabeledImage) -> bytes:
        """Return the encoded image.

        Raises:
            DataError: The image is not available; the message names the record's place.
        """
        if record.name not in self._fetched:
            return self._folder.read(record)
        with open(self.locate(record), "rb") as file:
            return file.read()

    def locate(self, record: LabeledImage) -> str:
        """Return the path of the image or of its download.

        Raises:
            DataError: The image is not available.
        """
        fetched = self._fetched.get(record.name)
        if isinstance(fetched, DataError):
            raise DataError(f"{record.location}: image {fetched}", "missing-image")
        return self._folder.locate(record) if fetched is None else str(fetched)


class MemoryImages:
    """Encoded images in memory, by their names in the labels."""

    def __init__(self, images: Mapping[str, bytes]) -> None:
        self._images = dict(images)

    def read(self, record: LabeledImage) -> bytes:
        """Return the encoded image.

        Raises:
            DataError: There is no image of that name; the message names the record's place.
        """
        if record.name not in self._images:
            raise DataError(
                f"{record.location}: image {record.name!r} not found, expected one of {len(self._images)} in memory",
                "missing-image",
            )
        return self._images[record.name]

    def locate(self, record: LabeledImage) -> str:
        """Return the name, since there is no file."""
        return record.name


def is_on_s3(record: LabeledImage) -> bool:
    """Return whether the image's name is an S3 URL."""
    return record.name[:5].lower() == "s3://"


def key_parts(record: LabeledImage) -> List[str]:
    """Return the parts of the image's path, without bucket, host or root.

    Raises:
        DataError: The name has no file name or could leave its folder.
    """
    paths = _readings(record)
    return paths[0 if is_plain(record.name) else -1]


def portable_name(record: LabeledImage) -> str:
    """Return the image's name in a form that other programs read, without a file."""
    return record.name if is_plain(record.name) else "/".join(key_parts(record))


def _readings(record: LabeledImage) -> List[List[str]]:
    with locate_errors(record.location):
        return readings(record.name)


def _ends(path: str, size: int) -> Tuple[bytes, bytes]:
    if not os.path.isfile(path):
        return b"", b""
    with open(path, "rb", buffering=0) as file:
        head = file.read(size)
        if len(head) < size:
            return head, head
        file.seek(max(size, os.fstat(file.fileno()).st_size - size))
        return head, file.read(size) or head
