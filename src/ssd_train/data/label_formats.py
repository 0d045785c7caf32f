"""Detect the format of labels from their content.

The extension decides for a file where it is unambiguous (.rec, .manifest, .jsonl), otherwise the content. In a folder,
the files in it and below it are examined. If the user gives a format, nothing is detected: its reader then reports
unreadable labels and their place.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence

from ssd_train.data.file_names import IMAGE_FORMATS, files_below, folded
from ssd_train.data.formats.framing import MAGIC
from ssd_train.data.formats.jsonl import PathLike
from ssd_train.errors import DataError

# descriptions of the formats for messages
EXPECTED = {
    "ground_truth": "a Ground Truth manifest (*.manifest, *.jsonl, output.manifest)",
    "recordio": "a detection .rec",
    "coco": "a COCO .json",
    "image_json": "a folder with one .json for each image",
    "voc": "a folder of VOC .xml",
    "yolo": "a folder of YOLO .txt",
}

_MANIFEST_ENDINGS = (".manifest", ".jsonl")
_OUTPUT_MANIFESTS = ("output.manifest", os.path.join("manifests", "output", "output.manifest"))
_HEAD = 1 << 16  # bytes of a file that are examined
_ENOUGH = 20  # .json files of one image each, after which the remaining ones are not examined
_JSON_OBJECT = re.compile(rb"[\s\xef\xbb\xbf]*\{")
_COCO_PARTS = (b'"images"', b'"annotations"', b'"categories"')
_COCO_KEYS = (b'"images"', b'"annotations"')
_CLASS, _NUMBER = rb"\d+(?:\.0*)?(?:e[-+]?\d+)?", rb"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
_YOLO_LINE = re.compile(rb"(?:\xef\xbb\xbf)?\s*%b((?:[ \t]+%b){4,})[ \t]*(?:\r?\n|$)" % (_CLASS, _NUMBER), re.I)
_SHARES = (-1.0, 2.0)  # range of a YOLO coordinate, boxes that leave the image included
# folder of images -> sister folder with the labels
SISTERS = {"images": "labels", "JPEGImages": "Annotations"}
_FOLDER_FORMATS = ("image_json", "voc", "yolo")  # one file per image
_FILE_ENDINGS = {"recordio": (".rec",), "coco": (".json",), "ground_truth": _MANIFEST_ENDINGS}


class FoundLabels(NamedTuple):
    """Labels found by `find_labels`.

    Attributes:
        format: Key of EXPECTED.
        place: File or folder for the format's reader.
    """

    format: str
    place: Path


class SeveralFormats(DataError):
    """A folder has labels of several formats.

    Attributes:
        found: Labels of each format of which there is exactly one file or folder.
    """

    def __init__(self, message: str, found: List[FoundLabels]) -> None:
        super().__init__(message)
        self.found = found


def find_labels(path: PathLike, wanted: str = "") -> FoundLabels:
    """Find the labels in a file or folder and detect their format.

    For a folder of images without labels, the sister folder is searched: images/train -> labels/train.

    Args:
        path: File or folder.
        wanted: Key of EXPECTED to find labels of this format only; "" for any.

    Raises:
        DataError: No labels, or several candidates; the message says what was searched for and what was found.
    """
    place = Path(path)
    if place.is_dir():
        return _in_sister(place, wanted) or _choose(place, _in_folder(place, wanted), wanted)
    if not place.exists():
        raise DataError(f"{path}: not found, expected labels: {_expected(wanted)}")
    if wanted:
        return FoundLabels(wanted, place)
    found = _of_file(place)
    if not found:
        raise DataError(f"{path}: found {_shown_head(place)}, expected {_expected()}; --labels_format says which it is")
    return FoundLabels(found, place)


def _in_sister(folder: Path, wanted: str) -> Optional[FoundLabels]:
    """Find the labels in the sister of a folder that has none itself."""
    for images, labels in SISTERS.items():
        sister = sister_folder(folder, images, labels)
        if sister is not None and not any(_in_folder(folder, "").values()):
            candidates = _in_folder(sister, wanted)
            return _choose(sister, candidates, wanted) if any(candidates.values()) else None
    return None


def sister_folder(folder: Path, name: str, other: str) -> Optional[Path]:
    """Return the existing folder whose path has `other` in place of the last `name`: images/train -> labels/train."""
    parts = folder.absolute().parts
    if name not in parts:
        return None
    last = len(parts) - 1 - parts[::-1].index(name)
    sister = Path(*parts[:last], other, *parts[last + 1 :])
    return sister if sister.is_dir() else None


def _choose(folder: Path, candidates: Dict[str, List[Path]], wanted: str) -> FoundLabels:
    found = {name: places for name, places in candidates.items() if places and wanted in ("", name)}
    if not found:
        raise DataError(f"{folder}: found {_contents(folder)}, expected labels: {_expected(wanted)}")
    listed = [str(place.relative_to(folder)) for places in found.values() for place in places[:2] if place != folder]
    if len(found) > 1:
        raise SeveralFormats(
            f"{folder}: found labels of the formats {', '.join(sorted(found))} ({', '.join(listed)}), expected one "
            "format: name the file or folder, or give --labels_format",
            [FoundLabels(name, places[0]) for name, places in found.items() if len(places) == 1],
        )
    ((name, places),) = found.items()
    if len(places) > 1:
        raise DataError(
            f"{folder}: found {len(places)} times {EXPECTED[name]} ({', '.join(listed)}), expected one: name it"
        )
    return FoundLabels(name, places[0])


def _in_folder(folder: Path, wanted: str = "") -> Dict[str, List[Path]]:
    """Return format -> candidates for its reader.

    The candidate is the folder itself for formats with one label file per image.
    """
    files = _files_by_ending(folder)
    if wanted in _FOLDER_FORMATS:
        return {wanted: [folder]}
    jsons = _jsons(files.get(".json", []))
    found = {
        "ground_truth": _manifests(folder, files) or jsons.get("ground_truth", []),
        "recordio": files.get(".rec", []),
        "coco": jsons.get("coco", []),
        "image_json": [folder] if "image_json" in jsons else [],
        "voc": [folder] if any(b"<annotation" in _head(file) for file in files.get(".xml", [])) else [],
        "yolo": [folder] if any(_is_yolo(_head(file)) for file in files.get(".txt", [])) else [],
    }
    if not any(found.values()) and _beside_images(files):
        found["yolo"] = [folder]  # the reader reports what is wrong with each
    if wanted and not found[wanted]:  # take the only file it could be: the reader reports what is wrong with it
        named = [file for ending in _FILE_ENDINGS[wanted] for file in files.get(ending, [])]
        found[wanted] = named if len(named) == 1 else []
    return found


def _beside_images(files: Dict[str, List[Path]]) -> bool:
    """Return whether a .txt has the name of an image."""
    stems = {folded(file.stem) for ending in IMAGE_FORMATS for file in files.get(ending, [])}
    return any(folded(file.stem) in stems for file in files.get(".txt", []))


def _jsons(files: Sequence[Path]) -> Dict[Optional[str], List[Path]]:
    """Group .json files by the format of their labels; None if unknown."""
    found: Dict[Optional[str], List[Path]] = {}
    for file in files:
        found.setdefault(_of_json(file), []).append(file)
        if len(found.get("image_json", [])) >= _ENOUGH:
            break
    return found


def _is_yolo(head: bytes) -> bool:
    """Return whether a text starts with a YOLO line: class id and coordinates."""
    line = _YOLO_LINE.match(head)
    return line is not None and all(_SHARES[0] <= float(value) <= _SHARES[1] for value in line.group(1).split())


def _manifests(folder: Path, files: Dict[str, List[Path]]) -> List[Path]:
    """Return a labelling job's output manifest, else all manifests in the folder.

    Manifests in subfolders do not count.
    """
    for name in _OUTPUT_MANIFESTS:
        if (folder / name).is_file():
            return [folder / name]
    return [file for ending in _MANIFEST_ENDINGS for file in files.get(ending, []) if file.parent == folder]


def _of_file(file: Path) -> str:
    ending, head = file.suffix.lower(), _head(file)
    if ending == ".rec" or head.startswith(MAGIC):
        return "recordio"
    if ending in _MANIFEST_ENDINGS:
        return "ground_truth"
    found = _of_json(file)
    if found is None and _JSON_OBJECT.match(head) and any(key in head for key in _COCO_PARTS):
        return "coco"  # a key is missing or the file is truncated: the reader reports it
    return found if found in ("coco", "ground_truth") else ""


def _of_json(file: Path) -> Optional[str]:
    """Return the format of the labels in a JSON file."""
    head = _head(file)
    if not _JSON_OBJECT.match(head):
        return None
    if b'"source-ref"' in head:
        return "ground_truth"
    if b'"file"' in head and b'"annotations"' in head:
        return "image_json"
    return "coco" if all(_holds(file, head, key) for key in _COCO_KEYS) else None


def _holds(file: Path, head: bytes, key: bytes) -> bool:
    """Return whether a file contains `key`, even after hundreds of megabytes."""
    if key in head or len(head) < _HEAD:
        return key in head
    with open(file, "rb") as opened:
        tail = b""
        for chunk in iter(lambda: opened.read(1 << 20), b""):
            if key in tail + chunk:
                return True
            tail = chunk[-len(key) :]
    return False


def _files_by_ending(folder: Path) -> Dict[str, List[Path]]:
    found: Dict[str, List[Path]] = {}
    for file in files_below(folder):
        found.setdefault(file.suffix.lower(), []).append(file)
    return found


def _head(file: Path) -> bytes:
    try:
        with open(file, "rb") as opened:
            return opened.read(_HEAD)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}), expected a readable file") from None


def _shown_head(file: Path) -> str:
    head = _head(file)
    return f"bytes beginning {head[:32]!r}" if head else "an empty file"


def _contents(folder: Path) -> str:
    """Describe a folder's content for a message: the number of files by extension."""
    counts = Counter({ending: len(files) for ending, files in _files_by_ending(folder).items()})
    return ", ".join(f"{count} {ending or 'without ending'}" for ending, count in counts.most_common(6)) or "no file"


def _expected(wanted: str = "") -> str:
    names: Iterable[str] = [wanted] if wanted else EXPECTED
    return ", or ".join(EXPECTED[name] for name in names)
