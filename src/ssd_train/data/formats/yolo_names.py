"""Read the class names and splits of a YOLO data set.

Class names are read from data.yaml (or another .yaml file with `names`), classes.txt, obj.names, any *.names file or
Label Studio's notes.json. These files are looked for next to the labels or images, in the folder ``labels``, and in the
two folders above, where different tools put them.

PyYAML is imported only if there is a .yaml file. Only its node tree is used, with the safe loader, and no values are
constructed. So a class may be named ``no`` or ``1.0``.
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
_BELOW = (*_YAML, *_PLAIN)  # searched in all subfolders, too, if the folders themselves have no names
_NOTES = "notes.json"
_DARKNET = "obj.data"
_SETS = ("train", "val", "valid", "test")
_UP = 2  # parent folders that are searched


@dataclass(frozen=True)
class Description:
    """Class names and splits that the files of a data set declare.

    Attributes:
        names: The class names, None if there are none.
        points: True if lines have keypoints after the box.
        sets: train, val or test -> its folders and lists of images.
        source: The file that declares the splits, "" if there is none.
    """

    names: Optional[ClassNames] = None
    points: bool = False
    sets: Mapping[str, Tuple[Path, ...]] = field(default_factory=dict)
    source: str = ""


def read_yolo_names(folder: Path) -> Optional[ClassNames]:
    """Return the class names of the data set in `folder`, or None.

    Raises:
        DataError: a file is malformed; starts with the path.
    """
    return describe([folder]).names


def describe(folders: Sequence[Path]) -> Description:
    """Read the class names and splits of a data set; nearer files take precedence.

    Args:
        folders: The folders of its images and labels.

    Raises:
        DataError: a file is malformed, or data.yaml has no names and no other file does; starts with the path.
        DependencyError: there is a .yaml file, and PyYAML is not installed.
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
    """Builder of a Description; the first names and the first splits are used."""

    def __init__(self) -> None:
        self.names: Optional[ClassNames] = None
        self.points = False
        self.sets: Dict[str, Tuple[Path, ...]] = {}
        self.source = ""
        self.nameless: Optional[Path] = None  # the first data.yaml without names

    def read(self, files: Iterable[Path]) -> None:
        """Read files in order of precedence.

        Raises:
            DataError: a file is malformed; starts with the path.
        """
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
            return  # file of another program
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
    """Return the top-level mapping of a YAML file, {} if it has none.

    Values are strings, lists of strings, or dicts of strings. Deeper values are None.

    Raises:
        DataError: the file is not valid YAML, or repeats names, path or a split; the message names no file.
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
    except (RecursionError, ValueError):  # ValueError: an invalid escape
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
    """Convert a node to a string, a list or a dict; deeper values become None."""
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
    """Return the existing folders and lists that train, val and test name."""
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
    """Return the existing path that an entry means, or None.

    Roboflow's ``../train/images`` means ``train/images``, as in Ultralytics. For an absolute path of another machine,
    its longest end that exists here is returned.
    """
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
    """Return the entries ``train = data/train.txt`` of a file of darknet or CVAT."""
    pairs = (line.partition("=") for line in _text(path).split("\n"))
    return {key.strip(): value.strip() for key, sign, value in pairs if sign}


def _of_notes(path: Path) -> Optional[ClassNames]:
    """Read notes.json of Label Studio: {"categories": [{"id": 0, "name": "cat"}]}."""
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
    """Return one name per line, id 0 first; removing a blank line would shift the ids."""
    return [line.strip() for line in text.rstrip().split("\n")]


def _from_yaml(value: Any) -> List[str]:
    """Return the names in ``[a, b]`` or ``{0: a, 1: b}``, sorted by id."""
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
    """Return the names of the images that the folders and lists of a split contain.

    Args:
        places: Folders and list files of the split.
        images: Name -> absolute path of each image.
    """
    found: Set[str] = set()
    for place in places:
        real = place.resolve()
        if place.is_dir():
            found.update(name for name, path in images.items() if real in path.parents)
        else:
            found.update(_of_list(place, images))
    return found


def _of_list(place: Path, images: Mapping[str, Path]) -> Set[str]:
    """Return the names of the images whose paths end as a line of a list does."""
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
        # use the longest end of the line that is the end of an image's path
        for first in range(len(parts)):
            wanted = parts[first:]
            hits = [name for path, name in by_name.get(parts[-1], ()) if path[-len(wanted) :] == wanted]
            if hits:
                found.update(hits)
                break
    return found
