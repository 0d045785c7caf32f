"""Names of image and label files, and image names in labels.

All readers and commands use these extensions, so that they agree about which files are images.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Callable, Iterator, List, Optional
from urllib.parse import parse_qsl, unquote

from ssd_train.errors import DataError

# extension -> format
IMAGE_FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".bmp": "BMP",
    ".dib": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
UNREAD_FORMATS = (".gif", ".heic", ".heif", ".avif", ".jp2", ".svg")  # extensions of images that are not read
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_RESOURCE_FORKS = "__MACOSX"  # folder that macOS adds to archives
_LITERAL_SCHEMES = ("s3", "s3a", "s3n", "gs")  # bucket keys are literal; in all other URLs %20 is a blank


def is_image_name(name: str) -> bool:
    """Return whether a file name has an image extension, in any case."""
    return os.path.splitext(name)[1].lower() in IMAGE_FORMATS


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is hidden or holds no data.

    Examples are .ipynb_checkpoints, ._a.jpg and __MACOSX.
    """
    return name.startswith(".") or name == _RESOURCE_FORKS


def files_below(root: "str | os.PathLike[str]", onerror: Optional[Callable[[OSError], None]] = None) -> Iterator[Path]:
    """Yield the files in a folder and its subfolders, without hidden ones.

    They are sorted within each folder. Links to folders outside `root` are followed, each folder once.
    """
    return map(Path, paths_below(root, onerror))


def paths_below(root: "str | os.PathLike[str]", onerror: Optional[Callable[[OSError], None]] = None) -> Iterator[str]:
    """Yield the paths of `files_below` as strings.

    Creating 100 000 Path objects takes half a second.
    """
    visited = [os.path.realpath(root)]
    for folder, folders, names in os.walk(root, onerror=onerror, followlinks=True):
        shown = sorted(name for name in folders if not is_hidden(name))
        folders[:] = [name for name in shown if _is_new(os.path.join(folder, name), visited)]
        for name in sorted(names):
            if not is_hidden(name):
                yield os.path.join(folder, name)


def _is_new(folder: str, visited: List[str]) -> bool:
    """Return False for a link to a folder that is, contains or is in one of `visited`; else append its target."""
    if not os.path.islink(folder):
        return True
    target = os.path.realpath(folder)
    if any(os.path.commonpath([target, other]) in (target, other) for other in visited):
        return False
    visited.append(target)
    return True


def images_below(root: "str | os.PathLike[str]", onerror: Optional[Callable[[OSError], None]] = None) -> List[Path]:
    """Return the files below a folder that have an image extension, sorted by path."""
    return sorted(file for file in files_below(root, onerror) if is_image_name(file.name) and file.is_file())


def describe_unread(root: "str | os.PathLike[str]") -> str:
    """Describe the images below a folder that have the extension of a format that is not read; "" if there are none."""
    counts = Counter(file.suffix.lower() for file in files_below(root))
    listed = ", ".join(f"{counts[ending]} {ending}" for ending in UNREAD_FORMATS if counts[ending])
    return f"{root}: found images that are not read ({listed}), expected JPEG, PNG, BMP, TIFF or WebP" if listed else ""


def folded(text: str) -> str:
    """Normalise a name so that case and Unicode form (NFC, NFD) do not matter."""
    if text.isascii():
        return text.casefold()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def readings(name: str) -> List[List[str]]:
    r"""Return the paths, as parts, that an image name in labels can stand for.

    The literal path comes first; the last one is used in output for other programs.

    - ``s3://bucket/a/b.jpg`` and other URLs: the path without host and query
    - ``?d=a/b.jpg``, written by Label Studio: the path in the query
    - ``d%C3%A9j%C3%A0.jpg``: as it is, and percent-decoded (except in bucket keys)
    - ``/a/b.jpg``, ``C:\a\b.jpg``, ``a\b.jpg``: the path without its root, split at either separator

    Raises:
        DataError: The name contains NUL, leaves its folder by '..', or has no file name; without a place.
    """
    if "\0" in name:
        raise DataError(f"image {name!r} holds a NUL, expected s3://bucket/key or a path", "bad-image-name")
    split_paths = []
    for path in _paths(name):
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if "\\" in name and parts[:1] == [".."]:  # Label Studio on Windows: ..\\..\\media\\upload\\1\\a.jpg
            parts = parts[next((i for i, part in enumerate(parts) if part != ".."), len(parts)) :]
        if ".." in parts:
            raise DataError(f"image {name!r} leaves its folder by '..', expected a path inside it", "bad-image-name")
        if parts and not path.endswith("/") and parts not in split_paths:
            split_paths.append(parts)
    if not split_paths:
        raise DataError(f"image {name!r} has no file name, expected s3://bucket/key or a path", "bad-image-name")
    return split_paths


def is_plain(name: str) -> bool:
    """Return whether a name is s3://bucket/key or a relative path with slashes.

    All programs read such a name in the same way.
    """
    address = SCHEME.match(name)
    if address:
        return address.group(1).lower() == "s3"
    return not (name.startswith("/") or "\\" in name or _DRIVE.match(name) or "?" in name)


def _paths(name: str) -> Iterator[str]:
    address = SCHEME.match(name)
    if address:
        scheme, rest = address.group(1).lower(), name[address.end() :]
        path = rest.partition("/")[2]
        if scheme in _LITERAL_SCHEMES:
            yield path
            return
        yield re.split(r"[?#]", path)[0]
        yield unquote(re.split(r"[?#]", path)[0])
        yield from _of_query(rest)
        return
    if _DRIVE.match(name):
        yield name[3:].replace("\\", "/")
        return
    yield name
    if "%" in name:
        yield unquote(name)
    if "\\" in name:
        yield name.replace("\\", "/")
    yield from _of_query(name)


def _of_query(name: str) -> Iterator[str]:
    """Yield the values of a URL's query that are image names."""
    for _, value in parse_qsl(name.partition("?")[2]):
        if is_image_name(value):
            yield value
