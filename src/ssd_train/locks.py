"""A folder held by one run at a time.

The kernel holds the lock, on a file in the folder, and lets go of it when the process ends, however it ends. What the
file holds is never looked at (it is empty): the folder may be copied to S3 and to another machine, lock file and all,
and is free there.
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
from ssd_train.storage import errors_of

LOCK = ".lock"
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


@contextlib.contextmanager
def held(folder: Optional[Path], progress: Progress) -> Iterator[None]:
    """Hold `folder`, which is made if need be, as long as the block lasts; None: nothing is held.

    Raises:
        CheckpointError: another process holds it.
        SsdTrainError: it cannot be written.
    """
    if folder is None:
        yield
        return
    path = Path(folder) / LOCK
    with errors_of(path, 0):
        path.parent.mkdir(parents=True, exist_ok=True)
        # not inherited by programs that this one starts: they may outlive it
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _lock(descriptor, path, progress)
        yield
    finally:
        os.close(descriptor)  # the file stays: were it removed, two runs could hold two files of that name


def _lock(descriptor: int, path: Path, progress: Progress) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CheckpointError(
            f"{path.parent}: is in use by another run, which holds {path.name} in it, expected a folder for this run "
            "alone: wait for that run's end, or use another --checkpoint_dir"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        progress.warn(f"{path.parent}: its file system has no locks: see that no other run uses it ({error.strerror})")
