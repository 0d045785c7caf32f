"""Read and write YOLO text labels.

Each line is one box: ``<class id> <centre x> <centre y> <width> <height>``, normalized to 0..1 of the image size. A
line with a polygon (class id, x1, y1, x2, y2, ...) is read as its bounding box, as in Ultralytics. If data.yaml has
kpt_shape, the values after the box are keypoints and are ignored.

Images and labels are in the same folder, in folders `images` and `labels` of the same structure, or in two folders that
are passed. Class names and splits are read from data.yaml and other files (see `describe`); class names may be passed.

An empty .txt file is the label of a background image. An image without a .txt file is skipped, because it may show
objects. A label without an image is an error.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set, Tuple
from urllib.parse import unquote

from ssd_train.boxes import SizeWH
from ssd_train.data.file_names import (
    IMAGE_FORMATS,
    UNREAD_FORMATS,
    files_below,
    folded,
    images_below,
    is_hidden,
    paths_below,
)
from ssd_train.data.formats.builder import (
    BoxLabel,
    Corners,
    LabelsBuilder,
    box_corners,
    class_number,
    match_paths,
    new_folder,
    new_label_file,
    short_repr,
    split_path,
    text_number,
)
from ssd_train.data.formats.json_lines import PathLike, read_bytes, read_json, read_text
from ssd_train.data.image_io import read_header
from ssd_train.data.image_sources import key_parts
from ssd_train.data.split import TEST, TRAIN, VALIDATION, set_name
from ssd_train.data.structures import MAX_CLASSES, ClassNames, LabeledImage, Labels
from ssd_train.errors import DataError, DependencyError, locate_errors

_YAML = ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml")
YAML_ENDINGS = (".yaml", ".yml")
_PLAIN = ("classes.txt", "obj.names", "_darknet.labels", "predefined_classes.txt")
_COMPARED = (*_YAML, "classes.txt", "obj.names")  # the others may be left from a program's own examples
_BELOW = (*_YAML, *_PLAIN)  # searched in all subfolders, too, if the folders themselves have no names
_NOTES = "notes.json"
_DARKNET = "obj.data"
_SETS = (TRAIN, VALIDATION, TEST)
_UP = 2  # parent folders that are searched


@dataclass
class Description:
    """Class names and splits that the files of a data set declare; the first names and the first splits are used.

    Attributes:
        names: The class names, None if there are none.
        named_by: The file that declares them.
        conflict: What is wrong if another file, which is as near, declares other names; else "".
        points: True if lines have keypoints after the box.
        sets: train, val or test -> its folders and lists of images.
        source: The file that declares the splits, "" if there is none.
        nameless: The first data.yaml without names.
    """

    names: Optional[ClassNames] = None
    named_by: Optional[Path] = None
    conflict: str = ""
    points: bool = False
    sets: Dict[str, Tuple[Path, ...]] = field(default_factory=dict)
    source: str = ""
    nameless: Optional[Path] = None

    def read(self, files: Iterable[Path]) -> None:
        """Read files that are equally near, in order of precedence.

        Raises:
            DataError: a file is malformed; starts with the path.
        """
        named_nearer = self.names is not None
        for path in files:
            with locate_errors(path):
                if path.suffix.lower() in YAML_ENDINGS:
                    self._of_yaml(path, named_nearer)
                elif path.name == _DARKNET:
                    self._of_sets(path, _of_darknet(path))
                elif not named_nearer:
                    names = _of_notes(path) if path.name == _NOTES else ClassNames(_from_lines(read_text(path)))
                    self._add_names(path, names)

    def _add_names(self, path: Path, names: Optional[ClassNames]) -> None:
        """Take names, or compare them with those of a file that is as near; a list may be the beginning of another."""
        if self.names is None or names is None:
            self.names, self.named_by = (self.names, self.named_by) if names is None else (names, path)
            return
        if path.name not in _COMPARED:
            return
        shorter, longer = sorted((tuple(self.names), tuple(names)), key=len)
        if longer[: len(shorter)] != shorter:
            self.conflict = self.conflict or (
                f"{path}: found the classes {', '.join(names)}, and in {self.named_by} {', '.join(self.names)}; "
                "expected the same ids for all labels, or --class_names"
            )
        elif longer == tuple(names):
            self.names, self.named_by = names, path

    def _of_yaml(self, path: Path, named_nearer: bool) -> None:
        try:
            entries = read_yaml(path)
        except DataError:
            if path.name in _YAML:
                raise
            return  # file of another program, such as a template
        if "names" in entries:
            names = ClassNames(tuple(_from_yaml(entries["names"])))
            if not named_nearer:
                self._add_names(path, names)
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


def describe(folders: Sequence[Path]) -> Description:
    """Read the class names and splits of a data set; nearer files take precedence.

    Args:
        folders: The folders of its images and labels.

    Raises:
        DataError: a file is malformed, or data.yaml has no names and no other file does; starts with the path.
        DependencyError: there is a .yaml file, and PyYAML is not installed.
    """
    description = Description()
    near = [folder.absolute() for folder in dict.fromkeys(folders)]
    seen: Set[Path] = set()
    for up in range(_UP + 1):
        for folder in near:
            directory = [folder, *folder.parents][min(up, len(folder.parents))]
            if directory not in seen and directory.is_dir():
                seen.add(directory)
                description.read(description_files(directory))
        if not up and description.names is None:
            description.read(file for folder in near for file in files_below(folder) if file.name in _BELOW)
    if description.names is None and description.nameless is not None:
        raise DataError(f"{description.nameless}: found no entry names, expected names: [a, b]")
    return description


def description_files(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder that may declare class names or splits, in order of precedence."""
    names = {path.name for path in folder.iterdir() if not is_hidden(path.name)}
    yaml = sorted(name for name in names if name.lower().endswith(YAML_ENDINGS) and name not in _YAML)
    lists = sorted(name for name in names if name.lower().endswith(".names") and name not in _PLAIN)
    ordered = (*_YAML, *yaml, *_PLAIN, *lists, _NOTES, _DARKNET)
    paths = [folder / name for name in ordered if name in names]
    if "labels" in names:
        paths.append(folder / "labels" / "classes.txt")
    yield from (path for path in paths if path.is_file())


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
    text = read_text(path)
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
            if key.value in entries and (key.value in ("names", "path") or set_name(key.value) in _SETS):
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
    """Return the existing folders and lists that train, val and test name.

    Raises:
        DataError: those of train do not exist, and those of another set do.
    """
    root = path.parent
    if isinstance(entries.get("path"), str) and os.path.exists(root / entries["path"]):
        root = root / entries["path"]
    sets: Dict[str, Tuple[Path, ...]] = {}
    missing: Dict[str, List[str]] = {}
    for key, value in entries.items():
        if set_name(key) in _SETS:
            values = value if isinstance(value, list) else [value]
            texts = [text for text in values if isinstance(text, str) and text]
            targets = [_existing(text, (root, path.parent)) for text in texts]
            if any(targets) and set_name(key) not in sets:
                sets[set_name(key)] = tuple(target for target in targets if target)
            missing[set_name(key)] = [text for text, target in zip(texts, targets) if not target]
    if sets and TRAIN not in sets and missing.get(TRAIN):
        raise DataError(
            f"train: found {missing[TRAIN][0]!r}, which does not exist, expected a folder or list of images"
        )
    return sets


