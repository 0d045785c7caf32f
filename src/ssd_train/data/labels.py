"""Load labels of any format, together with the source of their images."""

from __future__ import annotations

import dataclasses
import mmap
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from ssd_train.boxes import SizeWH
from ssd_train.data.file_names import IMAGE_FORMATS, files_below, folded, is_image_name
from ssd_train.data.formats.coco import read_coco, read_coco_splits, split_files
from ssd_train.data.formats.ground_truth import MANIFEST_SUFFIXES, manifests_in, read_ground_truth
from ssd_train.data.formats.image_json import read_image_json
from ssd_train.data.formats.json_lines import PathLike
from ssd_train.data.formats.recordio import MAGIC, read_recordio
from ssd_train.data.formats.voc import read_voc
from ssd_train.data.formats.yolo import YAML_ENDINGS, description_files, read_yolo
from ssd_train.data.image_io import read_header, sniff_format
from ssd_train.data.image_sources import Fetch, FetchedImages, FolderImages
from ssd_train.data.split import select_split, with_folder_splits
from ssd_train.data.structures import ClassNames, ImageSource, LabeledImage, Labels
from ssd_train.errors import ConfigError, DataError, reading

# descriptions of the formats for messages
EXPECTED = {
    "ground_truth": "a Ground Truth manifest (*.manifest, *.jsonl, output.manifest)",
    "recordio": "a detection .rec",
    "coco": "a COCO .json",
    "image_json": "a folder with one .json for each image",
    "voc": "a folder of VOC .xml",
    "yolo": "a folder of YOLO .txt",
}

_HEAD = 1 << 16  # bytes of a file that are examined
_ENOUGH = 20  # .json files of one image each, after which the remaining ones are not examined
_JSON_OBJECT = re.compile(rb"[\s\xef\xbb\xbf]*\{")
_COCO_PARTS = (b'"images"', b'"annotations"', b'"categories"')
_COCO_KEYS = (b'"images"', b'"annotations"')
_CLASS, _NUMBER = rb"\d+(?:\.0*)?(?:e[-+]?\d+)?", rb"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
_YOLO_LINE = re.compile(rb"(?:\xef\xbb\xbf)?\s*%b((?:[ \t]+%b){4,})[ \t]*(?:\r?\n|$)" % (_CLASS, _NUMBER), re.I)
_COORDINATES = (-1.0, 2.0)  # range of a YOLO coordinate, boxes that leave the image included
# folder of images -> sister folder with the labels
SISTERS = {"images": "labels", "JPEGImages": "Annotations"}
_FOLDER_FORMATS = ("image_json", "voc", "yolo")  # one file per image
# tool -> texts in its files
_FOREIGN = {
    "labelme": (b'"shapes"', b'"flags"'),
    "VIA": (b'"regions"', b'"region_attributes"'),
    "Label Studio": (b'"from_name"', b'"to_name"'),
    "CVAT": (b"<annotations>", b"<image "),
}
_FILE_ENDINGS = {"recordio": (".rec",), "coco": (".json",), "ground_truth": MANIFEST_SUFFIXES}


class DetectedLabels(NamedTuple):
    """Labels found by `detect_format`.

    Attributes:
        format: Key of EXPECTED.
        path: File or folder for the format's reader.
    """

    format: str
    path: Path


class AmbiguousFormat(DataError):
    """A folder has labels of several formats.

    Attributes:
        candidates: Labels of each format of which there is exactly one file or folder.
    """

    def __init__(self, message: str, candidates: List[DetectedLabels]) -> None:
        super().__init__(message)
        self.candidates = candidates


def detect_format(path: PathLike, wanted: str = "") -> DetectedLabels:
    """Find the labels in a file or folder and detect their format.

    For a folder of images without labels, the sister folder is searched: images/train -> labels/train.

    Args:
        path: File or folder.
        wanted: Key of EXPECTED to find labels of this format only; "" for any.

    Raises:
        DataError: No labels, or several candidates; the message says what was searched for and what was found.
    """
    source = Path(path)
    if source.is_dir():
        return _in_sister(source, wanted) or _choose(source, _in_folder(source, wanted), wanted)
    if not source.exists():
        raise DataError(f"{path}: not found, expected labels: {_expected(wanted)}")
    if source.suffix.lower() in YAML_ENDINGS and wanted in ("", "yolo"):
        return _of_data_yaml(source)
    if wanted:
        return DetectedLabels(wanted, source)
    format = _of_file(source)
    if not format:
        content = f"{sniff_format(_head(source))}{_foreign([source])}"
        raise DataError(f"{path}: found {content}, expected {_expected()}; --labels_format says which it is")
    return DetectedLabels(format, source)


