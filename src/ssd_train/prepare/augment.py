"""Add flipped and rotated copies of each image to a manifest.

Boxes are moved by the functions of boxes.py, as in online augmentation. Numbers that do not change keep their
text.
"""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ssd_train import boxes as geometry
from ssd_train.boxes import SizeWH
from ssd_train.data.formats.builder import BoxLabel, shortest
from ssd_train.data.formats.ground_truth import BOX_TYPE, choose_attribute, read_box_label, scan
from ssd_train.data.image_io import EncodedImage, encode, read_header
from ssd_train.data.image_sources import FolderImages, key_parts
from ssd_train.data.structures import LabeledImage
from ssd_train.errors import ConfigError, DataError, locate_errors
from ssd_train.prepare.images import (
    ProcessResult,
    WriteOptions,
    is_done,
    mismatch,
    output_folder,
    process,
    write_image,
)
from ssd_train.prepare.manifest import SOURCE, ManifestLine, is_labelled, labels_of, local_path, read_lines, write_lines
from ssd_train.progress import Progress

SizeOf = Callable[[ManifestLine], SizeWH]
Tables = Mapping[str, Mapping[int, int]]


class Operation(NamedTuple):
    """Flip or rotation of an image and its boxes.

    Attributes:
        pixels: maps an image (H, W, 3).
        boxes: maps boxes (N, 4) xyxy in an image of the given size.
        turns: True if width and height are swapped.
    """

    pixels: Callable[[np.ndarray], np.ndarray]
    boxes: Callable[[np.ndarray, SizeWH], np.ndarray]
    turns: bool


OPERATIONS: Dict[str, Operation] = {
    "x-flip": Operation(lambda image: image[:, ::-1], geometry.flip_x, False),
    "y-flip": Operation(lambda image: image[::-1], geometry.flip_y, False),
    "ccw-rotate": Operation(lambda image: np.rot90(image), geometry.rotate_ccw, True),
    "cw-rotate": Operation(lambda image: np.rot90(image, -1), geometry.rotate_cw, True),
}


def variant_name(source: str, operation: str) -> str:
    """Return the name of an image after `operation`.

    ``a/b.c.jpg`` becomes ``a/b.c-x-flip.jpg``.
    """
    stem, suffix = posixpath.splitext(source)
    return f"{stem}-{operation}{suffix}"


def augment_labels(
    path: "str | Path",
    output: "str | Path",
    operations: Sequence[str] = tuple(OPERATIONS),
    size_of: Optional[SizeOf] = None,
) -> int:
    """Write a manifest's lines to `output`, then a copy of each per operation.

    The boxes of all labelling jobs on a line are moved, everything else is copied.

    Args:
        path: the manifest.
        output: the new manifest.
        operations: keys of OPERATIONS.
        size_of: returns the image size of a line whose label has no image_size.

    Returns:
        The number of lines written.

    Raises:
        ConfigError: an operation is not in OPERATIONS or is repeated, or there is none.
        DataError: a line is unusable, an image name is repeated or taken, or an image size is unknown; begins with
            file:line.
    """
    check_operations(operations)
    return write_lines(output, _lines(path, operations, box_tables(path), size_of))


def check_operations(operations: Sequence[str]) -> None:
    """Raise a ConfigError unless `operations` has keys of OPERATIONS, each once."""
    if not operations or len(set(operations)) < len(operations) or not set(operations) <= set(OPERATIONS):
        raise ConfigError(
            f"operations: found {' '.join(operations) or 'none'}, expected some of {' '.join(OPERATIONS)}"
        )


def refuse_taken_names(path: "str | Path", operations: Sequence[str]) -> None:
    """Raise a DataError if two images or their variants have the same name."""
    seen: Dict[str, str] = {}
    for line in read_lines(path):
        for name in [line.source, *(variant_name(line.source, operation) for operation in operations)]:
            if name in seen:
                raise DataError(
                    f"{line.where}: found image {name!r} again, after {seen[name]}, expected each name once"
                )
            seen[name] = line.where


def label_size(line: ManifestLine, tables: Tables) -> Optional[SizeWH]:
    """Return the image size that the line's labels state, or None."""
    sizes = [_read(line, name, table).size_wh for name, table in tables.items() if is_labelled(line, name)]
    return next(filter(None, sizes), None)


def box_tables(path: "str | Path") -> Tables:
    """Return the class id table of each attribute with boxes, for `read_box_label`.

    The tables map each class id to itself.

    Raises:
        DataError: no attribute has boxes, or a line is malformed.
    """
    manifest = scan(local_path(path))
    names = [name for name, attribute in manifest.attributes.items() if BOX_TYPE in attribute.kinds]
    if not names:
        choose_attribute(manifest, None, path)  # raises an error that lists the other attributes
    return {name: {class_id: class_id for class_id in labels_of(manifest, name, path).name_of} for name in names}


def _lines(path: "str | Path", operations: Sequence[str], tables: Tables, size_of: Optional[SizeOf]) -> Iterator[bytes]:
    refuse_taken_names(path, operations)
    # grouped by operation, so that the variants of one image do not share a batch
    yield from (line.raw for line in read_lines(path))
    for operation in operations:
        for line in read_lines(path):
            yield _variant(line, operation, tables, size_of)


