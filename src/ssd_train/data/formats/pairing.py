"""Which picture a label file belongs to: the one of its own name, beside it or at the same place in a sister folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

from ssd_train.data.file_names import folded, is_image_name, readings
from ssd_train.data.sources import FolderImages
from ssd_train.errors import DataError


class PicturesOfLabels:
    """The pictures below a folder, found by the names of label files, or by the names that label files hold."""

    def __init__(self, images: "str | os.PathLike[str]") -> None:
        self._images = FolderImages(images)

    def of(self, file: Path, hint: str = "") -> Optional[str]:
        """Return the path, below the folder, of the picture that has the name of a label file, or None.

        Of several: the one in the file's folder, then in its sister (one folder of the path differs:
        Annotations/sub/a.xml, JPEGImages/sub/a.jpg), then the one that shares most of the path's end, then the one that
        `hint` names.

        Raises:
            DataError: several fit equally well.
        """
        found = self._images.index.pictures(file.stem)
        if len(found) > 1:
            folders = file.parent.absolute().resolve().parts
            marks = [(_nearness(folders, Path(path).parent.parts), _same_name(path, hint)) for path in found]
            found = [path for path, mark in zip(found, marks) if mark == max(marks)]
        if len(found) > 1:
            raise DataError(
                f"may be of {found[0]} or {found[1]} ({len(found)} pictures called {file.stem}), expected one",
                "ambiguous-image",
            )
        return self._below(found[0]) if found else None

    def named(self, name: str) -> Optional[str]:
        """Return the path, below the folder, of the only picture that a name in labels can mean, or None."""
        for parts in readings(name):
            found = self._images.index.find(parts)
            if found:
                return self._below(found[0]) if len(found) == 1 else None
        return None

    def _below(self, path: str) -> str:
        return path[len(self._images.root) :].replace(os.sep, "/").lstrip("/")  # relpath takes ten times as long


def names_agree(picture: str, hint: str) -> bool:
    """Return whether a name in labels can be that of a picture: the same file name, or the same without an ending."""
    if not hint:
        return True
    last = folded(hint.replace("\\", "/").rsplit("/", 1)[-1])
    name = folded(picture.rsplit("/", 1)[-1])
    return last in (name, name if is_image_name(last) else os.path.splitext(name)[0])


def _same_name(path: str, hint: str) -> bool:
    return bool(hint) and names_agree(path.replace(os.sep, "/"), hint)


def _nearness(a: Sequence[str], b: Sequence[str]) -> Tuple[int, int, int]:
    """How near two folders are: the same, sisters, or with a common end of their paths."""
    differing: List[int] = [i for i, (x, y) in enumerate(zip(a, b)) if x != y]
    sisters = len(a) == len(b) and len(differing) == 1
    common = 0
    while common < min(len(a), len(b)) and a[-1 - common] == b[-1 - common]:
        common += 1
    # of sisters those whose difference lies deeper share more of the path
    return int(a == b), differing[0] + 1 if sisters else 0, common