def _in_sister(folder: Path, wanted: str) -> Optional[DetectedLabels]:
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


def _choose(folder: Path, candidates: Dict[str, List[Path]], wanted: str) -> DetectedLabels:
    by_format = {name: paths for name, paths in candidates.items() if paths and wanted in ("", name)}
    if not by_format:
        files = [file for files in _files_by_ending(folder).values() for file in files]
        raise DataError(f"{folder}: found {_contents(folder)}{_foreign(files)}, expected labels: {_expected(wanted)}")
    listed = [str(path.relative_to(folder)) for paths in by_format.values() for path in paths[:2] if path != folder]
    if len(by_format) > 1:
        raise AmbiguousFormat(
            f"{folder}: found labels of the formats {', '.join(sorted(by_format))} ({', '.join(listed)}), expected one "
            "format: name the file or folder, or give --labels_format",
            [DetectedLabels(name, paths[0]) for name, paths in by_format.items() if len(paths) == 1],
        )
    ((name, paths),) = by_format.items()
    if name == "coco" and len(split_files(folder, paths)) > 1:
        return DetectedLabels(name, folder)
    if len(paths) > 1:
        splits = ", or one for each of train, val and test" if name == "coco" else ""
        raise DataError(
            f"{folder}: found {len(paths)} times {EXPECTED[name]} ({', '.join(listed)}), expected one{splits}: name it"
        )
    return DetectedLabels(name, paths[0])


def _in_folder(folder: Path, wanted: str = "") -> Dict[str, List[Path]]:
    """Return format -> candidates for its reader.

    The candidate is the folder itself for formats with one label file per image.
    """
    files = _files_by_ending(folder)
    if wanted in _FOLDER_FORMATS:
        return {wanted: [folder]}
    jsons = _jsons(files.get(".json", []))
    by_format = {
        "ground_truth": manifests_in(folder) or jsons.get("ground_truth", []),
        "recordio": files.get(".rec", []),
        "coco": jsons.get("coco", []),
        "image_json": [folder] if "image_json" in jsons else [],
        "voc": [folder] if any(re.search(rb"<annotation[\s>]", _head(file)) for file in files.get(".xml", [])) else [],
        "yolo": [folder] if any(_is_yolo(_head(file)) for file in files.get(".txt", [])) else [],
    }
    if not any(by_format.values()) and _beside_images(files):
        by_format["yolo"] = [folder]  # the reader reports what is wrong with each
    if wanted and not by_format[wanted]:  # take the only file it could be: the reader reports what is wrong with it
        named = [file for ending in _FILE_ENDINGS[wanted] for file in files.get(ending, [])]
        by_format[wanted] = named if len(named) == 1 else []
    return by_format


def _beside_images(files: Dict[str, List[Path]]) -> bool:
    """Return whether a .txt has the name of an image."""
    stems = {folded(file.stem) for ending in IMAGE_FORMATS for file in files.get(ending, [])}
    return any(folded(file.stem) in stems for file in files.get(".txt", []))


def _jsons(files: Sequence[Path]) -> Dict[Optional[str], List[Path]]:
    """Group .json files by the format of their labels; None if unknown."""
    by_format: Dict[Optional[str], List[Path]] = {}
    for file in files:
        by_format.setdefault(_of_json(file), []).append(file)
        if len(by_format.get("image_json", [])) >= _ENOUGH:
            break
    return by_format


def _is_yolo(head: bytes) -> bool:
    """Return whether a text starts with a YOLO line: class id and coordinates."""
    line = _YOLO_LINE.match(head)
    return line is not None and all(
        _COORDINATES[0] <= float(value) <= _COORDINATES[1] for value in line.group(1).split()
    )


def _of_data_yaml(file: Path) -> DetectedLabels:
    """Return the YOLO dataset in the folder of its data.yaml.

    Raises:
        DataError: There are no YOLO labels, or another file describes them.
    """
    folder = file.parent
    if next(description_files(folder), file) != file or not _in_folder(folder)["yolo"]:
        raise DataError(f"{file}: found a YAML file, expected the folder of a YOLO data set: {folder}")
    return DetectedLabels("yolo", folder)


def _of_file(file: Path) -> str:
    ending = file.suffix.lower()
    if ending in MANIFEST_SUFFIXES:  # without opening it: it may be large, and the reader opens it once
        return "ground_truth"
    head = _head(file)
    if ending == ".rec" or head.startswith(MAGIC):
        return "recordio"
    format = _of_json(file)
    if format is None and _JSON_OBJECT.match(head) and any(key in head for key in _COCO_PARTS):
        return "coco"  # a key is missing or the file is truncated: the reader reports it
    return format if format in ("coco", "ground_truth") else ""


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
    with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(key) >= 0


