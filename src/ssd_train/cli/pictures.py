"""Image files and folders on the command line, and paths of their overlays."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Dict, List, Mapping, NoReturn, Sequence

from ssd_train.data.file_names import IMAGE_FORMATS, images_below
from ssd_train.deploy.detector import Picture
from ssd_train.errors import ConfigError


def find_pictures(paths: Sequence[Path]) -> List[Picture]:
    """Return the images in `paths`, files or folders; names of images in folders are relative to the folder."""
    pictures = []
    for path in paths:
        if os.path.isdir(path):
            files = _files_below(path)
            if not files:
                raise ConfigError(
                    f"{path}: found no image in this folder, expected files ending in {', '.join(IMAGE_FORMATS)}"
                )
            pictures += [_picture(file, file.relative_to(path).as_posix()) for file in files]
        elif os.path.isfile(path):
            pictures.append(_picture(path, path.name))
        else:
            raise ConfigError(f"{path}: not found, expected an image or a folder of images")
    _refuse_same_names(pictures)
    return pictures


def _files_below(folder: Path) -> List[Path]:
    """Return the image files below `folder`; raises ConfigError for an unreadable folder."""

    def refuse(error: OSError) -> NoReturn:
        """Raise an error for a folder that os.walk would skip."""
        raise ConfigError(f"{error.filename}: cannot be read ({error.strerror}), expected a readable folder")

    return images_below(folder, refuse)


def _picture(path: Path, name: str) -> Picture:
    return Picture(name, path.read_bytes, str(path))


def _refuse_same_names(pictures: Sequence[Picture]) -> None:
    first: Dict[str, Picture] = {}
    for picture in pictures:
        other = first.setdefault(picture.name, picture)
        if other is not picture:
            raise ConfigError(
                f"found {other.where} and {picture.where}, both named {picture.name!r}, expected unique names"
            )


def overlay_paths(folder: Path, pictures: Mapping[str, Path]) -> Dict[str, Path]:
    """Return the path of the overlay, a JPEG file in `folder`, for each image name.

    The suffix of a name is replaced by .jpg, or if two would be the same, .jpg is appended: a.png.jpg.

    Args:
        folder: Folder of the overlays.
        pictures: Paths of the images by name.

    Raises:
        ConfigError: an overlay would overwrite one of the images.
    """
    overlays = {name: PurePosixPath(name).with_suffix(".jpg").as_posix() for name in pictures}
    while True:  # a name with .jpg appended may be that of another image's overlay
        counts = Counter(overlays.values())
        same = [name for name, overlay in overlays.items() if counts[overlay] > 1 and overlay != f"{name}.jpg"]
        if not same:
            break
        overlays.update({name: f"{name}.jpg" for name in same})
    originals = {os.path.realpath(path) for path in pictures.values()}
    for overlay in overlays.values():
        if os.path.realpath(folder / overlay) in originals:
            raise ConfigError(f"overlays: found {folder / overlay}, an input image, expected another folder")
    return {name: folder / overlay for name, overlay in overlays.items()}
