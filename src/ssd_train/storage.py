"""Files and folders that appear whole or not at all, and stay what they were written as.

A file is written under a temporary name beside its place, flushed to the disk, and renamed onto its place. A folder
likewise, with `checksums.json` written last: a folder without it was never finished. A kill at any moment leaves the
old or the new one, complete; what it leaves half done is removed by the next write to the same place.

One process writes to a place at a time; any number may read.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import shutil
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Callable, Dict, Iterator, List

from ssd_train.errors import CheckpointError, SsdTrainError

CHECKSUMS = "checksums.json"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_DIRECTORY_SYNC = (errno.EINVAL, errno.ENOTSUP)
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

    Raises:
        SsdTrainError: the disk is full (`needed` bytes at least), or the file cannot be written.
    """
    path = Path(path)
    temporary = _temporary(path)
    with _errors_of(path, needed):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
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
        _sync_directory(path.parent)


def write_text_atomic(path: Path, text: str) -> None:
    """`write_bytes_atomic` of text in UTF-8."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_json_atomic(path: Path, value: Any) -> None:
    """`write_bytes_atomic` of a JSON document, indented; NaN and infinity, which JSON does not have, are a ValueError."""
    write_text_atomic(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def publish_folder(target: Path, write: Callable[[Path], None], keep: int) -> None:
    """Put a new folder at `target`: `write(folder)` fills it out of sight, then it takes its place in one step.

    A folder published there earlier becomes the newest of `keep` previous ones beside it (`target.old-000001`, ...).
    Between the two renames `target` is missing; `published_folders` finds the previous one then.

    `target` is a sub-folder that can be renamed, not a mount point such as SageMaker's /opt/ml/model itself. An empty
    folder there is taken over; one that holds what this function did not write is refused, lest it be swept away.

    Raises:
        SsdTrainError: the disk is full, `target` cannot be written, or it is not a folder published earlier.
        Exception: whatever `write` raises; `target` is then as it was.
    """
    target = Path(target)
    new = _temporary(target)
    with _errors_of(target, 0):
        _refuse_foreign(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        new.mkdir()
    try:
        _fill(new, target, write)
        with _errors_of(target, 0):
            if _is_published(target):
                os.rename(target, _next_old(target))
            os.rename(new, target)
            _sync_directory(target.parent)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        _restore(target)
        raise
    with _errors_of(target, 0):
        for old in _old_folders(target)[keep:]:
            _discard(old, target)


def published_folders(target: Path) -> List[Path]:
    """The finished folders of `publish_folder(target, ...)`, newest first; empty where there is none.

    Finished is not undamaged: `verify_folder` tells.
    """
    target = Path(target)
    return [folder for folder in [target, *_old_folders(target)] if _is_published(folder)]


def verify_folder(folder: Path) -> None:
    """Compare every file of a published folder with its size and SHA-256.

    Raises:
        CheckpointError: the folder was never finished, or the file named is missing, truncated or changed.
    """
    folder = Path(folder)
    for name, expected in _listed(folder).items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{file}: is missing; {CHECKSUMS} beside it lists it")
        size = file.stat().st_size
        if size != expected["bytes"]:
            raise CheckpointError(f"{file}: has {size} bytes, {expected['bytes']} were written")
        found = sha256_of(file)
        if found != expected["sha256"]:
            raise CheckpointError(f"{file}: is damaged: its SHA-256 is {found}, {expected['sha256']} was written")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _fill(folder: Path, target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder, put all of it on the disk, and mark it as finished."""
    try:
        write(folder)
    except Exception as error:
        if _is_disk_full(error, folder):
            raise _full_disk(target, _size(folder)) from error
        raise
    with _errors_of(target, _size(folder)):
        listed = {}
        for file in _files(folder):
            _sync_file(file)
            listed[_name_in(folder, file)] = {"sha256": sha256_of(file), "bytes": file.stat().st_size}
        for directory in [path for path in folder.rglob("*") if path.is_dir()]:
            _sync_directory(directory)
        write_json_atomic(folder / CHECKSUMS, {"files": listed})


def _listed(folder: Path) -> Dict[str, Dict[str, Any]]:
    """Files of a published folder by name, from its checksums; a name that leads out of the folder is an error."""
    marker = folder / CHECKSUMS
    try:
        files = json.loads(marker.read_text("utf-8"))["files"]
        listed = {name: {"sha256": entry["sha256"], "bytes": entry["bytes"]} for name, entry in files.items()}
    except FileNotFoundError:
        raise CheckpointError(f"{marker}: is missing: the folder was not written whole") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{marker}: cannot be read as a list of checksums ({error})") from error
    for name in listed:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise CheckpointError(f"{marker}: lists {name!r}, which is not inside the folder")
    return listed


