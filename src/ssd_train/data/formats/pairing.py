"""Find the image of a label file by their names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

from ssd_train.data.file_names import folded, is_image_name, readings
from ssd_train.data.sources import FolderImages
from ssd_train.errors import DataError


class PicturesOfLabels:
    """Finds images below a folder by the name of a label file, or by a name in it."""

    def __init__(self, images: "str | os.PathLike[str]") -> None:
        self._images = FolderImages(images)

    def of(self, file: Path, hint: str = "") -> Optional[str]:
        """Return the relative path of the image with the name of a label file, or None.

        If several images have the name, the first of these criteria that distinguishes them decides: the image is in
        the folder of the label file; it is in its sister folder, where one part of the path differs
        (Annotations/sub/a.xml, JPEGImages/sub/a.jpg), the deeper the better; the ends of their folders' paths agree in
        more parts; `hint` names the image.

        Args:
            file: The label file.
            hint: Name of the image in the label file, "" if there is none.

        Raises:
            DataError: several images fit equally well.
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
        """Return the relative path of the only image that a name in labels can mean.

        Returns None if there is no such image, or more than one.

        Raises:
            DataError: the name has no file name, or leaves its folder; the message names no label file.
        """
        for parts in readings(name):
            found = self._images.index.find(parts)
            if found:
                return self._below(found[0]) if len(found) == 1 else None
        return None

    def _below(self, path: str) -> str:
        return path[len(self._images.root) :].replace(os.sep, "/").lstrip("/")  # relpath takes ten times as long


def names_agree(picture: str, hint: str) -> bool:
    """Return True if a name in labels can be that of an image, or is "".

    Only file names are compared, ignoring case and Unicode form. The name in labels may lack the extension.
    """
    if not hint:
        return True
    last = folded(hint.replace("\\", "/").rsplit("/", 1)[-1])
    name = folded(picture.rsplit("/", 1)[-1])
    return last in (name, name if is_image_name(last) else os.path.splitext(name)[0])


def _same_name(path: str, hint: str) -> bool:
    return bool(hint) and names_agree(path.replace(os.sep, "/"), hint)


def _nearness(a: Sequence[str], b: Sequence[str]) -> Tuple[int, int, int]:
    """Rate the proximity of two folders: same, sisters, number of common last parts."""
    differing: List[int] = [i for i, (x, y) in enumerate(zip(a, b)) if x != y]
    sisters = len(a) == len(b) and len(differing) == 1
    common = 0
    while common < min(len(a), len(b)) and a[-1 - common] == b[-1 - common]:
        common += 1
    # the deeper the difference between sisters, the more of the path they share
    return int(a == b), differing[0] + 1 if sisters else 0, common
