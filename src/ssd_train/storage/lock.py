"""Exclusive lock of a folder.

The lock is an flock on an empty file in the folder; the kernel releases it when the process ends for any reason. A copy
of the folder, on S3 or another machine, is not locked.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from typing import Iterator, Optional, Set

from ssd_train.errors import CheckpointError
from ssd_train.progress import Progress
from ssd_train.storage.atomic import translate_io_errors

LOCK = ".lock"
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
_locked_here: Set[str] = set()  # real paths of the folders that this process has locked


@contextlib.contextmanager
def exclusive_lock(
    folder: Optional[Path], progress: Progress, flag: str = "checkpoint_dir", keep: bool = True
) -> Iterator[None]:
    """Lock `folder` within the block and create it if it is missing; None locks nothing.

    A lock within another one of the same folder in this process does nothing.

    Args:
        folder: the folder to lock.
        progress: receives a warning if the file system has no locks.
        flag: flag of the command that names the folder, for the error message.
        keep: leave the lock file in the folder. Otherwise it is removed, and the folder if it was created and is empty.

    Raises:
        CheckpointError: another process has locked it.
        SsdTrainError: the folder is not writable.
    """
    real = os.path.realpath(folder) if folder is not None else ""
    if folder is None or real in _locked_here:
        yield
        return
    path, created = Path(folder) / LOCK, not os.path.isdir(folder)
    descriptor = _open_locked(path, progress, flag)
    _locked_here.add(real)
    try:
        yield
    finally:
        _locked_here.discard(real)
        if not keep:
            with contextlib.suppress(OSError):
                path.unlink()  # before the lock is released: `_open_locked` notices that its file is gone
                if created:
                    path.parent.rmdir()
        os.close(descriptor)


def _open_locked(path: Path, progress: Progress, flag: str) -> int:
    """Return the descriptor of the locked file `path`."""
    while True:
        with translate_io_errors(path, 0):
            path.parent.mkdir(parents=True, exist_ok=True)
            # O_CLOEXEC: child processes may outlive this one and would keep the lock
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _lock(descriptor, path, progress, flag)
            if _is_same_file(descriptor, path):  # otherwise another process has just removed it
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _lock(descriptor: int, path: Path, progress: Progress, flag: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CheckpointError(
            f"{path.parent}: is in use by another run, which has locked {path.name} in it; wait until it ends, or use "
            f"another --{flag}"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        progress.warning(
            f"{path.parent}: no locks on this file system; make sure that no other run uses it ({error.strerror})"
        )
