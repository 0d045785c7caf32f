"""Archives of models, model.tar.gz as SageMaker makes them, unpacked without trust in who packed them.

An archive is read once, from its beginning to its end. What it unpacks to is limited, whatever it claims; names that
lead out of the folder, links, devices and sparse files are refused, and modes, owners and times are not taken over.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Iterator, NamedTuple, Set

from ssd_train import storage
from ssd_train.errors import SsdTrainError, WeightsError

_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20
_HEADER_LIMIT = 16 << 20  # bytes that tarfile may ask for at once: all of a long name or extended header
_SMALL = 16 << 20  # bytes below which any ratio is harmless
_DAMAGE = (tarfile.TarError, EOFError, zlib.error, ValueError, OverflowError, KeyError)


class Limits(NamedTuple):
    """What an archive may unpack to: bytes in all, files and folders, and bytes for each byte of the archive."""

    size: int = 4 << 30
    members: int = 10_000
    ratio: float = 200.0


FOR_MODELS = Limits()


def is_archive(path: Path) -> bool:
    """Whether `path` is a file in gzip's format; a WeightsError when that cannot be read."""
    try:
        if not path.is_file():
            return False
        with open(path, "rb") as file:
            return file.read(2) == _GZIP_MAGIC
    except OSError as error:
        raise _unreadable(path, error) from error


@contextlib.contextmanager
def opened_model(path: Path) -> Iterator[Path]:
    """`path` itself, or what the archive there holds: a folder for as long as the block lasts.

    A folder with nothing but one archive, as SageMaker lays a model channel out, counts as that archive.

    Raises:
        WeightsError: the archive is damaged, or holds what no model does, or `path` cannot be read. Errors within the
            block name files by the archive that they are in.
    """
    try:
        inside = list(path.iterdir()) if path.is_dir() else []
    except OSError as error:
        raise _unreadable(path, error) from error
    archive = inside[0] if len(inside) == 1 and is_archive(inside[0]) else path
    if not is_archive(archive):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="ssd_train-") as folder:
        try:
            unpack_archive(archive, Path(folder))
            yield Path(folder)
        except SsdTrainError as error:
            error.args = tuple(str(part).replace(folder, str(archive)) for part in error.args)
            raise


def unpack_archive(path: Path, folder: Path, limits: Limits = FOR_MODELS) -> None:
    """Unpack the .tar.gz file `path` into `folder`, which is made if need be; it may be half full after an error.

    Raises:
        WeightsError: the archive is damaged, leads out of `folder`, holds links or devices, or unpacks to more than
            `limits`.
        SsdTrainError: the disk is full, or `folder` cannot be written.
    """
    most = min(limits.size, max(int(path.stat().st_size * limits.ratio), _SMALL))
    seen: Set[PurePosixPath] = set()  # files; folders may come again
    with contextlib.ExitStack() as stack:
        stack.enter_context(_damage_named(path))
        stream = _Limited(stack.enter_context(gzip.open(path)), most, path)
        archive = stack.enter_context(tarfile.open(fileobj=stream, mode="r:"))
        for count, member in enumerate(archive, start=1):
            name = _checked_name(member, path)
            if seen.intersection([name, *name.parents]):
                raise WeightsError(f"{path}: holds {member.name!r} twice, or below a file, expected each name once")
            if count > limits.members:
                raise WeightsError(f"{path}: holds more than {limits.members} files, expected a model's archive")
            _unpack(archive, member, folder / name)
            seen.update([name] if member.isreg() else [])
        while stream.read(_CHUNK):  # the checksum stands at the very end
            pass


def _unpack(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    if member.isdir():
        with storage.errors_of(target, 0):
            target.mkdir(parents=True, exist_ok=True)
        return
    with storage.errors_of(target, member.size):
        target.parent.mkdir(parents=True, exist_ok=True)
        # "x": never through something that is there already
        with open(target, "xb") as file:
            shutil.copyfileobj(archive.extractfile(member), file, _CHUNK)  # type: ignore[arg-type]  # None for links
            if file.tell() != member.size:
                raise EOFError("it ends within a file")


def _checked_name(member: tarfile.TarInfo, path: Path) -> PurePosixPath:
    """The name below the folder; a WeightsError for what has no business in a model's archive."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\0" in member.name:
        raise WeightsError(f"{path}: holds {member.name!r}, which leads out of its folder; nothing of it is used")
    if not (member.isdir() or member.isreg()) or member.issparse():
        raise WeightsError(
            f"{path}: holds {member.name!r}, a link, a device or a sparse file, expected files and folders"
        )
    return name


class _Limited(io.RawIOBase):
    """A stream read forward only and no further than `most` bytes, in pieces of a bounded size."""

    def __init__(self, file: gzip.GzipFile, most: int, path: Path) -> None:
        self._file, self._most, self._path = file, most, path
        self._position = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always, though only forward."""
        return True

    def tell(self) -> int:
        """Bytes read or passed over so far."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Forward only: an archive that sends its reader back could do so for ever."""
        if whence != os.SEEK_SET or offset < self._position:
            raise tarfile.ReadError("it points back into itself")
        while self._position < offset:
            if not self.read(min(offset - self._position, _CHUNK)):
                break
        return self._position

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes."""
        if not 0 <= size <= _HEADER_LIMIT:
            raise tarfile.ReadError(f"it has a header of {size} bytes")
        try:
            data = self._file.read(size)
        except gzip.BadGzipFile as error:  # an OSError, which would be taken for one of the file that is written
            raise tarfile.ReadError(str(error)) from error
        self._position += len(data)
        if self._position > self._most:
            raise WeightsError(f"{self._path}: unpacks to more than {self._most} bytes, expected a model's archive")
        return data


def _unreadable(path: Path, error: OSError) -> WeightsError:
    return WeightsError(f"{path}: cannot be read ({error.strerror}), expected a readable model or weights file")


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise WeightsError(f"{path}: damaged, or no .tar.gz archive: {' '.join(str(error).split())}") from error
