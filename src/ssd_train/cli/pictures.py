"""Pictures that are named on the command line, one by one or by folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Dict, List, NoReturn, Sequence

from ssd_train.deploy.detector import Picture
from ssd_train.errors import ConfigError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def find_pictures(paths: Sequence[Path]) -> List[Picture]:
    """The pictures among `paths` and below those that are folders, by name; a name is relative to the folder given."""
    pictures = []
    for path in paths:
        if os.path.isdir(path):
            files = _files_below(path)
            if not files:
                raise ConfigError(
                    f"{path}: found no picture in this folder, expected files ending in {', '.join(SUFFIXES)}"
                )
            pictures += [_picture(file, file.relative_to(path).as_posix()) for file in files]
        elif os.path.isfile(path):
            pictures.append(_picture(path, path.name))
        else:
            raise ConfigError(f"{path}: not found, expected a picture or a folder of pictures")
    _refuse_same_names(pictures)
    return pictures


def _files_below(folder: Path) -> List[Path]:
    """The files below `folder` with a picture's ending; a ConfigError for a folder that may not be listed."""

    def refuse(error: OSError) -> NoReturn:
        raise ConfigError(f"{error.filename}: cannot be read ({error.strerror}), expected a folder that is readable")

    files = (Path(root, name) for root, _, names in os.walk(folder, onerror=refuse) for name in names)
    return sorted(file for file in files if file.suffix.lower() in SUFFIXES and os.path.isfile(file))


def _picture(path: Path, name: str) -> Picture:
    return Picture(name, path.read_bytes, str(path))


def _refuse_same_names(pictures: Sequence[Picture]) -> None:
    first: Dict[str, Picture] = {}
    for picture in pictures:
        other = first.setdefault(picture.name, picture)
        if other is not picture:
            raise ConfigError(
                f"found {other.where} and {picture.where}, both are called {picture.name!r}, expected names to differ"
            )
