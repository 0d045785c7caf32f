"""Convert labels from one format to another, and report lost properties.

Labels are held in memory, images are processed one at a time. Outputs are written atomically.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from ssd_train.data.file_names import is_image_name
from ssd_train.data.formats.builder import CROWD, DIFFICULT, OBJECT, BoxLabel, LabelsBuilder, new_folder
from ssd_train.data.formats.coco import write_coco
from ssd_train.data.formats.ground_truth import write_ground_truth
from ssd_train.data.formats.image_json import write_image_json
from ssd_train.data.formats.recordio import NAMES, write_class_list, write_recordio
from ssd_train.data.formats.voc import write_voc
from ssd_train.data.formats.yolo import image_parts, write_yolo
from ssd_train.data.image_io import EncodedImage, encode, orientation_for, read_header
from ssd_train.data.image_sources import FolderImages, key_parts, portable_name
from ssd_train.data.labels import LabeledDataset
from ssd_train.data.structures import LabeledImage, Labels
from ssd_train.errors import ConfigError, DataError
from ssd_train.prepare.images import WriteOptions
from ssd_train.progress import Progress
from ssd_train.storage.atomic import is_stream

SIZED = ("coco", "voc", "yolo")  # formats that need the size of each image
DIFFICULT_TARGETS = ("voc", "recordio")  # formats with a flag for difficult objects
CROWD_TARGETS = ("coco",)  # formats with a flag for crowds
# information that only the format itself can hold, for the report of losses
ONLY_THERE = {
    "ground_truth": "confidences and the rest of the metadata, keys beside the labels",
    "video": "object ids and label-category-attributes",
    "coco": "segmentations, keypoints, licences",
    "voc": "pose, truncated, parts",
    "recordio": "numbers beyond the five of a box",
    "image_json": "keys beside file, image_size, annotations and categories",
    "yolo": "",
}
_SUFFIX = {"JPEG": ".jpg", "PNG": ".png", "BMP": ".bmp", "TIFF": ".tif", "WEBP": ".webp"}

# format -> suffix of its file, "" for a folder
WRITERS = {"ground_truth": ".manifest", "image_json": "", "recordio": ".rec", "coco": ".json", "voc": "", "yolo": ""}
STREAMABLE = ("ground_truth", "coco")  # one file, which may be a pipe or standard output


def convert(data: LabeledDataset, target: str, output: Path, progress: Optional[Progress] = None) -> List[str]:
    """Write labels in the format `target` at `output`; RecordIO includes the images.

    Args:
        data: the labels and their images.
        target: a key of WRITERS.
        output: the new file or folder.
        progress: shows the images.

    Returns:
        A line for each kind of information that is lost.

    Raises:
        ConfigError: `target` is no format that can be written, or `output` has the wrong suffix.
        DataError: `target` cannot hold the labels, or an image that it needs cannot be read.
    """
    if target not in WRITERS:
        raise ConfigError(f"to: found {target!r}, expected one of {', '.join(WRITERS)}")
    ending = WRITERS[target]
    if ending and output.suffix != ending and not (target in STREAMABLE and is_stream(output)):
        raise ConfigError(f"output: found {output}, expected a file named *{ending} for {target}")
    data = LabeledDataset(with_portable_names(data), data.images)
    flags_lost = _lost_flags(data.labels, target)
    data = LabeledDataset(_with_flags_of(data.labels, target), data.images)
    if target in SIZED and any(record.size_wh is None for record in data.labels.records):
        data = LabeledDataset(with_sizes(data), data.images)
    if target != "ground_truth":
        _check_keys(data.labels.records, image_parts if target == "yolo" else key_parts)
    passing = (progress or Progress()).track(data.labels.records, len(data.labels), "images")
    _write(target, output, passing, data)
    return [*flags_lost, *_lost_names(data.labels, target), *_lost_rest(data.labels, target)]


def with_portable_names(data: LabeledDataset) -> Labels:
    """Return the labels with image names that other programs can use.

    URLs other than s3:// and absolute paths become relative paths. A name that is spelled differently from its file
    becomes the file's path.
    """
    name_of = data.images.portable_name if isinstance(data.images, FolderImages) else portable_name
    records = []
    for record in data.labels.records:
        name = name_of(record)
        records.append(record if name == record.name else dataclasses.replace(record, name=name))
    return dataclasses.replace(data.labels, records=tuple(records))


def with_sizes(data: LabeledDataset) -> Labels:
    """Return the labels with the size of each image.

    Missing sizes are read from the image headers. Boxes are clipped to the image as in every reader.
    """
    labels = data.labels
    builder = LabelsBuilder(labels.source)
    for record in labels.records:
        size_wh = data.size_of(record)
        regions = record.ignored
        rows = [tuple(box) for box in (*record.boxes.tolist(), *regions.boxes.tolist())]
        ids = [*record.class_ids.tolist(), *regions.class_ids.tolist()]
        kinds = [*[OBJECT] * len(record.boxes), *[CROWD if crowd else DIFFICULT for crowd in regions.crowds.tolist()]]
        builder.add(record.where, record.name, BoxLabel(rows, ids, size_wh, kinds if len(regions) else ()))
    sized = builder.build(labels.class_names, labels.details)
    skipped, repaired = (*labels.skipped, *sized.skipped), (*labels.repaired, *sized.repaired)
    return dataclasses.replace(labels, records=sized.records, skipped=skipped, repaired=repaired)


def copy_images(
    data: LabeledDataset,
    folder: Path,
    progress: Optional[Progress] = None,
    parts_of: Callable[[LabeledImage], List[str]] = key_parts,
) -> LabeledDataset:
    """Copy all encoded images atomically into a new `folder`.

    An image that was labelled as stored, although an EXIF orientation turns it, is encoded again without one: other
    programs would turn it, and its boxes would not fit.

    Args:
        data: the labels and their images.
        folder: the new folder.
        progress: shows the images.
        parts_of: returns the parts of an image's path below `folder`; by default its name without the bucket.

    Returns:
        The labels with the new folder as their image source. Names without an image suffix (RecordIO) get one.
    """
    data = LabeledDataset(with_portable_names(data), data.images)
    _check_keys(data.labels.records, parts_of)
    renamed = []
    with new_folder(folder) as new:
        for record in (progress or Progress()).track(data.labels.records, len(data.labels), "images"):
            encoded = _as_labelled(data.images.read(record), record)
            if not is_image_name(record.name):
                kind = read_header(encoded, record.location).format
                record = dataclasses.replace(record, name=record.name + _SUFFIX[kind])
            parts = parts_of(record)
            target = new.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(encoded)
            renamed.append(record if parts == key_parts(record) else dataclasses.replace(record, name="/".join(parts)))
    labels = dataclasses.replace(data.labels, records=tuple(renamed))
    return LabeledDataset(labels, FolderImages(folder))


def _as_labelled(data: bytes, record: LabeledImage) -> bytes:
    """Return an encoded image that programs which apply the EXIF orientation show as it was labelled."""
    image = EncodedImage(data, record.location)
    try:
        header = image.header
    except DataError:  # `check` names it
        return data
    turned = header.orientation >= 5  # only then the size shows how it was labelled
    if not turned or orientation_for(header, record.location, record.size_wh) == header.orientation:
        return data
    return encode(image.decode(record.size_wh), header.format, WriteOptions().quality)


def _write(target: str, output: Path, records: Iterable[LabeledImage], data: LabeledDataset) -> None:
    labels, names = data.labels, data.labels.class_names
    if target == "ground_truth":
        write_ground_truth(output, records, names, labels.details.get("label_attribute", "bounding-box"))
    elif target == "recordio":
        write_recordio(output, records, data.images, flagged=any(len(record.ignored) for record in labels.records))
        write_class_list(output.with_suffix(NAMES), names)
    elif target == "coco":
        write_coco(output, list(records), names, labels.category_ids)
    else:
        {"image_json": write_image_json, "voc": write_voc, "yolo": write_yolo}[target](output, records, names)


def _check_keys(records: Sequence[LabeledImage], parts_of: Callable[[LabeledImage], List[str]]) -> None:
    """Raise a DataError if two images have one path."""
    seen: Dict[Tuple[str, ...], LabeledImage] = {}
    for record in records:
        first = seen.setdefault(tuple(parts_of(record)), record)
        if first is not record:
            raise DataError(
                f"{record.location}: {record.name!r} and {first.name!r} have the path {'/'.join(parts_of(record))}, "
                "expected names that differ in more"
            )


def _lost_flags(labels: Labels, target: str) -> List[str]:
    """Return a line for each kind of ignored region that `target` cannot hold."""
    crowds = sum(int(record.ignored.crowds.sum()) for record in labels.records)
    unknown = sum(int((record.ignored.crowds & (record.ignored.class_ids < 0)).sum()) for record in labels.records)
    difficult = sum(len(record.ignored) for record in labels.records) - crowds
    lines = []
    if difficult and target not in DIFFICULT_TARGETS:
        lines.append(f"{target} has no flag difficult: {difficult} difficult objects are ordinary objects now")
    if crowds and target not in CROWD_TARGETS:
        lines.append(f"{target} has no flag iscrowd: {crowds} crowds are left out")
    elif unknown:
        lines.append(f"{unknown} crowds of other classes than --class_names are left out")
    return lines


def _with_flags_of(labels: Labels, target: str) -> Labels:
    """Return the labels with only the ignored regions that `target` can hold.

    Difficult objects become ordinary objects, crowds are dropped.
    """
    if not any(len(record.ignored) for record in labels.records):
        return labels
    records = []
    for record in labels.records:
        regions = record.ignored
        if len(regions) and target not in DIFFICULT_TARGETS:
            plain = regions.take(~regions.crowds & (regions.class_ids >= 0))
            boxes, ids = np.concatenate([record.boxes, plain.boxes]), np.append(record.class_ids, plain.class_ids)
            record = dataclasses.replace(record, boxes=boxes, class_ids=ids, ignored=regions.take(regions.crowds))
        if len(record.ignored) and target not in CROWD_TARGETS:
            record = dataclasses.replace(record, ignored=record.ignored.take(~record.ignored.crowds))
        records.append(record)
    return dataclasses.replace(labels, records=tuple(records))


def _lost_names(labels: Labels, target: str) -> Iterator[str]:
    if target == "recordio":
        yield f"RecordIO holds class ids only: the names are in the {NAMES} file beside it"
    if target == "voc":
        counts = labels.boxes_per_class()
        used = [name for name, count in zip(labels.class_names, counts) if count]
        empty = [name for name, count in zip(labels.class_names, counts) if not count]
        if empty:
            yield f"VOC names only classes that have boxes, not {', '.join(empty)}"
        if any(labels.class_names[class_id] != name for class_id, name in enumerate(sorted(used))):
            yield f"VOC has no class ids: the classes are read as {', '.join(sorted(used))}"
    buckets = {record.name.split("/")[2] for record in labels.records if record.name.startswith("s3://")}
    if buckets and target != "ground_truth":
        yield f"names of images lose their bucket: {', '.join(sorted(buckets))}"


def _lost_rest(labels: Labels, target: str) -> Iterator[str]:
    source = labels.details.get("format", "")
    if ONLY_THERE.get(source):
        yield f"not carried over, if there were any: {ONLY_THERE[source]}"
    if labels.details.get("other_attributes"):
        yield f"labels of other jobs: {labels.details['other_attributes']}"
    if source == "recordio" and target != "recordio":
        yield "the images stay in the .rec unless they are written too (--output_images)"
    for what, lines in (("skipped", labels.skipped), ("repaired", labels.repaired)):
        for reason, count in Counter(line.reason for line in lines).items():
            first = next(line.where for line in lines if line.reason == reason)
            yield f"{what} {count}: {reason} (first: {first})"
