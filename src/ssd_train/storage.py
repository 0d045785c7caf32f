"""Files that appear whole or not at all, and stay what they were written as.

A file is written under a temporary name beside its place, flushed to the disk, and renamed onto its place. A kill at
any moment leaves the old or the new one, complete; what it leaves half done is removed by the next write to that place.

That is for regular files. Links are followed: what they lead to is replaced, and they stay. A device, a pipe and a file
that this process has open (/dev/stdout, /dev/fd/N) are written to as they are, piece by piece, as a shell does.

One process writes to a place at a time; any number may read. Whole folders: published.py.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, Callable, Dict, Iterator, Union

from ssd_train.errors import SsdTrainError, WeightsError

OWN_SUM = "sha256"  # of a JSON document itself, in it
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_DIRECTORY_SYNC = (errno.EINVAL, errno.ENOTSUP)
STANDARD_OUTPUT = Path("/dev/stdout")  # wherever it is asked for: that node need not be there
_LINKS = 40  # followed at most, as by Linux
_TINY = 64 * 1024  # bytes; with less than this free, a writer's failure is the disk's


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Write `data` to the file `path`, whole or not at all; a file of that name is replaced, and kept on failure.

    Raises:
        SsdTrainError: the disk is full (says how many bytes were needed), or the file cannot be written.
    """
    with open_atomic(path, len(data)) as file:
        file.write(data)


@contextlib.contextmanager
def open_atomic(path: Path, needed: int = 0) -> Iterator[BinaryIO]:
    """A binary file to write piece by piece, that stands under `path` once the block ends, and not at all if it raises.
    A device or a pipe gets the pieces as they come.

    Raises:
        SsdTrainError: the disk is full (`needed` bytes at least), or the file cannot be written.
        BrokenPipeError: whoever reads standard output has left.
    """
    place = followed(path)
    if isinstance(place, int) or _is_stream(place):
        with _errors_of_stream(Path(path)), _stream_to(place) as file:
            yield file
        return
    path = place
    temporary = temporary_beside(path)
    with errors_of(path, needed):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        sync_directory(path.parent)


def write_text_atomic(path: Path, text: str) -> None:
    """`write_bytes_atomic` of text in UTF-8."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_json_atomic(path: Path, value: Any) -> None:
    """`write_bytes_atomic` of a JSON document, indented. NaN and infinity, which JSON does not know: ValueError."""
    write_text_atomic(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def guarded_write(path: Path, write: Callable[[], None], needed: int) -> None:
    """Let a library `write` the file `path` itself, and flush it to the disk.

    Raises:
        SsdTrainError: the disk is full (`needed` bytes at least), whatever kind of error the library makes of that.
        Exception: whatever else `write` raises.
    """
    try:
        write()
    except Exception as error:
        if is_disk_full(error, Path(path).parent):
            raise full_disk(path, needed) from error
        raise
    with errors_of(path, needed):
        sync_file(path)


@contextlib.contextmanager
def prepared_file(path: Path) -> Iterator[Path]:
    """Where a library may write the file that takes the place `path` once the block ends, and does not if it raises.

    Raises:
        SsdTrainError: as `open_atomic`.
    """
    place = followed(path)
    if isinstance(place, int) or _is_stream(place):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / path.name
            with open(Path(folder) / path.name, "rb") as source, open_atomic(path) as file:
                shutil.copyfileobj(source, file)
        return
    with errors_of(place, 0):
        place.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(place)
    prepared = temporary_beside(place)
    try:
        yield prepared
        move_into_place(prepared, place)
    finally:
        with contextlib.suppress(FileNotFoundError):
            prepared.unlink()


def followed(path: Path) -> Union[Path, int]:
    """Follow symbolic links: return the path of what is written to, which need not exist, or the number of a file that
    this process has open.

    Raises:
        SsdTrainError: the links lead in a circle.
    """
    if path == STANDARD_OUTPUT:
        return 1
    place = Path(path)
    for _ in range(_LINKS):
        # such links have no path to follow: they may lead to a pipe, a socket or a file that was removed
        folder = os.path.realpath(place.parent)
        if folder == f"/proc/{os.getpid()}/fd" and place.name.isdigit():
            return int(place.name)
        if not os.path.islink(place):
            return place
        place = Path(folder) / os.readlink(place)
    raise SsdTrainError(f"{path}: found links that lead in a circle, expected a place to write to")


def is_standard_output(path: object) -> bool:
    """Whether `path` is a path that leads to this process's standard output."""
    return isinstance(path, Path) and followed(path) == 1


def is_stream(path: Path) -> bool:
    """Whether what is written to `path` goes through a device, a pipe, a socket or an open file of this process, so
    that it has no name to tell its format by, and no other files beside it."""
    place = followed(path)
    return isinstance(place, int) or _is_stream(place)