def _existing(text: str, roots: Sequence[Path]) -> Optional[Path]:
    """Return the existing path that an entry means, or None.

    Roboflow's ``../train/images`` means ``train/images``, as in Ultralytics. For an absolute path of another machine,
    its longest end that exists here is returned.
    """
    parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    for root in roots:
        for candidate in (root / text, *(root.joinpath(*parts[first:]) for first in range(len(parts)))):
            try:
                if candidate.exists():
                    return candidate
            except (OSError, ValueError):
                continue
    return None


def _of_darknet(path: Path) -> Dict[str, Any]:
    """Return the entries ``train = data/train.txt`` of a file of darknet or CVAT."""
    pairs = (line.partition("=") for line in read_text(path).split("\n"))
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
            raise DataError(f"categories: found {short_repr(category)}, expected an object with id and name")
        names[category["id"]] = str(category.get("name"))
    return ClassNames(tuple(_in_order(names)))


def _from_lines(text: str) -> Tuple[str, ...]:
    """Return one name per line, id 0 first; removing a blank line would shift the ids."""
    return tuple(line.strip() for line in text.rstrip().split("\n"))


def _from_yaml(value: Any) -> List[str]:
    """Return the names in ``[a, b]`` or ``{0: a, 1: b}``, sorted by id."""
    if isinstance(value, list):
        names = dict(enumerate(value))
    elif isinstance(value, dict) and all(key.isascii() and key.isdigit() and len(key) < 7 for key in value):
        names = {int(key): name for key, name in value.items()}
    else:
        raise DataError(f"names: found {short_repr(value)}, expected [a, b] or {{0: a, 1: b}}")
    for class_id, name in names.items():
        if name is None:
            raise DataError(f"names: found no text for class {class_id}, expected a name")
    return _in_order(names)


