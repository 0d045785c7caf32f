"""Safe extraction of model.tar.gz archives from untrusted sources.

An archive is read once, sequentially. The extracted size is limited; paths outside the folder, links, devices and
sparse files are rejected; modes, owners and times are ignored.
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

from ssd_train.errors import SsdTrainError, WeightsError, reading
from ssd_train.storage import atomic

_EXPECTED = "a readable model or weights file"
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20
_HEADER_LIMIT = 16 << 20  # bytes that tarfile may read at once: a long name or an extended header
_SMALL = 16 << 20  # bytes; extracted sizes below are allowed with any ratio
_DAMAGE = (tarfile.TarError, EOFError, zlib.error, ValueError, OverflowError, KeyError)


class Limits(NamedTuple):
    """Limits of extraction: total bytes, number of files and folders, and compression ratio."""

    size: int = 4 << 30
    members: int = 10_000
    ratio: float = 200.0


FOR_MODELS = Limits()


def is_archive(path: Path) -> bool:
    """Return whether `path` is a gzip file; raises WeightsError if it is unreadable."""
    with reading(path, _EXPECTED, WeightsError):
        if not path.is_file():
            return False
        with open(path, "rb") as file:
            return file.read(2) == _GZIP_MAGIC


@contextlib.contextmanager
def open_model(path: Path) -> Iterator[Path]:
    """Yield the folder of a model: `path`, or if that is an archive, a temporary folder with its content.

    A folder that contains only one archive, as SageMaker's model channel does, counts as that archive. In errors raised
    within the block, the archive's path replaces that of the temporary folder.

    Raises:
        WeightsError: `path` is unreadable, or the archive is damaged or not a model's.
    """
    with reading(path, _EXPECTED, WeightsError):
        entries = list(path.iterdir()) if path.is_dir() else []
    archive = entries[0] if len(entries) == 1 and is_archive(entries[0]) else path
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
    """Extract the .tar.gz file `path` into `folder`, which is created if missing; an error may leave it incomplete.

    Raises:
        WeightsError: the archive is damaged, has paths outside `folder`, links or devices, or exceeds `limits`.
        SsdTrainError: the disk is full, or `folder` cannot be written.
    """
    most = min(limits.size, max(int(path.stat().st_size * limits.ratio), _SMALL))
    seen: Set[PurePosixPath] = set()  # files; folders may be repeated
    with contextlib.ExitStack() as stack:
        stack.enter_context(_damage_named(path))
        stream = _Limited(stack.enter_context(gzip.open(path)), most, path)
        archive = stack.enter_context(tarfile.open(fileobj=stream, mode="r:"))
        for count, member in enumerate(archive, start=1):
            name = _checked_name(member, path)
            if seen.intersection([name, *name.parents]):
                raise WeightsError(f"{path}: found {member.name!r} twice or inside a file, expected unique names")
            if count > limits.members:
                raise WeightsError(f"{path}: found more than {limits.members} files, expected a model's archive")
            _unpack(archive, member, folder / name)
            seen.update([name] if member.isreg() else [])
        while stream.read(_CHUNK):  # gzip's checksum is at the end
            pass


def _unpack(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    if member.isdir():
        with atomic.translate_io_errors(target, 0):
            target.mkdir(parents=True, exist_ok=True)
        return
    with atomic.translate_io_errors(target, member.size):
        target.parent.mkdir(parents=True, exist_ok=True)
        # "x": never write through an existing file or link
        with open(target, "xb") as file:
            shutil.copyfileobj(archive.extractfile(member), file, _CHUNK)  # type: ignore[arg-type]  # None for links
            if file.tell() != member.size:
                raise EOFError("truncated file")


def _checked_name(member: tarfile.TarInfo, path: Path) -> PurePosixPath:
    """Return the relative path of a member; raises WeightsError for unsafe ones."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\0" in member.name:
        raise WeightsError(f"{path}: found {member.name!r}, which leads out of its folder, expected relative paths")
    if not (member.isdir() or member.isreg()) or member.issparse():
        raise WeightsError(
            f"{path}: found {member.name!r}, a link, a device or a sparse file, expected files and folders"
        )
    return name


class _Limited(io.RawIOBase):
    """Sequential stream with a maximum length of `most` bytes and a maximum size per read."""

    def __init__(self, file: gzip.GzipFile, most: int, path: Path) -> None:
        self._file, self._most, self._path = file, most, path
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True; tarfile requires it, but seeking back fails."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Seek forward; seeking back is an error because an archive could do so for ever."""
        if whence != os.SEEK_SET or offset < self._position:
            raise tarfile.ReadError("it requires seeking back")
        while self._position < offset:
            if not self.read(min(offset - self._position, _CHUNK)):
                break
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes."""
        if not 0 <= size <= _HEADER_LIMIT:
            raise tarfile.ReadError(f"invalid header of {size} bytes")
        try:
            data = self._file.read(size)
        except gzip.BadGzipFile as error:  # an OSError, which would be attributed to the file being written
            raise tarfile.ReadError(str(error)) from error
        self._position += len(data)
        if self._position > self._most:
            raise WeightsError(f"{self._path}: extracts to more than {self._most} bytes, expected a model's archive")
        return data


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise WeightsError(f"{path}: damaged, or no .tar.gz archive: {' '.join(str(error).split())}") from error
