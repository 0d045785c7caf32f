"""What a YOLO data set says of itself: class names, and train, val and test.

Names stand in data.yaml (or another .yaml with `names`), classes.txt, obj.names, any *.names or Label Studio's
notes.json: beside the labels or images, in the folder ``labels``, or one or two folders up, where the tools put them.

YAML is read by PyYAML, which is imported only where there is such a file. It is asked for the tree of a document only,
with the safe loader; nothing is constructed, so that a class may be called ``no`` or ``1.0``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from ssd_train.data.file_names import IMAGE_FORMATS, files_below, folded, is_hidden
from ssd_train.data.formats.fields import shown
from ssd_train.data.formats.jsonl import read_bytes, read_json
from ssd_train.data.official_sets import set_name
from ssd_train.data.records import ClassNames
from ssd_train.errors import DataError, DependencyError

_YAML = ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml")
_YAML_ENDINGS = (".yaml", ".yml")
_PLAIN = ("classes.txt", "obj.names", "_darknet.labels", "predefined_classes.txt")
_BELOW = (*_YAML, *_PLAIN)  # looked for in all folders of images and labels
_NOTES = "notes.json"
_DARKNET = "obj.data"
_SETS = ("train", "val", "valid", "test")
_UP = 2  # folders above that are looked at


@dataclass(frozen=True)
class Description:
    """What a data set says of itself.

    names   its classes, or None
    points  whether its lines hold keypoints after the box
    sets    train, val, test -> the folders and lists of images that they name
    source  the file with the sets
    """

    names: Optional[ClassNames] = None
    points: bool = False
    sets: Mapping[str, Tuple[Path, ...]] = field(default_factory=dict)
    source: str = ""


def read_yolo_names(folder: Path) -> Optional[ClassNames]:
    """The class names of the data set in `folder`, or None where no file tells them.

    Raises:
        DataError: a file tells them in a way that is not understood; begins with the file.
    """
    return describe([folder]).names


def describe(folders: Sequence[Path]) -> Description:
    """What the data set says of itself whose images and labels are in `folders`; the nearest file counts.

    Raises:
        DataError: a file is not understood; begins with the file.
        DependencyError: there is a .yaml, and PyYAML is not installed.
    """
    told = _Told()
    near = [folder.absolute() for folder in dict.fromkeys(folders)]
    seen: Set[Path] = set()
    for up in range(_UP + 1):
        for folder in near:
            place = [folder, *folder.parents][min(up, len(folder.parents))]
            if place not in seen and place.is_dir():
                seen.add(place)
                told.read(_told_in(place))
        if not up and told.names is None:
            told.read(file for folder in near for file in files_below(folder) if file.name in _BELOW)
    if told.names is None and told.nameless is not None:
        raise DataError(f"{told.nameless}: found no entry names, expected names: [a, b]")
    return Description(told.names, told.points, told.sets, told.source)


class _Told:
    """What the files read so far have told; the first of each kind counts."""

    def __init__(self) -> None:
        self.names: Optional[ClassNames] = None
        self.points = False
        self.sets: Dict[str, Tuple[Path, ...]] = {}
        self.source = ""
        self.nameless: Optional[Path] = None  # a data.yaml without names

    def read(self, files: Iterable[Path]) -> None:
        """Read files, the nearest first; a DataError begins with the file."""
        for path in files:
            try:
                if path.suffix.lower() in _YAML_ENDINGS:
                    self._of_yaml(path)
                elif path.name == _DARKNET:
                    self._of_sets(path, _of_darknet(path))
                elif self.names is None:
                    self.names = _of_notes(path) if path.name == _NOTES else ClassNames(tuple(_from_lines(_text(path))))
            except DataError as fault:
                raise fault.at(path) from None

    def _of_yaml(self, path: Path) -> None:
        entries = read_yaml(path)
        if "names" in entries:
            self.names = self.names or ClassNames(tuple(_from_yaml(entries["names"])))
        elif path.name in _YAML:
            self.nameless = self.nameless or path
        else:
            return  # of another program
        self.points = self.points or "kpt_shape" in entries
        self._of_sets(path, entries)

    def _of_sets(self, path: Path, entries: Mapping[str, Any]) -> None:
        if not self.sets:
            self.sets = _sets(path, entries)
            self.source = str(path) if self.sets else ""


def _told_in(folder: Path) -> Iterator[Path]:
    names = {path.name for path in folder.iterdir() if not is_hidden(path.name)}
    yaml = sorted(name for name in names if name.lower().endswith(_YAML_ENDINGS) and name not in _YAML)
    lists = sorted(name for name in names if name.lower().endswith(".names") and name not in _PLAIN)
    ordered = (*_YAML, *yaml, *_PLAIN, *lists, _NOTES, _DARKNET)
    places = [folder / name for name in ordered if name in names]
    if "labels" in names:
        places.append(folder / "labels" / "classes.txt")
    yield from (place for place in places if place.is_file())


def read_yaml(path: Path) -> Dict[str, Any]:
    """The entries of a YAML file's mapping, with texts, lists of texts and dicts of texts as values.

    Raises:
        DataError: it is no YAML, or an entry comes twice; without a place.
        DependencyError: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError:
        raise DependencyError(
            f"{path}: found YAML, expected PyYAML to read it (pip install pyyaml), or names in classes.txt"
        ) from None
    text = _text(path)
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise DataError(f"found bad YAML ({' '.join(str(error).split())[:200]}), expected names: [a, b]") from None
    except (RecursionError, ValueError):  # ValueError: an escape of no letter
        raise DataError("found YAML that cannot be read, expected names: [a, b]") from None
    if not isinstance(tree, yaml.MappingNode):
        return {}
    entries: Dict[str, Any] = {}
    for key, value in tree.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in entries and key.value in ("names", "path", *_SETS):
                raise DataError(f"found the entry {key.value!r} twice, expected it once")
            entries[key.value] = _plain(value)
    return entries