def _in_order(names: Dict[int, str]) -> List[str]:
    if not names or sorted(names) != list(range(len(names))):
        raise DataError(f"names: found ids {sorted(names)[:20]}, expected 0, 1, ... without a gap")
    return [names[class_id] for class_id in range(len(names))]


def members(sources: Sequence[Path], images: Mapping[str, Path]) -> Set[str]:
    """Return the names of the images that the folders and lists of a split contain.

    Args:
        sources: Folders and list files of the split.
        images: Name -> absolute path of each image.
    """
    names: Set[str] = set()
    real_folders = {folder: folder.resolve() for folder in {path.parent for path in images.values()}}
    for source in sources:
        real = source.resolve()
        if source.is_dir():
            inside = {folder for folder, target in real_folders.items() if real == target or real in target.parents}
            names.update(name for name, path in images.items() if path.parent in inside)
        else:
            names.update(_of_list(source, images))
    return names


def _of_list(list_file: Path, images: Mapping[str, Path]) -> Set[str]:
    """Return the names of the images whose paths end as a line of a list does."""
    with locate_errors(list_file):
        entries = map(split_path, read_text(list_file).split("\n"))
    listed = (entry for entry in entries if entry and entry[-1].endswith(tuple(IMAGE_FORMATS)))
    return match_paths(listed, ((tuple(map(folded, path.parts)), name) for name, path in images.items()))


NO_LABEL = "no label file"

_ENDING = ".txt"
_NO_LABELS = ("classes.txt", "predefined_classes.txt")  # text files among labels that are not labels
_WHOLE = re.compile(r"\d+\.0*|\d+(?:\.\d*)?[eE][+-]?\d{1,2}", re.ASCII)
_IMAGES = ("images", "JPEGImages")  # folders with a sister folder `labels`
_LEAST_POLYGON = 6  # coordinates: three points


