"""Formats with one label file for each image: the folder that holds them, whole or not at all."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List

from ssd_train.data.file_names import files_below
from ssd_train.data.formats.jsonl import PathLike
from ssd_train.errors import DataError
from ssd_train.storage import errors_of, remove_leftovers, sync_directory, temporary_beside


def label_files(path: PathLike, ending: str) -> List[Path]:
    """The files with `ending` in a folder and below it, sorted; a DataError when there is none."""
    folder = Path(path)
    files = sorted(file for file in files_below(folder) if file.suffix.lower() == ending and file.is_file())
    if not files:
        raise DataError(f"{path}: found no *{ending}, expected a folder with one such file for each image")
    return files


@contextmanager
def new_folder(path: PathLike) -> Iterator[Path]:
    """An empty folder to fill, that stands under `path` once the block ends, and not at all if it raises.

    Raises:
        DataError: `path` is there and holds something.
        SsdTrainError: the disk is full, or the folder cannot be written.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise DataError(f"{path}: is there already, expected no folder or an empty one")
    new = temporary_beside(target)
    with errors_of(target, 0):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target)
        new.mkdir()
        try:
            yield new
            os.replace(new, target)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        sync_directory(target.parent)


def new_label_file(folder: Path, name: str, ending: str, where: str) -> Path:
    """Where the label of image `name`, a path without `..`, goes: the same path below `folder`, with another ending.

    Raises:
        DataError: another image has the same name but for its ending; begins with `where`.
    """
    target = (folder / name).with_suffix(ending)
    if target.exists():
        raise DataError(
            f"{where}: found {name!r} beside an image of the same name but for the ending, "
            "expected names that differ without it"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    return target
