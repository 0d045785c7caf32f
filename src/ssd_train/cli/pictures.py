"""Pictures that are named on the command line, one by one or by folder."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List, Sequence

from ssd_train.deploy.detector import Picture
from ssd_train.errors import ConfigError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def find_pictures(paths: Sequence[Path]) -> List[Picture]:
    """The pictures among `paths` and below those that are folders, by name; a name is relative to the folder given."""
    pictures = []
    for path in paths:
        if path.is_dir():
            files = sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
            if not files:
                raise ConfigError(
                    f"{path}: found no picture in this folder, expected files ending in {', '.join(SUFFIXES)}"
                )
            pictures += [_picture(file, file.relative_to(path).as_posix()) for file in files]
        elif path.is_file():
            pictures.append(_picture(path, path.name))
        else:
            raise ConfigError(f"{path}: not found, expected a picture or a folder of pictures")
    _refuse_same_names(pictures)
    return pictures


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