def read_yolo(
    path: PathLike,
    class_names: Optional[ClassNames] = None,
    on_bad: str = "error",
    labels: Optional[PathLike] = None,
) -> Labels:
    """Read the labels of all images below a folder.

    `LabeledImage.name` is the path of the image below `path`. Image headers are read, because coordinates are
    normalized to the size of the upright image (EXIF orientation applied).

    Args:
        path: The folder of the images.
        class_names: Names of the ids 0, 1, ...; None reads them from the data set.
        on_bad: "error" raises one DataError for all bad labels, "skip" skips them.
        labels: A folder of the same structure with the labels; None is `path`. Labels that are not there are looked for
            next to the image, and in a folder `labels` instead of `images`.

    Raises:
        DataError: there is no image, or `on_bad` is "error" and some lines are bad or a label has no image; names
            ``file:line``.
    """
    root, others = Path(path), Path(path if labels is None else labels)
    images = images_below(root)
    if not images:
        raise DataError(f"{path}: found no images, expected a folder of images with YOLO labels (.txt)")
    description = describe([root, others])
    if description.conflict and class_names is None:
        raise DataError(description.conflict, "conflicting-class-map")
    known_names = class_names or description.names
    by = "" if class_names or not description.named_by else f", the classes of {description.named_by}"
    classes = (len(known_names), by) if known_names else (MAX_CLASSES, "")
    builder = LabelsBuilder(str(path), on_bad)
    files = _LabelFiles(root, others, Counter(image.stem for image in images))
    for image in images:
        file = files.of(image)
        if file is None:
            builder.skip(str(image), NO_LABEL, f"expected {image.with_suffix(_ENDING).name}")
        else:
            _add(builder, file, image, image.relative_to(root).as_posix(), classes, description.points)
    unused = list(files.unused())
    candidates = files_below(root) if unused else ()
    unread = {file.stem: file.name for file in candidates if file.suffix.lower() in UNREAD_FORMATS}
    for file in unused:
        message = f"found {unread[file.stem]}, expected JPEG, PNG, BMP, TIFF or WebP" if file.stem in unread else ""
        builder.add_error(
            str(file),
            DataError(message or f"found no image of this label below {root}, expected one", "missing-image"),
        )
    names = known_names or builder.numbered_classes()
    read = builder.build(names, {"sets": description.source} if description.source else None)
    if description.sets:
        real = root.resolve()
        there = {record.name: real / record.name for record in read.records}
        sets = {name: frozenset(members(sources, there)) for name, sources in description.sets.items()}
        read = dataclasses.replace(read, sets={name: found for name, found in sets.items() if found})
    return read


def write_yolo(path: PathLike, records: Iterable[LabeledImage], class_names: ClassNames) -> None:
    """Write labels/<name>.txt per record, and data.yaml, to a new folder.

    The folder appears only when it is complete. The images belong into the folder `images` next to `labels`, at the
    paths of `image_parts`.

    Raises:
        DataError: a record has no size, two names differ only in their extension, or the folder is not empty.
    """
    with new_folder(path) as folder:
        (folder / "labels").mkdir()
        for record in records:
            where = record.location
            if record.size_wh is None:
                raise DataError(f"{where}: found no image size, expected one: YOLO needs it")
            target = new_label_file(folder / "labels", "/".join(image_parts(record)), _ENDING, where)
            target.write_text("".join(_lines_of(record, record.size_wh)), encoding="ascii")
        names = "".join(f"  {class_id}: {_quoted(name)}\n" for class_id, name in enumerate(class_names))
        # without `path` the folders are those beside data.yaml; Ultralytics takes `path: .` for the working directory
        text = f"train: images\nval: images\nnc: {len(class_names)}\nnames:\n{names}"
        (folder / "data.yaml").write_text(text, encoding="utf-8")


def image_parts(record: LabeledImage) -> List[str]:
    """Return the parts of the image's path in a YOLO data set, without folders named `images`.

    Ultralytics looks for a label where the last folder `images` of the image's path is replaced by `labels`.
    """
    *folders, name = key_parts(record)
    return [*(folder for folder in folders if folder != "images"), name]


def _lines_of(record: LabeledImage, size_wh: SizeWH) -> Iterator[str]:
    width, height = size_wh
    for (x1, y1, x2, y2), class_id in zip(record.boxes.tolist(), record.class_ids.tolist()):
        fractions = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        yield f"{class_id} {' '.join(f'{fraction:.12g}' for fraction in fractions)}\n"


def _quoted(name: str) -> str:
    """Quote a string for YAML; characters that are not printable are escaped."""
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in escaped) + '"'