def _files_by_ending(folder: Path) -> Dict[str, List[Path]]:
    by_ending: Dict[str, List[Path]] = {}
    for file in files_below(folder):
        by_ending.setdefault(file.suffix.lower(), []).append(file)
    return by_ending


def _head(file: Path) -> bytes:
    with reading(file, "a readable file"), open(file, "rb") as opened:
        return opened.read(_HEAD)


def _foreign(files: Iterable[Path]) -> str:
    """Return for a message which tool wrote the first label file whose own format is not read; "" if none."""
    for file in files:
        if file.suffix.lower() in (".json", ".xml"):
            head = _head(file)
            for tool, keys in _FOREIGN.items():
                if all(key in head for key in keys):
                    return f" with {file.name} in the format of {tool} (export COCO from it)"
    return ""


def _contents(folder: Path) -> str:
    """Describe a folder's content for a message: the number of files by extension."""
    counts = Counter({ending: len(files) for ending, files in _files_by_ending(folder).items()})
    return ", ".join(f"{count} {ending or 'without ending'}" for ending, count in counts.most_common(6)) or "no file"


def _expected(wanted: str = "") -> str:
    names: Iterable[str] = [wanted] if wanted else EXPECTED
    return ", or ".join(EXPECTED[name] for name in names)


@dataclass(frozen=True)
class LabelOptions:
    """Options for reading labels.

    Attributes:
        format: Key of EXPECTED, or "" to detect it.
        attribute: Label attribute of a manifest, or "" for the newest job's.
        on_bad: "error" or "skip" for unusable labels.
        class_names: For formats without names, the names of the ids 0, 1, ...; for others, the order of the classes.
        fetch: Function that downloads images named by S3 URLs that the folder lacks; None: they are missing.
        split: Name of a split defined in the data (train, val, test), or "" for all.
        verified: Load only images with this result of a Ground Truth verification job, e.g. "good"; "" for all.
    """

    format: str = ""
    attribute: str = ""
    on_bad: str = "error"
    class_names: Optional[ClassNames] = None
    fetch: Optional[Fetch] = None
    split: str = ""
    verified: str = ""

    def __post_init__(self) -> None:
        if self.format and self.format not in EXPECTED:
            raise ConfigError(f"labels_format: found {self.format!r}, expected one of {', '.join(EXPECTED)}")


@dataclass(frozen=True)
class LabeledDataset:
    """Labels and the source of their images."""

    labels: Labels
    images: ImageSource

    def size_of(self, record: LabeledImage) -> SizeWH:
        """Return the (width, height) of an image, of its labels or else of its header, upright."""
        return record.size_wh or read_header(self.images.read(record), record.location).display_wh


def load_labels(
    images: Optional[PathLike], labels: Optional[PathLike], options: LabelOptions = LabelOptions()
) -> LabeledDataset:
    """Load labels and the source of their images.

    The images are those within the labels (RecordIO) or those in the folder `images`.

    Args:
        images: Folder of images; if None, the folder of the labels is searched.
        labels: File or folder of labels; if None, `images` is searched.
        options: Options for reading.

    Raises:
        DataError: There are no labels, several candidates, or the labels cannot be used.
        ConfigError: An option does not fit the labels.
    """
    source_path = labels if labels is not None else images
    if source_path is None:
        raise ConfigError("found neither images nor labels, expected at least one of them")
    try:
        format, label_path = detect_format(source_path, options.format)
    except AmbiguousFormat as fault:
        format, label_path = _of_one_content(fault, images, labels, options)
    near = label_path if label_path.is_dir() else label_path.parent
    folder = _image_folder(images, labels, near)
    read, source = _read(format, label_path, folder, options)
    if not len(read.class_names):
        raise DataError(
            f"{read.source}: found no labelled object in {len(read)} images, expected at least one box", "no-objects"
        )
    read = dataclasses.replace(read, details={**read.details, "format": format})
    if options.verified and format != "ground_truth":
        raise ConfigError(f"verified: found {options.verified!r} and labels of {format}, expected ground_truth")
    if format in _FOLDER_FORMATS:
        read = with_folder_splits(read)
    if options.split:
        read = select_split(read, options.split)
    if source is None:
        own = FolderImages(folder)
        source = FetchedImages(own, read.records, options.fetch) if options.fetch else own
    return LabeledDataset(read, source)


