"""Atomic writes of whole folders, with checksums.

A folder is filled under a temporary name, synced to disk, completed with `checksums.json` as its last file, and
renamed. If the process is killed, earlier folders are intact, and the next `publish_folder` removes the incomplete one.

Each folder has a new name and is never changed again, so that a service that copies files one by one, as SageMaker
copies checkpoints to S3, never mixes two of them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path, PurePosixPath
from typing import Any, Callable, Collection, Dict, List, Mapping, Optional

from ssd_train import storage
from ssd_train.errors import CheckpointError

CHECKSUMS = "checksums.json"


def publish_folder(target: Path, write: Callable[[Path], None], keep: int) -> Path:
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
    target = Path(target)
    new = storage.temporary_beside(target)
    with storage.errors_of(target, 0):
        target.parent.mkdir(parents=True, exist_ok=True)
        storage.remove_leftovers(target)
        new.mkdir()
    try:
        _fill(new, target, write)
        with storage.errors_of(target, 0):
            published = target.with_name(f"{target.name}-{max(map(_number_of, _numbered(target)), default=0) + 1:06d}")
            os.rename(new, published)
            storage.sync_directory(target.parent)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    with storage.errors_of(target, 0):
        for old in published_folders(target)[1 + keep :]:
            _discard(old, target)
    return published


def published_folders(target: Path) -> List[Path]:
    """Return the finished folders of `publish_folder(target, ...)`, newest first.

    They may be damaged; `verify_folder` checks that.
    """
    finished = [folder for folder in _numbered(Path(target)) if _is_finished(folder)]
    return sorted(finished, key=_number_of, reverse=True)


def verify_folder(folder: Path, names: Optional[Collection[str]] = None) -> None:
    """Compare the files of a published folder with their sizes and SHA-256 checksums.

    Args:
        folder: A published folder.
        names: Names of the files to compare; None: all.

    Raises:
        CheckpointError: the folder is unfinished, or a file is missing, unreadable or changed.
    """
    folder = Path(folder)
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
    digest = storage.sha256_of(file)
    if digest != expected["sha256"]:
        raise CheckpointError(f"{file}: damaged: found SHA-256 {digest}, expected {expected['sha256']}")


def _fill(folder: Path, target: Path, write: Callable[[Path], None]) -> None:
    """Fill a folder with `write`, sync it to disk and add its checksums."""
    try:
        write(folder)
    except Exception as error:
        if storage.is_disk_full(error, folder):
            raise storage.full_disk(target, _size(folder)) from error
        with storage.errors_of(target, 0):
            raise
    with storage.errors_of(target, _size(folder)):
        listed = {}
        for file in _files(folder):
            storage.sync_file(file)
            listed[_name_in(folder, file)] = {"sha256": storage.sha256_of(file), "bytes": file.stat().st_size}
        for directory in [path for path in folder.rglob("*") if path.is_dir()]:
            storage.sync_directory(directory)
        storage.write_json_atomic(folder / CHECKSUMS, {"files": listed})


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
        doomed = storage.temporary_beside(target)
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
