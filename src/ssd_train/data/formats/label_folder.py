"""Read and write folders with one label file per image."""

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
    """Return all files with an extension below a folder, sorted.

    Args:
        path: The folder.
        ending: The extension in lower case, e.g. ``.xml``; files may have it in upper case, too.

    Raises:
        DataError: there is no such file.
    """
    folder = Path(path)
    files = sorted(file for file in files_below(folder) if file.suffix.lower() == ending and file.is_file())
    if not files:
        raise DataError(f"{path}: found no *{ending}, expected a folder with one such file for each image")
    return files


@contextmanager
def new_folder(path: PathLike) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` when the block ends.

    The folder has a temporary name until then. If the block raises, the folder is removed.

    Raises:
        DataError: `path` exists and is not an empty folder.
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
    """Return the path of an image's label file, and create its parent folder.

    It is the path of the image below `folder` with another extension.

    Args:
        folder: The folder of the label files.
        name: Relative path of the image, without ``..``.
        ending: The extension of label files.
        where: Location of the record, for the error message.

    Raises:
        DataError: the file exists, because another image differs only in its extension; starts with `where`.
    """
    target = (folder / name).with_suffix(ending)
    if target.exists():
        raise DataError(
            f"{where}: found {name!r} beside an image of the same name but for the ending, "
            "expected names that differ without it"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    return target
