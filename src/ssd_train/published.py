"""Folders that appear whole or not at all, and stay what they were written as.

A folder is filled out of sight, flushed to the disk, marked by `checksums.json`, written last, and renamed onto its
place: one without that file was never finished. A kill at any moment leaves what stood there before, or that and the
new folder, complete; what it leaves half done is removed by the next `publish_folder` to the same place.

Each folder has a name of its own and is never changed again. So a service that copies them file by file as they come,
as SageMaker copies checkpoints to S3, never mixes two of them.
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
    """Put a new folder at `target`-000001, or the next number: `write(folder)` fills it out of sight, then it takes its
    place in one step. Returns that place. Of the folders before it the newest `keep` stay.

    Raises:
        SsdTrainError: the disk is full, or the place cannot be written.
        Exception: whatever `write` raises; nothing is changed then.
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
            place = target.with_name(f"{target.name}-{max(map(_number_of, _numbered(target)), default=0) + 1:06d}")
            os.rename(new, place)
            storage.sync_directory(target.parent)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    with storage.errors_of(target, 0):
        for old in published_folders(target)[1 + keep :]:
            _discard(old, target)
    return place


def published_folders(target: Path) -> List[Path]:
    """The finished folders of `publish_folder(target, ...)`, newest first; empty where there is none.

    Finished is not undamaged: `verify_folder` tells.
    """
    finished = [folder for folder in _numbered(Path(target)) if _is_finished(folder)]
    return sorted(finished, key=_number_of, reverse=True)


def verify_folder(folder: Path, names: Optional[Collection[str]] = None) -> None:
    """Compare every file of a published folder, or those of `names` alone, with its size and SHA-256.

    Raises:
        CheckpointError: the folder was never finished, or the file named is missing, truncated or changed, or cannot
            be read.
    """
    folder = Path(folder)
    for name, expected in _listed(folder).items():
        if names is None or name in names:
            try:
                _verify(folder / name, expected)
            except OSError as error:
                raise CheckpointError(f"{folder / name}: cannot be read ({error.strerror})") from None


def _verify(file: Path, expected: Mapping[str, Any]) -> None:
    """Compare a file with what its folder's checksums list of it."""
    if not file.is_file():
        raise CheckpointError(f"{file}: is missing; {CHECKSUMS} beside it lists it")
    size = file.stat().st_size
    if size != expected["bytes"]:
        raise CheckpointError(f"{file}: has {size} bytes, {expected['bytes']} were written")
    found = storage.sha256_of(file)
    if found != expected["sha256"]:
        raise CheckpointError(f"{file}: is damaged: its SHA-256 is {found}, {expected['sha256']} was written")


def _fill(folder: Path, target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder, put all of it on the disk, and mark it as finished."""
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


def _discard(old: Path, target: Path) -> None:
    """Remove a published folder; one in which somebody keeps files of their own is left as it is."""
    try:
        ours = {*_listed(old), CHECKSUMS}
    except CheckpointError:  # it cannot be told any more what is whose
        return
    if ours.issuperset(_name_in(old, file) for file in _files(old)):
        # Renamed first, so that a kill in between leaves a leftover to remove and no folder that looks finished.
        doomed = storage.temporary_beside(target)
        os.rename(old, doomed)
        shutil.rmtree(doomed)


def _numbered(target: Path) -> List[Path]:
    """What has the name of a folder published at a place."""
    pattern = re.compile(re.escape(target.name) + r"-\d{6,}")
    beside = target.parent.iterdir() if target.parent.is_dir() else []
    return [path for path in beside if pattern.fullmatch(path.name)]


def _is_finished(folder: Path) -> bool:
    try:
        return (folder / CHECKSUMS).is_file()
    except OSError:  # a dying disk, or a folder that may not be entered: to be told, not passed over
        return True


def _number_of(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _files(folder: Path) -> List[Path]:
    return [path for path in sorted(folder.rglob("*")) if not path.is_dir()]


def _name_in(folder: Path, file: Path) -> str:
    return file.relative_to(folder).as_posix()


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in _files(folder))