def _is_stream(place: Path) -> bool:
    try:
        mode = os.stat(place).st_mode
    except OSError:  # not there yet, or the write says why not
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@contextlib.contextmanager
def _stream_to(place: Union[Path, int]) -> Iterator[BinaryIO]:
    descriptor = os.dup(place) if isinstance(place, int) else os.open(place, os.O_WRONLY)
    with os.fdopen(descriptor, "wb") as file:
        yield file


@contextlib.contextmanager
def _errors_of_stream(path: Path) -> Iterator[None]:
    try:
        with errors_of(path, 0):
            yield
    except SsdTrainError as error:
        if isinstance(error.__cause__, BrokenPipeError) and is_standard_output(path):
            raise error.__cause__ from None
        raise


def move_into_place(temporary: Path, path: Path) -> None:
    """Rename a file that is on the disk already onto its place."""
    with errors_of(path, 0):
        os.replace(temporary, path)
        sync_directory(path.parent)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def with_sum(document: Dict[str, Any]) -> Dict[str, Any]:
    """A JSON document with a SHA-256 of what it says, for `check_sum`."""
    return {**document, OWN_SUM: _sum_of(document)}


def check_sum(path: Path, document: Dict[str, Any]) -> None:
    """A WeightsError when the document read from `path` is not what was written; one without a sum is taken as it
    is."""
    written = document.get(OWN_SUM)
    if written is not None and written != _sum_of(document):
        raise WeightsError(
            f"{path}: found SHA-256 {_sum_of(document)[:12]}…, expected {str(written)[:12]}…: the file is damaged, or "
            f"was edited: without its {OWN_SUM!r} it is taken as it is"
        )


def _sum_of(document: Dict[str, Any]) -> str:
    """SHA-256 of what a document says, whatever the order of its keys."""
    said = {name: value for name, value in document.items() if name != OWN_SUM}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode("utf-8")).hexdigest()


def temporary_beside(path: Path) -> Path:
    """Where this process prepares what will stand at `path`: on the same file system, so that a rename is one step."""
    return path.with_name(f"{path.name}.tmp-{os.getpid()}")


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files and folders of `path` whose process was killed, or had the number that is ours now."""
    for leftover in path.parent.glob(f"{glob.escape(path.name)}.tmp-*"):
        pid = leftover.name.rpartition("-")[2]
        if pid.isdigit() and (int(pid) == os.getpid() or not _is_alive(int(pid))):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def sync_file(path: Path) -> None:
    """Flush a file's bytes to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Flush the names in a folder to the disk; without it a rename may be lost in a power cut."""
    try:
        sync_file(path)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:  # some network file systems have none, and need none
            raise


@contextlib.contextmanager
def errors_of(path: Path, needed: int) -> Iterator[None]:
    """Turn the system's errors while `path` is written into one line for the user."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and not _are_related(Path(error.filename), path.parent):
            raise  # the caller was reading something else in between
        if error.errno in _FULL:
            raise full_disk(path, needed) from error
        raise SsdTrainError(f"{path}: cannot be written: {error.strerror or error}") from error


def is_disk_full(error: Exception, folder: Path) -> bool:
    """Whether a failure to write below `folder` came from a full disk."""
    # MXNet's C++ writers say only "FileStream.Write incomplete", so the disk is asked as well.
    return getattr(error, "errno", None) in _FULL or _free(folder) < _TINY


def full_disk(path: Path, needed: int) -> SsdTrainError:
    """The error that says so, with the bytes `needed` at least and those that are free."""
    return SsdTrainError(
        f"{path}: the disk is full: at least {needed} bytes are needed, {_free(path.parent)} are free; "
        "nothing was changed, what stood there before is kept"
    )


def _free(folder: Path) -> int:
    """Free bytes of the disk that a folder is on, or would be: somebody may have taken it away."""
    folder = Path(folder).absolute()
    return shutil.disk_usage(next(place for place in [folder, *folder.parents] if place.is_dir())).free


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # signal 0 asks only
    except OSError as error:
        return error.errno == errno.EPERM  # somebody else's
    return True


def _are_related(one: Path, other: Path) -> bool:
    one, other = one.absolute(), other.absolute()
    return one in [other, *other.parents] or other in one.parents


def require_writable(folder: Path) -> None:
    """See that `folder` can be made and written to, before the work whose results it is for; nothing is left behind.

    Raises:
        SsdTrainError: a file is in its place, or nothing can be written there.
    """
    folder = Path(folder).absolute()
    with errors_of(folder, 0):  # a folder on the way to it may not be entered
        there = next(place for place in [folder, *folder.parents] if place.exists())
    if not there.is_dir():
        raise SsdTrainError(f"{there}: is a file, expected a folder that can be written to")
    probe = there / f".writable-{os.getpid()}"
    with errors_of(folder, 0):
        probe.touch()
        probe.unlink()