def _plain(node: Any) -> Any:
    """A node's value: a text, a list, or a list of pairs; None for what is deeper."""
    if isinstance(node.value, str):
        return node.value
    if node.id == "sequence":
        return [item.value if isinstance(item.value, str) else None for item in node.value]
    return {
        key.value: value.value if isinstance(value.value, str) else None
        for key, value in node.value
        if isinstance(key.value, str)
    }


def _sets(path: Path, entries: Mapping[str, Any]) -> Dict[str, Tuple[Path, ...]]:
    """The folders and lists that train, val and test name, as far as they are there."""
    root = path.parent
    if isinstance(entries.get("path"), str) and (root / entries["path"]).exists():
        root = root / entries["path"]
    found: Dict[str, Tuple[Path, ...]] = {}
    for key in _SETS:
        value = entries.get(key)
        values = value if isinstance(value, list) else [value]
        places = [_existing(text, (root, path.parent)) for text in values if isinstance(text, str) and text]
        if any(places) and set_name(key) not in found:
            found[set_name(key)] = tuple(place for place in places if place)
    return found


def _existing(text: str, roots: Sequence[Path]) -> Optional[Path]:
    """A place that an entry names. Roboflow's ``../train/images`` is ``train/images``, as Ultralytics reads it; an
    absolute path of another machine is the end of it that is here."""
    parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    for root in roots:
        for place in (root / text, *(root.joinpath(*parts[first:]) for first in range(len(parts)))):
            try:
                if place.exists():
                    return place
            except (OSError, ValueError):
                continue
    return None


def _of_darknet(path: Path) -> Dict[str, Any]:
    """The entries ``train = data/train.txt`` of a file as darknet and CVAT write it."""
    pairs = (line.partition("=") for line in _text(path).split("\n"))
    return {key.strip(): value.strip() for key, sign, value in pairs if sign}


def _of_notes(path: Path) -> Optional[ClassNames]:
    """The classes of Label Studio's notes.json: {"categories": [{"id": 0, "name": "cat"}]}."""
    value = read_json(path)
    categories = value.get("categories") if isinstance(value, dict) else None
    if not isinstance(categories, list):
        return None
    names: Dict[int, str] = {}
    for category in categories:
        if not isinstance(category, dict) or type(category.get("id")) is not int:
            raise DataError(f"categories: found {shown(category)}, expected an object with id and name")
        names[category["id"]] = str(category.get("name"))
    return ClassNames(tuple(_in_order(names)))


def _text(path: Path) -> str:
    data = read_bytes(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"found byte 0x{data[error.start]:02x}, which is not UTF-8, expected UTF-8") from None


def _from_lines(text: str) -> List[str]:
    """One name on each line, the first for id 0; a blank line between would shift the ids."""
    return [line.strip() for line in text.rstrip().split("\n")]


def _from_yaml(value: Any) -> List[str]:
    """``[a, b]`` or ``{0: a, 1: b}``, in order of the ids."""
    if isinstance(value, list):
        names = dict(enumerate(value))
    elif isinstance(value, dict) and all(key.isascii() and key.isdigit() and len(key) < 7 for key in value):
        names = {int(key): name for key, name in value.items()}
    else:
        raise DataError(f"names: found {shown(value)}, expected [a, b] or {{0: a, 1: b}}")
    for class_id, name in names.items():
        if name is None:
            raise DataError(f"names: found no text for class {class_id}, expected a name")
    return _in_order(names)


def _in_order(names: Dict[int, str]) -> List[str]:
    if not names or sorted(names) != list(range(len(names))):
        raise DataError(f"names: found ids {sorted(names)[:20]}, expected 0, 1, ... without a gap")
    return [names[class_id] for class_id in range(len(names))]


def members(places: Sequence[Path], images: Mapping[str, Path]) -> Set[str]:
    """The names of those `images` (name -> absolute path) that are in folders or lists of a set."""
    found: Set[str] = set()
    for place in places:
        real = place.resolve()
        if place.is_dir():
            found.update(name for name, path in images.items() if real in path.parents)
        else:
            found.update(_of_list(place, images))
    return found


def _of_list(place: Path, images: Mapping[str, Path]) -> Set[str]:
    """The images whose paths end as lines of a list do."""
    try:
        text = _text(place)
    except DataError as fault:
        raise fault.at(place) from None
    by_name: Dict[str, List[Tuple[Tuple[str, ...], str]]] = {}
    for name, path in images.items():
        parts = tuple(folded(part) for part in path.parts)
        by_name.setdefault(parts[-1], []).append((parts, name))
    found: Set[str] = set()
    for line in text.split("\n"):
        parts = tuple(folded(p) for p in line.strip().replace("\\", "/").split("/") if p not in ("", ".", ".."))
        if not parts or not parts[-1].endswith(tuple(IMAGE_FORMATS)):
            continue
        # the longest end of the line that is the end of an image's path
        for first in range(len(parts)):
            wanted = parts[first:]
            hits = [name for path, name in by_name.get(parts[-1], ()) if path[-len(wanted) :] == wanted]
            if hits:
                found.update(hits)
                break
    return found