def _refuse_foreign(target: Path) -> None:
    if target.is_dir() and any(target.iterdir()) and not _is_published(target):
        raise SsdTrainError(f"{target}: holds other files: expected no folder, an empty one, or one written earlier")
    if target.exists() and not target.is_dir():
        raise SsdTrainError(f"{target}: is a file, expected a folder")


def _restore(target: Path) -> None:
    """Put the previous folder back where it was moved aside and the new one did not get in."""
    old = _old_folders(target)
    if old and not target.exists():
        os.rename(old[0], target)


def _discard(old: Path, target: Path) -> None:
    """Remove a published folder; one in which somebody keeps files of their own is left as it is."""
    try:
        ours = {*_listed(old), CHECKSUMS}
    except CheckpointError:  # it cannot be told any more what is whose
        return
    if ours.issuperset(_name_in(old, file) for file in _files(old)):
        # Renamed first, so that a kill in between leaves a leftover to remove and no folder that looks finished.
        doomed = _temporary(target)
        os.rename(old, doomed)
        shutil.rmtree(doomed)


def _is_published(folder: Path) -> bool:
    return (folder / CHECKSUMS).is_file()


def _old_folders(target: Path) -> List[Path]:
    """Previous folders of a place, newest first."""
    pattern = re.compile(re.escape(target.name) + r"\.old-\d{6,}")
    siblings = target.parent.iterdir() if target.parent.is_dir() else []
    old = [path for path in siblings if pattern.fullmatch(path.name) and _is_published(path)]
    return sorted(old, key=_number, reverse=True)


def _next_old(target: Path) -> Path:
    number = max(map(_number, _old_folders(target)), default=0) + 1
    return target.with_name(f"{target.name}.old-{number:06d}")


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.tmp-{os.getpid()}")


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary files and folders of `path` whose process was killed, or had the number that is ours now."""
    for leftover in path.parent.glob(f"{glob.escape(path.name)}.tmp-[0-9]*"):
        if _number(leftover) == os.getpid() or not _is_alive(_number(leftover)):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _number(path: Path) -> int:
    return int(path.name.rsplit("-", 1)[1])


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # signal 0 asks only
    except OSError as error:
        return error.errno == errno.EPERM  # somebody else's
    return True


def _files(folder: Path) -> List[Path]:
    return [path for path in sorted(folder.rglob("*")) if not path.is_dir()]


def _name_in(folder: Path, file: Path) -> str:
    return file.relative_to(folder).as_posix()


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in _files(folder))


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directory(path: Path) -> None:
    try:
        _sync_file(path)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:  # some network file systems have none, and need none
            raise


def _is_disk_full(error: Exception, folder: Path) -> bool:
    # MXNet's C++ writers say only "FileStream.Write incomplete", so the disk is asked as well.
    return getattr(error, "errno", None) in _FULL or shutil.disk_usage(folder).free < _TINY


def _full_disk(path: Path, needed: int) -> SsdTrainError:
    existing = next(parent for parent in path.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(existing).free
    return SsdTrainError(
        f"{path}: the disk is full: at least {needed} bytes are needed, {free} are free; "
        "nothing was changed, what stood there before is kept"
    )


@contextlib.contextmanager
def _errors_of(path: Path, needed: int) -> Iterator[None]:
    """Turn the system's errors while `path` is written into one line for the user."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and not _are_related(Path(error.filename), path.parent):
            raise  # the caller was reading something else in between
        if error.errno in _FULL:
            raise _full_disk(path, needed) from error
        raise SsdTrainError(f"{path}: cannot be written: {error.strerror or error}") from error


def guarded_write(path: Path, write: Callable[[], None], needed: int) -> None:
    """Let a library `write` the file `path` itself, and flush it to the disk; a full disk is told with the `needed` bytes,
    whatever kind of error the library makes of it."""
    try:
        write()
    except Exception as error:
        if _is_disk_full(error, Path(path).parent):
            raise _full_disk(path, needed) from error
        raise
    with _errors_of(path, needed):
        _sync_file(path)


def move_into_place(temporary: Path, path: Path) -> None:
    """Rename a file that is on the disk already onto its place."""
    with _errors_of(path, 0):
        os.replace(temporary, path)
        _sync_directory(path.parent)


def _are_related(one: Path, other: Path) -> bool:
    one, other = one.absolute(), other.absolute()
    return one in [other, *other.parents] or other in one.parents
