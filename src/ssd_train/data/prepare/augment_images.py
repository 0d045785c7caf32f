"""Write flipped and rotated copies of the images of a manifest.

Variants keep the format of their image; a JPEG is compressed again. They are upright: the EXIF orientation is applied
unless only the stored pixels have the labels' image_size. The images themselves are copied byte for byte.
"""

from __future__ import annotations

from pathlib import Path
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ssd_train.data.boxes import SizeWH
from ssd_train.data.images import decode, encode_like, read_header
from ssd_train.data.prepare.augment import (
    OPERATIONS,
    SizeOf,
    box_tables,
    check_operations,
    label_size,
    refuse_taken_names,
    variant_name,
)
from ssd_train.data.prepare.lines import ManifestLine, local_path, read_lines
from ssd_train.data.prepare.pictures import Processed, Writing, is_done, mismatch, output_folder, process, write_picture
from ssd_train.data.records import Record
from ssd_train.data.sources import FolderImages, key_parts
from ssd_train.errors import DataError
from ssd_train.progress import Progress


class _Picture(NamedTuple):
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
    def record(self) -> Record:
        """Return a record for image sources; it has no boxes."""
        return Record(self.name, np.zeros((0, 4)), np.zeros(0), self.size_wh, self.where)


def augment_images(
    path: "str | Path",
    folders: "Tuple[str | Path, str | Path]",
    operations: Sequence[str],
    writing: Writing,
    progress: Progress,
) -> Processed:
    """Write a copy of each image and one variant per operation.

    Images are read below the first folder. Files are written below the second, at the paths of the images' keys without
    the bucket. Unless `writing.overwrite` is set, images whose files exist and are not older than the image are
    skipped.

    Args:
        path: the manifest.
        folders: input and output folder.
        operations: keys of OPERATIONS.

    Returns:
        Counts, and a line for each image that cannot be read.

    Raises:
        ConfigError: an operation is unknown, or the output lies in the input folder.
        DataError: a line is unusable, or two images have the same output path; begins with file:line.
    """
    check_operations(operations)
    images, output = FolderImages(local_path(folders[0])), output_folder(folders[1], folders[0])
    pictures = _pictures(path, operations)

    def work(picture: _Picture) -> Tuple[bool, str]:
        """Write the variants, then the copy; return whether it did, and a note."""
        variants = {operation: output / variant_name(picture.target, operation) for operation in operations}
        copy, original = output / picture.target, Path(images.locate(picture.record))
        if not writing.overwrite and is_done([copy, *variants.values()], original):
            return False, ""
        data = images.read(picture.record)
        place = f"{picture.where}: {original}"
        image, format = decode(data, place, picture.size_wh), read_header(data, place).format
        for operation, target in variants.items():
            pixels = np.ascontiguousarray(OPERATIONS[operation].pixels(image))
            write_picture(target, encode_like(pixels, format, writing.quality))
        write_picture(copy, data)
        return True, mismatch(picture.target, data)

    return process(pictures, work, progress, "augment")


def sizes_of_pictures(images: "str | Path") -> SizeOf:
    """Return a function that reads the size of a line's image below `images`.

    It is needed for labels that do not state a size.
    """
    source = FolderImages(local_path(images))

    def size_of(line: ManifestLine) -> SizeWH:
        """Return the upright (width, height) from the image header."""
        return read_header(source.read(_Picture(line.source, line.where, None, "").record), line.where).shown_wh

    return size_of


def _pictures(path: "str | Path", operations: Sequence[str]) -> List[_Picture]:
    refuse_taken_names(path, operations)
    tables, pictures, taken = box_tables(path), [], {}  # type: ignore[var-annotated]
    for line in read_lines(path):
        picture = _Picture(line.source, line.where, label_size(line, tables), "")
        target = "/".join(key_parts(picture.record))
        if target in taken:
            raise DataError(f"{line.where}: found {target} in another bucket than at {taken[target]}, expected one")
        taken[target] = line.where
        pictures.append(picture._replace(target=target))
    return pictures