def _variant(line: ManifestLine, operation: str, tables: Tables, size_of: Optional[SizeOf]) -> bytes:
    labels = {name: _read(line, name, table) for name, table in tables.items() if is_labelled(line, name)}

    def edit(copy: Dict[str, Any]) -> None:
        copy[SOURCE] = variant_name(line.source, operation)
        for name, label in labels.items():
            size_wh = label.size_wh or _size(line, name, size_of)
            _move(copy[name], label, size_wh, OPERATIONS[operation])

    return line.edited(edit)


def _read(line: ManifestLine, attribute: str, table: Mapping[int, int]) -> BoxLabel:
    with locate_errors(line.where):
        return read_box_label(line.value[attribute]).map_ids(table)


def _size(line: ManifestLine, attribute: str, size_of: Optional[SizeOf]) -> SizeWH:
    if size_of is None:
        raise DataError(f"{line.where}: {attribute} has no image_size, expected one where there are no pictures to ask")
    return size_of(line)


def _move(label: Dict[str, Any], read: BoxLabel, size_wh: SizeWH, operation: Operation) -> None:
    """Move a label's boxes in place.

    Width and height are copied, not computed, so that they keep their text.
    """
    moved = operation.boxes(np.array(read.boxes, np.float64).reshape(-1, 4), size_wh)
    for box, (left, top) in zip(label["annotations"], moved[:, :2].tolist()):
        box["left"], box["top"] = shortest(left), shortest(top)
        if operation.turns:
            box["width"], box["height"] = box["height"], box["width"]
    for size in label.get("image_size") or [] if operation.turns else []:
        size["width"], size["height"] = size["height"], size["width"]


class _Input(NamedTuple):
    """Image to augment.

    Attributes:
        name: its name in the labels.
        where: ``file:line`` of its labels.
        size_wh: its size according to the labels.
        target: its path below the output folder.
    """

    name: str
    where: str
    size_wh: Optional[SizeWH]
    target: str

    @property
    def record(self) -> LabeledImage:
        """Return a record for image sources; it has no boxes."""
        return LabeledImage(self.name, np.zeros((0, 4)), np.zeros(0), self.size_wh, self.where)


def augment_images(
    path: "str | Path",
    folders: "Tuple[str | Path, str | Path]",
    operations: Sequence[str],
    writing: WriteOptions,
    progress: Progress,
) -> ProcessResult:
    """Write a copy of each image and one variant per operation.

    Images are read below the first folder. Files are written below the second, at the paths of the images' keys without
    the bucket. Unless `writing.overwrite` is set, images whose files exist and are not older than the image are
    skipped.

    Args:
        path: the manifest.
        folders: input and output folder.
        operations: keys of OPERATIONS.
        writing: format and quality of the files, and whether existing ones are overwritten.
        progress: for progress and warnings.

    Returns:
        Counts, and a line for each image that cannot be read.

    Raises:
        ConfigError: an operation is unknown, or the output lies in the input folder.
        DataError: a line is unusable, or two images have the same output path; begins with file:line.
    """
    check_operations(operations)
    images, output = FolderImages(local_path(folders[0])), output_folder(folders[1], folders[0])
    inputs = _inputs(path, operations)

    def work(image_input: _Input) -> Tuple[bool, str]:
        """Write the variants, then the copy; return whether it did, and a note."""
        variants = {operation: output / variant_name(image_input.target, operation) for operation in operations}
        copy, original = output / image_input.target, Path(images.locate(image_input.record))
        if not writing.overwrite and is_done([copy, *variants.values()], original):
            return False, ""
        encoded = EncodedImage(images.read(image_input.record), f"{image_input.where}: {original}")
        image, format = encoded.decode(image_input.size_wh), encoded.header.format
        for operation, target in variants.items():
            pixels = np.ascontiguousarray(OPERATIONS[operation].pixels(image))
            write_image(target, encode(pixels, format, writing.quality))
        write_image(copy, encoded.data)
        return True, mismatch(image_input.target, format)

    return process(inputs, work, progress, "augment")


def sizes_of_images(images: "str | Path") -> SizeOf:
    """Return a function that reads the size of a line's image below `images`.

    It is needed for labels that do not state a size.
    """
    source = FolderImages(local_path(images))

    def size_of(line: ManifestLine) -> SizeWH:
        """Return the upright (width, height) from the image header."""
        return read_header(source.read(_Input(line.source, line.where, None, "").record), line.where).display_wh

    return size_of


def _inputs(path: "str | Path", operations: Sequence[str]) -> List[_Input]:
    refuse_taken_names(path, operations)
    tables = box_tables(path)
    inputs: List[_Input] = []
    taken: Dict[str, str] = {}
    for line in read_lines(path):
        image_input = _Input(line.source, line.where, label_size(line, tables), "")
        target = "/".join(key_parts(image_input.record))
        if target in taken:
            raise DataError(f"{line.where}: found {target} in another bucket than at {taken[target]}, expected one")
        taken[target] = line.where
        inputs.append(image_input._replace(target=target))
    return inputs
