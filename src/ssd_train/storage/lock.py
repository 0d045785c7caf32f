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
from typing import Iterator, Optional

from ssd_train.errors import CheckpointError
from ssd_train.progress import Progress
from ssd_train.storage.atomic import translate_io_errors

LOCK = ".lock"
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


@contextlib.contextmanager
def exclusive_lock(folder: Optional[Path], progress: Progress) -> Iterator[None]:
    """Lock `folder` within the block and create it if it is missing; None locks nothing.

    Raises:
        CheckpointError: another process has locked it.
        SsdTrainError: the folder is not writable.
    """
    if folder is None:
        yield
        return
    path = Path(folder) / LOCK
    with translate_io_errors(path, 0):
        path.parent.mkdir(parents=True, exist_ok=True)
        # O_CLOEXEC: child processes may outlive this one and would keep the lock
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _lock(descriptor, path, progress)
        yield
    finally:
        os.close(descriptor)  # the file is kept: removing it would allow two runs to lock two files of that name


def _lock(descriptor: int, path: Path, progress: Progress) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CheckpointError(
            f"{path.parent}: is in use by another run, which has locked {path.name} in it; wait until it ends, or use "
            "another --checkpoint_dir"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        progress.warning(
            f"{path.parent}: no locks on this file system; make sure that no other run uses it ({error.strerror})"
        )
