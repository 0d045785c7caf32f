"""Pictures that are named on the command line, one by one or by folder."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Dict, List, Mapping, NoReturn, Sequence

from ssd_train.data.file_names import IMAGE_FORMATS, images_below
from ssd_train.deploy.detector import Picture
from ssd_train.errors import ConfigError


def find_pictures(paths: Sequence[Path]) -> List[Picture]:
    """The pictures among `paths` and below those that are folders, by name; a name is relative to the folder given."""
    pictures = []
    for path in paths:
        if os.path.isdir(path):
            files = _files_below(path)
            if not files:
                raise ConfigError(
                    f"{path}: found no picture in this folder, expected files ending in {', '.join(IMAGE_FORMATS)}"
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
        """A folder that os.walk cannot list would else be passed over."""
        raise ConfigError(f"{error.filename}: cannot be read ({error.strerror}), expected a folder that is readable")

    return images_below(folder, refuse)


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


def overlay_paths(folder: Path, pictures: Mapping[str, Path]) -> Dict[str, Path]:
    """Name of a picture -> the JPEG file in `folder` that it is drawn into; `pictures` says where each one is.

    It has the picture's name with the ending .jpg; where two would be the same, .jpg is added to the name: a.png.jpg.

    Raises:
        ConfigError: one of the pictures would be drawn over.
    """
    found = {name: PurePosixPath(name).with_suffix(".jpg").as_posix() for name in pictures}
    while True:  # an added ending may meet another picture's name, which then gets one, too
        counts = Counter(found.values())
        same = [name for name, drawn in found.items() if counts[drawn] > 1 and drawn != f"{name}.jpg"]
        if not same:
            break
        found.update({name: f"{name}.jpg" for name in same})
    originals = {os.path.realpath(path) for path in pictures.values()}
    for drawn in found.values():
        if os.path.realpath(folder / drawn) in originals:
            raise ConfigError(
                f"overlays: found {folder / drawn}, one of the pictures themselves, expected another folder"
            )
    return {name: folder / drawn for name, drawn in found.items()}
