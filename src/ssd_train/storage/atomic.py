"""Atomic file writes, and checksums of JSON documents.

A file is written under a temporary name in the same folder, synced to disk and renamed. If the process is killed, the
old or the new file is complete, and the next write to that path removes the temporary file.

Symbolic links are followed and kept; their target is replaced. Devices, pipes and open files of this process
(/dev/stdout, /dev/fd/N) are written to directly.

Only one process may write to a path at a time; any number may read. `write_dir_atomic` does the same for folders.
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
import stat
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Callable, Collection, Dict, Iterator, List, Mapping, Optional, Union

from ssd_train.errors import CheckpointError, ConfigError, SsdTrainError, WeightsError

OWN_SUM = "sha256"  # key of a JSON document's own checksum
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_DIRECTORY_SYNC = (errno.EINVAL, errno.ENOTSUP)
STANDARD_OUTPUT = Path("/dev/stdout")  # works on systems without this node, too
_MAX_LINKS = 40  # as in Linux
_TINY = 64 * 1024  # bytes; with less free space, a failed write is attributed to a full disk


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Write or replace the file `path` atomically.

    Raises:
        SsdTrainError: the disk is full, or the file cannot be written.
    """
    with open_atomic(path, len(data)) as file:
        file.write(data)


@contextlib.contextmanager
def open_atomic(path: Path, needed: int = 0) -> Iterator[BinaryIO]:
    """Open a binary file that replaces `path` when the block ends without an exception.

    Devices and pipes are written to directly.

    Args:
        path: The file to write.
        needed: Bytes that will be written at least, for the message if the disk is full.

    Raises:
        SsdTrainError: the disk is full, or the file cannot be written.
        BrokenPipeError: the reader of standard output has exited.
    """
    resolved = _file_target(path)
    if isinstance(resolved, int) or _is_stream(resolved):
        with _errors_of_stream(path), _open_stream(resolved) as file:
            yield file
        return
    with replacing(resolved, needed) as temporary, open(temporary, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def replacing(path: Path, needed: int = 0) -> Iterator[Path]:
    """Yield a temporary path for a file or folder that replaces `path` when the block ends without an exception.

    Raises:
        SsdTrainError: the disk is full, or the file or folder cannot be written.
    """
    temporary = temp_path_for(path)
    with translate_io_errors(path, needed):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        try:
            yield temporary
            os.replace(temporary, path)
        except BaseException:
            _remove(temporary)
            raise
        sync_directory(path.parent)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def write_text_atomic(path: Path, text: str) -> None:
    """Write text in UTF-8 with `write_bytes_atomic`."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_json_atomic(path: Path, value: Any) -> None:
    """Write indented JSON with `write_bytes_atomic`; raises ValueError for NaN and infinity."""
    write_text_atomic(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_checked(path: Path, write: Callable[[], None], needed: int) -> None:
    """Call `write`, a library's function that writes the file `path`, and sync the file to disk.

    Raises:
        SsdTrainError: the disk is full; replaces whatever exception the library raises for that.
        Exception: other exceptions of `write`.
    """
    try:
        write()
    except Exception as error:
        if is_disk_full(error, path.parent):
            raise full_disk(path, needed) from error
        raise
    with translate_io_errors(path, needed):
        sync_file(path)


@contextlib.contextmanager
def prepared_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` when the block ends without an exception.

    Raises:
        SsdTrainError: as `open_atomic`.
    """
    resolved = _file_target(path)
    if isinstance(resolved, int) or _is_stream(resolved):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / path.name
            with open(Path(folder) / path.name, "rb") as source, open_atomic(path) as file:
                shutil.copyfileobj(source, file)
        return
    with replacing(resolved) as prepared:
        yield prepared


def resolve_link(path: Path) -> Union[Path, int]:
    """Follow symbolic links.

    Returns:
        The target, which need not exist, or the descriptor of an open file of this process.

    Raises:
        SsdTrainError: the links form a loop.
    """
    if path == STANDARD_OUTPUT:
        return 1
    target = path
    for _ in range(_MAX_LINKS):
        # these links may have no path: they may lead to a pipe, a socket or a removed file
        folder = os.path.realpath(target.parent)
        if folder == f"/proc/{os.getpid()}/fd" and target.name.isdigit():
            return int(target.name)
        if not os.path.islink(target):
            return target
        target = Path(folder) / os.readlink(target)
    raise SsdTrainError(f"{path}: found a loop of symbolic links, expected a writable path")


def _file_target(path: Path) -> Union[Path, int]:
    target = resolve_link(path)
    if not isinstance(target, int) and target.is_dir():
        raise ConfigError(f"{path}: found a folder, expected a file to write")
    return target


def is_standard_output(path: object) -> bool:
    """Return whether `path` is a Path that leads to standard output."""
    return isinstance(path, Path) and resolve_link(path) == 1


def is_stream(path: Path) -> bool:
    """Return whether `path` is a device, pipe, socket or open file of this process.

    Such a path has no suffix that determines a format, and no sibling files.
    """
    target = resolve_link(path)
    return isinstance(target, int) or _is_stream(target)


def _is_stream(target: Path) -> bool:
    try:
        mode = os.stat(target).st_mode
    except OSError:  # does not exist yet, or the write will fail with the reason
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@contextlib.contextmanager
def _open_stream(target: Union[Path, int]) -> Iterator[BinaryIO]:
    descriptor = os.dup(target) if isinstance(target, int) else os.open(target, os.O_WRONLY)
    with os.fdopen(descriptor, "wb") as file:
        yield file


@contextlib.contextmanager
def _errors_of_stream(path: Path) -> Iterator[None]:
    try:
        with translate_io_errors(path, 0):
            yield
    except SsdTrainError as error:
        if isinstance(error.__cause__, BrokenPipeError) and is_standard_output(path):
            raise error.__cause__ from None
        raise


def replace_atomic(temporary: Path, path: Path) -> None:
    """Rename the synced file `temporary` to `path`."""
    with translate_io_errors(path, 0):
        os.replace(temporary, path)
        sync_directory(path.parent)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def with_sum(document: Dict[str, Any]) -> Dict[str, Any]:
    """Return the JSON document with its checksum added, for `check_sum`."""
    return {**document, OWN_SUM: _sum_of(document)}


def check_sum(path: Path, document: Dict[str, Any]) -> None:
    """Compare a document with its checksum; documents without one are accepted.

    Raises:
        WeightsError: the document read from `path` differs from the one written.
    """
    written = document.get(OWN_SUM)
    if written is not None and written != _sum_of(document):
        raise WeightsError(
            f"{path}: found SHA-256 {_sum_of(document)[:12]}…, expected {str(written)[:12]}…: the file is damaged or "
            f"was edited; remove its {OWN_SUM!r} to use it as it is"
        )


def _sum_of(document: Dict[str, Any]) -> str:
    """Return the SHA-256 of a document, independent of the order of its keys."""
    content = {name: value for name, value in document.items() if name != OWN_SUM}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8")).hexdigest()


def temp_path_for(path: Path) -> Path:
    """Return this process's temporary path for `path`, on the same file system so that a rename is atomic."""
    return path.with_name(f"{path.name}.tmp-{os.getpid()}")


def remove_leftovers(path: Path) -> None:
    """Remove temporary files and folders of `path` left by dead processes, or by one with our reused pid."""
    for leftover in path.parent.glob(f"{glob.escape(path.name)}.tmp-*"):
        pid = leftover.name.rpartition("-")[2]
        if pid.isdigit() and (int(pid) == os.getpid() or not _is_alive(int(pid))):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def sync_file(path: Path) -> None:
    """Sync a file to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Sync a folder's entries to disk; otherwise a power failure may undo a rename."""
    try:
        sync_file(path)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:  # some network file systems neither support nor need it
            raise


@contextlib.contextmanager
def translate_io_errors(path: Path, needed: int) -> Iterator[None]:
    """Convert OSErrors while writing `path` to SsdTrainErrors; `needed` as for `open_atomic`."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and not _are_related(Path(error.filename), path.parent):
            raise  # not about `path`: the caller read another file in the block
        if error.errno in _FULL:
            raise full_disk(path, needed) from error
        raise SsdTrainError(f"{path}: cannot be written: {error.strerror or error}") from error


def is_disk_full(error: Exception, folder: Path) -> bool:
    """Return whether writing below `folder` failed because the disk is full."""
    # MXNet's C++ writers report only "FileStream.Write incomplete", so the free space is checked, too.
    return getattr(error, "errno", None) in _FULL or _free(folder) < _TINY


def full_disk(path: Path, needed: int) -> SsdTrainError:
    """Return the error for a full disk, with the bytes needed and free."""
    return SsdTrainError(
        f"{path}: the disk is full: at least {needed} bytes are needed, {_free(path.parent)} are free; "
        "nothing was changed"
    )


def _free(folder: Path) -> int:
    """Return the free bytes of the disk of a folder, which need not exist."""
    folder = folder.absolute()
    return shutil.disk_usage(next(parent for parent in [folder, *folder.parents] if parent.is_dir())).free


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # sends no signal
    except OSError as error:
        return error.errno == errno.EPERM  # a process of another user
    return True


def _are_related(one: Path, other: Path) -> bool:
    one, other = one.absolute(), other.absolute()
    return one in [other, *other.parents] or other in one.parents


def require_writable(folder: Path) -> None:
    """Check that `folder` is writable or can be created, without changing anything.

    Raises:
        SsdTrainError: it is a file, or not writable.
    """
    folder = folder.absolute()
    with translate_io_errors(folder, 0):  # a parent folder may not be accessible
        existing = next(path for path in [folder, *folder.parents] if path.exists())
    if not existing.is_dir():
        raise SsdTrainError(f"{existing}: found a file, expected a writable folder")
    probe = existing / f".writable-{os.getpid()}"
    with translate_io_errors(folder, 0):
        probe.touch()
        probe.unlink()


CHECKSUMS = "checksums.json"


def write_dir_atomic(target: Path, write: Callable[[Path], None], keep: int) -> Path:
    """Write the folder `target`-000001, or with the next number, atomically.

    Args:
        target: Path of the folder without its number.
        write: Fills the temporary folder that it is given.
        keep: Number of previous folders to keep; older ones are removed.

    Returns:
        Path of the new folder.

    Raises:
        SsdTrainError: the disk is full, or the folder cannot be written.
        Exception: any exception of `write`; nothing is changed then.
    """
    new = temp_path_for(target)
    with translate_io_errors(target, 0):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target)
        new.mkdir()
    try:
        _fill(new, target, write)
        with translate_io_errors(target, 0):
            published = target.with_name(f"{target.name}-{max(map(_number_of, _numbered(target)), default=0) + 1:06d}")
            os.rename(new, published)
            sync_directory(target.parent)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    with translate_io_errors(target, 0):
        for old in finished_dirs(target)[1 + keep :]:
            _discard(old, target)
    return published


def finished_dirs(target: Path) -> List[Path]:
    """Return the finished folders of `write_dir_atomic(target, ...)`, newest first.

    They may be damaged; `verify_checksums` checks that.
    """
    finished = [folder for folder in _numbered(target) if _is_finished(folder)]
    return sorted(finished, key=_number_of, reverse=True)


def verify_checksums(folder: Path, names: Optional[Collection[str]] = None) -> None:
    """Compare the files of a published folder with their sizes and SHA-256 checksums.

    Args:
        folder: A published folder.
        names: Names of the files to compare; None: all.

    Raises:
        CheckpointError: the folder is unfinished, or a file is missing, unreadable or changed.
    """
    for name, expected in _listed(folder).items():
        if names is None or name in names:
            try:
                _verify(folder / name, expected)
            except OSError as error:
                raise CheckpointError(f"{folder / name}: cannot be read ({error.strerror})") from None


def _verify(file: Path, expected: Mapping[str, Any]) -> None:
    if not file.is_file():
        raise CheckpointError(f"{file}: is missing; {CHECKSUMS} lists it")
    size = file.stat().st_size
    if size != expected["bytes"]:
        raise CheckpointError(f"{file}: has {size} bytes, {expected['bytes']} were written")
    digest = sha256_of(file)
    if digest != expected["sha256"]:
        raise CheckpointError(f"{file}: damaged: found SHA-256 {digest}, expected {expected['sha256']}")


def _fill(folder: Path, target: Path, write: Callable[[Path], None]) -> None:
    """Fill a folder with `write`, sync it to disk and add its checksums."""
    try:
        write(folder)
    except Exception as error:
        if is_disk_full(error, folder):
            raise full_disk(target, _size(folder)) from error
        with translate_io_errors(target, 0):
            raise
    with translate_io_errors(target, _size(folder)):
        listed = {}
        for file in _files(folder):
            sync_file(file)
            listed[_name_in(folder, file)] = {"sha256": sha256_of(file), "bytes": file.stat().st_size}
        for directory in [path for path in folder.rglob("*") if path.is_dir()]:
            sync_directory(directory)
        write_json_atomic(folder / CHECKSUMS, {"files": listed})


def _listed(folder: Path) -> Dict[str, Dict[str, Any]]:
    """Read a folder's checksums; raises CheckpointError if one is unreadable or names a file outside the folder."""
    marker = folder / CHECKSUMS
    try:
        files = json.loads(marker.read_text("utf-8"))["files"]
        listed = {name: {"sha256": entry["sha256"], "bytes": entry["bytes"]} for name, entry in files.items()}
    except FileNotFoundError:
        raise CheckpointError(f"{marker}: is missing: the folder is incomplete") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{marker}: cannot be read as a list of checksums ({error})") from error
    for name in listed:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise CheckpointError(f"{marker}: lists {name!r}, which is not inside the folder")
    return listed


def _discard(old: Path, target: Path) -> None:
    """Remove a published folder, unless it contains files that are not in its checksums."""
    try:
        ours = {*_listed(old), CHECKSUMS}
    except CheckpointError:  # unknown which files are ours
        return
    if ours.issuperset(_name_in(old, file) for file in _files(old)):
        # Renamed first, so that a kill leaves a temporary folder and not a partial one that looks finished.
        doomed = temp_path_for(target)
        os.rename(old, doomed)
        shutil.rmtree(doomed)


def _numbered(target: Path) -> List[Path]:
    """Return the paths that have the name of a folder published for `target`."""
    pattern = re.compile(re.escape(target.name) + r"-\d{6,}")
    siblings = target.parent.iterdir() if target.parent.is_dir() else []
    return [path for path in siblings if pattern.fullmatch(path.name)]


def _is_finished(folder: Path) -> bool:
    try:
        return (folder / CHECKSUMS).is_file()
    except OSError:  # a failing disk or an inaccessible folder must be reported, not ignored
        return True


def _number_of(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _files(folder: Path) -> List[Path]:
    return [path for path in sorted(folder.rglob("*")) if not path.is_dir()]


def _name_in(folder: Path, file: Path) -> str:
    return file.relative_to(folder).as_posix()


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in _files(folder))
