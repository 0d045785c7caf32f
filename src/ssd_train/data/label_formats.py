"""Which format labels have: told by looking at their file or folder, never by guessing from a name alone.

A file is told by its ending where that is sure (.rec, .manifest, .jsonl), else by its content; a folder by the files in
it and below it, which are opened until one tells. A format that is given ends the looking: its reader then says what it
cannot read, and where.
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

# what is looked for, in the words of a message
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
_HEAD = 1 << 16  # bytes that are looked at
_ENOUGH = 20  # .json files with one image each, after which no other kind is looked for
_JSON_OBJECT = re.compile(rb"[\s\xef\xbb\xbf]*\{")
_COCO_PARTS = (b'"images"', b'"annotations"', b'"categories"')
_COCO_KEYS = (b'"images"', b'"annotations"')
_CLASS, _NUMBER = rb"\d+(?:\.0*)?(?:e[-+]?\d+)?", rb"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
_YOLO_LINE = re.compile(rb"(?:\xef\xbb\xbf)?\s*%b((?:[ \t]+%b){4,})[ \t]*(?:\r?\n|$)" % (_CLASS, _NUMBER), re.I)
_SHARES = (-1.0, 2.0)  # what a coordinate of YOLO lies between, boxes that leave their image included
# folder of images -> its sister with the labels
SISTERS = {"images": "labels", "JPEGImages": "Annotations"}
_FOLDER_FORMATS = ("image_json", "voc", "yolo")  # a file for each image
_FILE_ENDINGS = {"recordio": (".rec",), "coco": (".json",), "ground_truth": _MANIFEST_ENDINGS}


class FoundLabels(NamedTuple):
    """Labels found: their format, a key of EXPECTED, and the file or folder that its reader takes."""

    format: str
    place: Path


class SeveralFormats(DataError):
    """Labels of several formats in one folder; `found` has those of which there is one."""

    def __init__(self, message: str, found: List[FoundLabels]) -> None:
        super().__init__(message)
        self.found = found


def find_labels(path: PathLike, wanted: str = "") -> FoundLabels:
    """The labels in the file or folder `path`; with `wanted`, a key of EXPECTED, only those of that format count. Of a
    folder of images without labels, those of the sister folder: images/train -> labels/train.

    Raises:
        DataError: there are none, or it cannot be told which are meant; says what was looked for and what was found.
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
    """The labels in the sister of a folder that has none itself."""
    parts = folder.absolute().parts
    for images, labels in SISTERS.items():
        if images not in parts:
            continue
        last = len(parts) - 1 - parts[::-1].index(images)
        sister = Path(*parts[:last], labels, *parts[last + 1 :])
        if sister.is_dir() and not any(_in_folder(folder, "").values()):
            candidates = _in_folder(sister, wanted)
            return _choose(sister, candidates, wanted) if any(candidates.values()) else None
    return None


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
    """Format -> the places its reader could take; a folder stands for the formats with a file for each image."""
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
        found["yolo"] = [folder]  # what is wrong with each of them its reader says
    if wanted and not found[wanted]:  # the only file that it could be: what is wrong with it its reader says
        named = [file for ending in _FILE_ENDINGS[wanted] for file in files.get(ending, [])]
        found[wanted] = named if len(named) == 1 else []
    return found


def _beside_images(files: Dict[str, List[Path]]) -> bool:
    """Whether a .txt has the name of a picture."""
    stems = {folded(file.stem) for ending in IMAGE_FORMATS for file in files.get(ending, [])}
    return any(folded(file.stem) in stems for file in files.get(".txt", []))


def _jsons(files: Sequence[Path]) -> Dict[Optional[str], List[Path]]:
    """The .json files by the labels that they hold; None: none that is known."""
    found: Dict[Optional[str], List[Path]] = {}
    for file in files:
        found.setdefault(_of_json(file), []).append(file)
        if len(found.get("image_json", [])) >= _ENOUGH:
            break
    return found


def _is_yolo(head: bytes) -> bool:
    """Whether a text begins with a line of YOLO: a class id, and shares of the image."""
    line = _YOLO_LINE.match(head)
    return line is not None and all(_SHARES[0] <= float(value) <= _SHARES[1] for value in line.group(1).split())


def _manifests(folder: Path, files: Dict[str, List[Path]]) -> List[Path]:
    """The manifest of a labelling job's output folder, else all that stand in the folder itself."""
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
        return "coco"  # a part is missing, or the file is cut off: its reader says what, and where
    return found if found in ("coco", "ground_truth") else ""


def _of_json(file: Path) -> Optional[str]:
    """Which labels a JSON file holds."""
    head = _head(file)
    if not _JSON_OBJECT.match(head):
        return None
    if b'"source-ref"' in head:
        return "ground_truth"
    if b'"file"' in head and b'"annotations"' in head:
        return "image_json"
    return "coco" if all(_holds(file, head, key) for key in _COCO_KEYS) else None


def _holds(file: Path, head: bytes, key: bytes) -> bool:
    """Whether a file has the bytes `key` anywhere; a key may stand behind hundreds of megabytes."""
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
    """What a folder holds, for a message: the number of files by ending."""
    counts = Counter({ending: len(files) for ending, files in _files_by_ending(folder).items()})
    return ", ".join(f"{count} {ending or 'without ending'}" for ending, count in counts.most_common(6)) or "no file"


def _expected(wanted: str = "") -> str:
    names: Iterable[str] = [wanted] if wanted else EXPECTED
    return ", or ".join(EXPECTED[name] for name in names)