def _of_one_content(
    fault: AmbiguousFormat, images: Optional[PathLike], labels: Optional[PathLike], options: LabelOptions
) -> DetectedLabels:
    """Return the first of several label formats if all have the same content.

    That is the case after a conversion.

    Raises:
        AmbiguousFormat: their contents differ.
    """
    contents = []
    options = dataclasses.replace(options, on_bad="error")  # a skipped label may be usable in the other format
    for format, label_path in fault.candidates:
        near = label_path if label_path.is_dir() else label_path.parent
        try:
            read, _ = _read(format, label_path, _image_folder(images, labels, near), options)
        except (DataError, ConfigError):
            raise fault from None
        contents.append({record.basename: _rows(record, read.class_names) for record in read.records})
    first, *others = contents
    same = len(fault.candidates) > 1 and all(
        first.keys() == other.keys() and all(_alike(first[name], other[name]) for name in first) for other in others
    )
    if not same:
        raise fault
    return fault.candidates[0]


def _rows(record: LabeledImage, class_names: ClassNames) -> List[Tuple[str, Tuple[float, ...]]]:
    rows = zip(record.class_ids.tolist(), record.boxes.tolist())
    return sorted((class_names[class_id], tuple(box)) for class_id, box in rows)


def _alike(a: "List[Tuple[str, Tuple[float, ...]]]", b: "List[Tuple[str, Tuple[float, ...]]]") -> bool:
    """Return whether two images have the same classes and boxes, within a pixel."""
    return len(a) == len(b) and all(
        left[0] == right[0] and all(abs(x - y) <= 1 for x, y in zip(left[1], right[1])) for left, right in zip(a, b)
    )


def _image_folder(images: Optional[PathLike], labels: Optional[PathLike], near: Path) -> Path:
    """Return the folder of the images: the given one, else the one of the labels.

    `images` and `labels` may be the same file.
    """
    sisters = (sister_folder(near, labels_name, name) for name, labels_name in SISTERS.items())
    sister = next(filter(None, sisters), None) if images is None else None
    if sister is not None and not any(is_image_name(file.name) for file in files_below(near)):
        return sister
    if images is None or (os.path.isfile(images) and (labels is None or os.path.samefile(images, labels))):
        return near
    if not os.path.isdir(images):
        kind = "a file" if os.path.exists(images) else "nothing"
        raise DataError(f"{images}: found {kind}, expected a folder of images")
    return Path(images)


def read_labels(path: PathLike, label_attribute: Optional[str] = None, on_bad: str = "error") -> Labels:
    """Load only the labels of a file or folder, as `load_labels` does."""
    return load_labels(None, path, LabelOptions("", label_attribute or "", on_bad)).labels


def parse_class_names(text: str) -> Optional[ClassNames]:
    """Parse class names separated by commas; None for an empty text.

    Raises:
        ConfigError: A name is blank or occurs twice.
    """
    if not text.strip():
        return None
    try:
        return ClassNames(tuple(name.strip() for name in text.split(",")))
    except DataError as error:
        raise ConfigError(f"class_names: {error}") from None


def has_own_ids(labels: Labels) -> bool:
    """Return whether the format numbers its classes from 0.

    COCO categories have other ids, and VOC has only names.
    """
    return labels.details.get("format") not in ("coco", "voc")


def pad_classes(labels: Labels, count: int) -> Labels:
    """Add classes without boxes up to `count`, if the format has its own class ids."""
    if not has_own_ids(labels):
        return labels
    names = dict(enumerate(labels.class_names))
    return dataclasses.replace(labels, class_names=ClassNames.of_ids(names, count))


def align_classes(labels: Labels, class_names: ClassNames) -> Labels:
    """Map the class ids to `class_names`, by name.

    If the format numbers its classes from 0, classes without a name on one side are mapped by id.

    Raises:
        DataError: A class has boxes and is not in `class_names`.
    """
    return labels.remap_classes(class_names, by_id=has_own_ids(labels))


def _read(format: str, path: Path, folder: Path, options: LabelOptions) -> Tuple[Labels, Optional[ImageSource]]:
    """Read labels at `path` of images in `folder`; return them and, if the labels contain the images, their source."""
    names, on_bad = options.class_names, options.on_bad
    if format == "recordio":
        return read_recordio(path, names, on_bad)
    if format == "image_json":
        return read_image_json(path, names, on_bad), None
    if format == "voc":
        return read_voc(path, names, on_bad, folder), None
    if format == "yolo":
        return read_yolo(folder, names, on_bad, path), None
    if format == "coco":
        files = split_files(path, _in_folder(path, format)[format]) if path.is_dir() else {}
        labels = read_coco_splits(path, files, on_bad) if files else read_coco(path, on_bad)
    else:
        labels = read_ground_truth(path, options.attribute or None, on_bad, options.verified)
    return (labels if names is None else labels.remap_classes(names)), None
