"""Load labels of any format, together with the source of their images."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Optional, Tuple

from ssd_train.data.file_names import files_below, is_image_name
from ssd_train.data.formats.coco import read_coco
from ssd_train.data.formats.ground_truth import read_ground_truth
from ssd_train.data.formats.image_json import read_image_json
from ssd_train.data.formats.jsonl import PathLike
from ssd_train.data.formats.recordio import read_recordio
from ssd_train.data.formats.voc import read_voc
from ssd_train.data.formats.yolo import read_yolo
from ssd_train.data.label_formats import SISTERS, FoundLabels, SeveralFormats, find_labels, sister_folder
from ssd_train.data.official_sets import of_split
from ssd_train.data.records import ClassNames, ImageSource, LabelSet, Record
from ssd_train.data.sources import Fetch, FetchedImages, FolderImages
from ssd_train.errors import ConfigError, DataError


@dataclass(frozen=True)
class LabelOptions:
    """Options for reading labels.

    Attributes:
        format: Key of READERS, or "" to detect it.
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
        if self.format and self.format not in READERS:
            raise ConfigError(f"labels_format: found {self.format!r}, expected one of {', '.join(READERS)}")


@dataclass(frozen=True)
class LabelledImages:
    """Labels and the source of their images."""

    labels: LabelSet
    images: ImageSource


def read_labelled(
    images: Optional[PathLike], labels: Optional[PathLike], options: LabelOptions = LabelOptions()
) -> LabelledImages:
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
    given = labels if labels is not None else images
    if given is None:
        raise ConfigError("found neither images nor labels, expected at least one of them")
    try:
        format, place = find_labels(given, options.format)
    except SeveralFormats as fault:
        format, place = _of_one_content(fault, images, labels, options)
    near = place if place.is_dir() else place.parent
    folder = _image_folder(images, labels, near)
    read, source = READERS[format](place, folder, options)
    if not len(read.class_names):
        raise DataError(
            f"{read.source}: found no labelled object in {len(read)} images, expected at least one box", "no-objects"
        )
    read = dataclasses.replace(read, details={**read.details, "format": format})
    if options.verified and format != "ground_truth":
        raise ConfigError(f"verified: found {options.verified!r} and labels of {format}, expected ground_truth")
    if options.split:
        read = of_split(read, options.split)
    if source is None:
        own = FolderImages(folder)
        source = FetchedImages(own, read.records, options.fetch) if options.fetch else own
    return LabelledImages(read, source)


def _of_one_content(
    fault: SeveralFormats, images: Optional[PathLike], labels: Optional[PathLike], options: LabelOptions
) -> FoundLabels:
    """Return the first of several label formats if all have the same content.

    That is the case after a conversion.

    Raises:
        SeveralFormats: They differ.
    """
    contents = []
    options = dataclasses.replace(options, on_bad="error")  # a skipped label may be usable in the other format
    for format, place in fault.found:
        near = place if place.is_dir() else place.parent
        try:
            read, _ = READERS[format](place, _image_folder(images, labels, near), options)
        except (DataError, ConfigError):
            raise fault from None
        contents.append({record.basename: _rows(record, read.class_names) for record in read.records})
    first, *others = contents
    same = len(fault.found) > 1 and all(
        first.keys() == other.keys() and all(_alike(first[name], other[name]) for name in first) for other in others
    )
    if not same:
        raise fault
    return fault.found[0]


def _rows(record: Record, class_names: ClassNames) -> List[Tuple[str, Tuple[float, ...]]]:
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
        found = "a file" if os.path.exists(images) else "nothing"
        raise DataError(f"{images}: found {found}, expected a folder of images")
    return Path(images)


def read_labels(path: PathLike, label_attribute: Optional[str] = None, on_bad: str = "error") -> LabelSet:
    """Load only the labels of a file or folder, as `read_labelled` does."""
    return read_labelled(None, path, LabelOptions("", label_attribute or "", on_bad)).labels


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


def has_own_ids(labels: LabelSet) -> bool:
    """Return whether the format numbers its classes from 0.

    COCO categories have other ids, and VOC has only names.
    """
    return labels.details.get("format") not in ("coco", "voc")


def with_class_count(labels: LabelSet, count: int) -> LabelSet:
    """Add classes without boxes up to `count`, if the format has its own class ids."""
    if not has_own_ids(labels):
        return labels
    names = dict(enumerate(labels.class_names))
    return dataclasses.replace(labels, class_names=ClassNames.of_ids(names, count))


def matched_to(labels: LabelSet, class_names: ClassNames) -> LabelSet:
    """Map the class ids to `class_names`, by name.

    If the format numbers its classes from 0, classes without a name on one side are mapped by id.

    Raises:
        DataError: A class has boxes and is not in `class_names`.
    """
    return labels.with_classes(class_names, by_id=has_own_ids(labels))


Read = Tuple[LabelSet, Optional[ImageSource]]
Reader = Callable[[Path, Path, LabelOptions], Read]


def _ground_truth(place: Path, folder: Path, options: LabelOptions) -> Read:
    return _ordered(
        read_ground_truth(place, options.attribute or None, options.on_bad, options.verified), options
    ), None


def _coco(place: Path, folder: Path, options: LabelOptions) -> Read:
    return _ordered(read_coco(place, options.on_bad), options), None


def _recordio(place: Path, folder: Path, options: LabelOptions) -> Read:
    return read_recordio(place, options.class_names, options.on_bad)


def _image_json(place: Path, folder: Path, options: LabelOptions) -> Read:
    return read_image_json(place, options.class_names, options.on_bad), None


def _voc(place: Path, folder: Path, options: LabelOptions) -> Read:
    return read_voc(place, options.class_names, options.on_bad, folder), None


def _yolo(place: Path, folder: Path, options: LabelOptions) -> Read:
    return read_yolo(folder, options.class_names, options.on_bad, place), None


def _ordered(labels: LabelSet, options: LabelOptions) -> LabelSet:
    """Reorder the classes as given in the options, for formats with class names."""
    return labels if options.class_names is None else labels.with_classes(options.class_names)


# format -> reader of (path of the labels, folder of the images, options)
READERS: Dict[str, Reader] = {
    "ground_truth": _ground_truth,
    "image_json": _image_json,
    "recordio": _recordio,
    "coco": _coco,
    "voc": _voc,
    "yolo": _yolo,
}