class _LabelFiles:
    """The label files of a data set; assigns them to images and lists the rest."""

    def __init__(self, root: Path, labels: Path, stems: Mapping[str, int]) -> None:
        self._root, self._labels, self._stems = root, labels, stems
        self._folders: Dict[Path, Dict[str, Path]] = {}
        self._folded: Dict[Path, Dict[str, Path]] = {}
        self._used: Set[Path] = set()
        self._by_stem: Optional[Dict[str, List[Path]]] = None

    def of(self, image: Path) -> Optional[Path]:
        """Return the label file of an image, or None.

        These places are tried in turn: the path of the image below the folder `labels`; next to the image; the path of
        the image below labels/labels; the path of the image with a folder `images` replaced by `labels`; the only file
        of the same name elsewhere (`_elsewhere`).
        """
        relative = image.relative_to(self._root)
        for candidate in self._candidates(image, relative):
            files = self._in(candidate.parent)
            file = files.get(candidate.stem)
            if file is None:  # the name differs in case or Unicode form; it must not be that of another image
                alike = self._alike(candidate.parent).get(folded(candidate.stem))
                file = alike if alike is not None and alike.stem not in self._stems else None
            if file is not None:
                self._used.add(file)
                return file
        file = self._elsewhere(image)
        if file is not None:
            self._used.add(file)
        return file

    def _candidates(self, image: Path, relative: Path) -> Iterator[Path]:
        yield self._labels / relative
        yield image
        yield self._labels / "labels" / relative
        parts = image.absolute().parts
        for index in range(len(parts) - 2, -1, -1):
            if parts[index] in _IMAGES:
                yield Path(*parts[:index], "labels", *parts[index + 1 :])

    def _in(self, folder: Path) -> Dict[str, Path]:
        """Return name without extension -> label file of a folder."""
        files = self._folders.get(folder)
        if files is None:
            names = os.listdir(folder) if folder.is_dir() else []
            texts = sorted(name for name in names if name.lower().endswith(_ENDING) and not is_hidden(name))
            files = {name[: -len(_ENDING)]: folder / name for name in texts}
            self._folders[folder] = files
        return files

    def _alike(self, folder: Path) -> Dict[str, Path]:
        """Return folded or percent-decoded name -> label file; omit ambiguous names."""
        by_folded_stem = self._folded.get(folder)
        if by_folded_stem is None:
            groups: Dict[str, List[Path]] = {}
            for stem, file in self._in(folder).items():
                for key in {folded(stem), folded(unquote(stem))}:
                    groups.setdefault(key, []).append(file)
            by_folded_stem = {key: files[0] for key, files in groups.items() if len(files) == 1}
            self._folded[folder] = by_folded_stem
        return by_folded_stem

    def _elsewhere(self, image: Path) -> Optional[Path]:
        """Return the only label file below the folder `labels` with the image's name.

        Returns None if another image has the label already. If images and labels have the same root folder, the name of
        the image must be unique, too, and paths with a folder `images` or `labels` are not matched.
        """
        if self._labels == self._root and (
            self._stems[image.stem] > 1 or set(_IMAGES) & set(image.relative_to(self._root).parts)
        ):
            return None
        if self._by_stem is None:
            self._by_stem = {}
            for file in files_below(self._labels):
                if file.suffix.lower() == _ENDING:
                    self._by_stem.setdefault(folded(file.stem), []).append(file)
        candidates = self._by_stem.get(folded(image.stem), [])
        if (
            len(candidates) != 1
            or candidates[0] in self._used
            or (self._labels == self._root and "labels" in candidates[0].relative_to(self._labels).parts)
        ):
            return None
        return candidates[0]

    def unused(self) -> List[Path]:
        """Return the label files without an image, sorted.

        Candidates are the .txt files in the folders where `of` looked for labels, and those below both root folders.
        """
        used = set(map(os.path.abspath, self._used))
        folders = {os.path.dirname(file) for file in used}
        texts: Dict[str, Path] = {}
        for folder, files in self._folders.items():
            absolute = os.path.abspath(folder)
            texts.update((os.path.join(absolute, file.name), file) for file in files.values())
        for root in {self._root, self._labels}:
            is_absolute = root.is_absolute()
            for path in paths_below(root):
                key = path if is_absolute else os.path.abspath(path)
                if path.lower().endswith(_ENDING) and key not in texts:
                    texts[key] = Path(path)
        return sorted(
            file
            for path, file in texts.items()
            if path not in used and file.name not in _NO_LABELS and _is_label(file, os.path.dirname(path) in folders)
        )


def _is_label(file: Path, among_labels: bool) -> bool:
    """Return True if a text file starts with a YOLO line.

    An empty or unreadable file counts as a label if `among_labels` (its folder has labels of images).
    """
    try:
        first = next(_lines(file), None)
    except DataError:
        return among_labels
    if first is None:
        return among_labels
    try:
        _class_id(first[1][0])
        return len(first[1]) > 4 and all(_fraction(text) is not None for text in first[1][1:])
    except DataError:
        return False


def _add(builder: LabelsBuilder, file: Path, image: Path, name: str, classes: Tuple[int, str], points: bool) -> None:
    """Add the label of one image; its first invalid line makes it bad.

    `classes` are the number of classes, and for messages the file that names them, or "".
    """
    num_classes, named_by = classes
    where = str(image)
    try:
        size_wh = read_header(read_bytes(image), "image").display_wh
        label = BoxLabel([], [], size_wh)
        where = str(file)
        for line_number, fields in _lines(file):
            where = f"{file}:{line_number}"
            class_id = _class_id(fields[0])
            if class_id >= num_classes:
                raise DataError(
                    f"class id: found {class_id}, expected less than {num_classes}{named_by}", "unknown-class"
                )
            label.boxes.append(_box(fields, size_wh, points))
            label.class_ids.append(class_id)
        builder.add(str(file), name, label)
    except DataError as fault:
        builder.add_error(where, fault)


def _lines(file: Path) -> Iterator[Tuple[int, List[str]]]:
    data = read_bytes(file)
    for line_number, line in enumerate((data[3:] if data.startswith(b"\xef\xbb\xbf") else data).split(b"\n"), 1):
        fields = line.decode("ascii", "backslashreplace").split()
        if fields:
            yield line_number, fields


def _class_id(text: str) -> int:
    """Parse a class id, also written 1.0 or 1.000e+00, as NumPy writes it."""
    if _WHOLE.fullmatch(text) and len(text) < 30 and float(text).is_integer() and float(text) < MAX_CLASSES:
        return int(float(text))
    return class_number(text, "class id")


def _box(fields: List[str], size_wh: SizeWH, points: bool) -> Corners:
    count = len(fields) - 1
    if not points and count == _LEAST_POLYGON and fields[-1].isdigit() and int(fields[-1]) > 1:
        raise DataError(
            f"found the whole number {fields[-1]} after six numbers, a track's id as Ultralytics writes it, expected "
            "class id, centre x, centre y, width, height"
        )
    if not points and count >= _LEAST_POLYGON and count % 2 == 0:
        fractions = [_fraction(text) for text in fields[1:]]
        xs, ys = (
            [fraction * side for fraction in part] for part, side in zip((fractions[::2], fractions[1::2]), size_wh)
        )
        return box_corners(min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
    if count != 4 and not (points and count > 4):
        raise DataError(
            f"found {len(fields)} numbers, expected class id, centre x, centre y, width, height, or class id and the "
            "points of a polygon"
        )
    x, y, width, height = (_fraction(text) for text in fields[1:5])
    image_width, image_height = size_wh
    left, top = (x - width / 2) * image_width, (y - height / 2) * image_height
    return box_corners(left, top, width * image_width, height * image_height)


def _fraction(text: str) -> float:
    value = text_number(text, "share of the image")
    if not -1 <= value <= 2:  # values slightly outside 0..1 are valid here: `fit_boxes` clips the box
        raise DataError(
            f"found {short_repr(text)}, expected a share of the image, 0..1 (not pixels)", "bad-coordinates"
        )
    return value
