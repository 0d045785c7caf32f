"""Check single images, fully, with decoding, or quickly, without, and find duplicates.

Duplicates have identical bytes. Near duplicates show nearly the same scene: edited copies or neighbouring frames of a
video. Candidates have similar difference hashes along rows and columns (is a patch brighter than its neighbour?
N. Krawetz, "Kind of Like That", 2013). They are confirmed by the correlation of small grayscale images. Measured on 864
photographs: all copies (resized, recompressed, slightly cropped) differ in at most 7 of 128 bits and correlate by 0.96
or more; no other pair that differs in at most 12 bits correlates by more than 0.89.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from ssd_train.boxes import SizeWH
from ssd_train.data import pixels
from ssd_train.data.checks.codes import Finding
from ssd_train.data.file_names import is_hidden
from ssd_train.data.image_io import (
    FORMATS,
    EncodedImage,
    ImageHeader,
    apply_orientation,
    check_limits,
    orientation_for,
    read_header,
    sniff_format,
)
from ssd_train.data.image_sources import FolderImages
from ssd_train.data.structures import ImageSource, LabeledImage
from ssd_train.errors import DataError

MAX_BITS = 12
MIN_CORRELATION = 0.93
_SIDE = 32
_GRID = 8
_SAMPLED = 80
_NEIGHBOURS = 32
_PAIRS = 4096  # per block: 32 MB
_BITS_SET = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Return a grayscale thumbnail uint8 (32, 32) of an RGB image (H, W, 3).

    It averages the green channel, as an approximation of brightness, on a regular grid of about 80 points per side.
    That takes a tenth of the time of averaging all pixels.
    """
    rows, columns = (max(side // _SAMPLED, 1) for side in image.shape[:2])
    points = np.ascontiguousarray(image[rows // 2 :: rows, columns // 2 :: columns, 1])
    return pixels.operations.resize_area(points, (_SIDE, _SIDE))


def same_bytes(digests: Sequence[bytes]) -> Iterator[Tuple[int, int]]:
    """Yield pairs (first, later) of indices with equal digests; skips empty digests."""
    first: Dict[bytes, int] = {}
    for index, digest in enumerate(digests):
        if digest and first.setdefault(digest, index) != index:
            yield first[digest], index


def near_duplicates(thumbnails: np.ndarray, split_of: np.ndarray) -> List[Tuple[int, int]]:
    """Return pairs (earlier, later) of indices of images that look alike.

    An image occurs as the later one at most once for its own split and once for the other split. Not all pairs are
    compared: only pairs whose hashes agree in two consecutive bytes, as all pairs do that differ in fewer than 8 bits.

    Args:
        thumbnails: Uint8 (N, 32, 32).
        split_of: (N,), 0 for training and 1 for validation.
    """
    hashes = difference_hashes(thumbnails)
    partner = np.full((2, len(hashes)), -1)
    for a, b in _candidates(hashes):
        across = (split_of[a] != split_of[b]).astype(np.int64)
        unknown = partner[across, b] < 0
        a, b, across = a[unknown], b[unknown], across[unknown]
        alike = _correlation(thumbnails[a], thumbnails[b]) >= MIN_CORRELATION
        partner[across[alike], b[alike]] = a[alike]
    across, later = np.nonzero(partner >= 0)
    return sorted(zip(partner[across, later].tolist(), later.tolist()), key=lambda pair: pair[::-1])


def difference_hashes(thumbnails: np.ndarray) -> np.ndarray:
    """Return the difference hashes uint8 (N, 16) of thumbnails (N, 32, 32).

    The first 64 bits compare the 9 patches in each of 8 rows: a bit is set if a patch is brighter than the one before
    it by more than 1 of 255. The other 64 bits compare patches in columns.
    """
    few, more = _patches(_GRID), _patches(_GRID + 1)
    level = few[0].sum() * more[0].sum()  # sum of a patch of value 1; sums below 2**24 are exact in float32
    hashes = [np.zeros((0, 2 * _GRID), np.uint8)]
    for start in range(0, len(thumbnails), _PAIRS):
        images = thumbnails[start : start + _PAIRS].astype(np.float32)
        wide, high = few @ images @ more.T, more @ images @ few.T  # (N, 8, 9), (N, 9, 8)
        bits = np.stack([wide[:, :, 1:] > wide[:, :, :-1] + level, high[:, 1:] > high[:, :-1] + level], axis=1)
        hashes.append(np.packbits(bits.reshape(len(images), -1), axis=1))
    return np.concatenate(hashes)


def _patches(count: int) -> np.ndarray:
    """Return the fraction (count, 32) of each point in each patch, times `count`.

    32 points in a row are divided into `count` equal patches.
    """
    edges, points = np.arange(count + 1) * _SIDE, np.arange(_SIDE) * count
    inside = np.minimum(edges[1:, None], points + count) - np.maximum(edges[:-1, None], points)
    return np.maximum(inside, 0).astype(np.float32)


def _candidates(hashes: np.ndarray) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
    """Yield index arrays (a, b), a < b, of pairs whose hashes differ in few bits.

    Only pairs with two equal consecutive bytes are compared, and each hash only with the next few in sorted order,
    since a static camera yields thousands of equal ones.
    """
    for first in range(hashes.shape[1]):
        # sort by the two bytes that must be equal and by two more, so that similar hashes are neighbours
        turned = np.roll(hashes, -first, axis=1)[:, :4].astype(np.int64)
        key = turned @ (1 << np.array([24, 16, 8, 0]))
        order = np.argsort(key, kind="stable")
        for offset in range(1, min(_NEIGHBOURS, len(order) - 1) + 1):
            low, high = order[:-offset], order[offset:]
            equal = key[low] >> 16 == key[high] >> 16
            if not equal.any():
                break
            low, high = low[equal], high[equal]
            close = _BITS_SET[hashes[low] ^ hashes[high]].sum(axis=1) <= MAX_BITS
            a, b = np.minimum(low[close], high[close]), np.maximum(low[close], high[close])
            for start in range(0, len(a), _PAIRS):
                yield a[start : start + _PAIRS], b[start : start + _PAIRS]


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the Pearson correlation (M,) of pairs (M, 32, 32); 0 for uniform images."""
    a, b = (images.reshape(-1, _SIDE * _SIDE).astype(np.float32) for images in (a, b))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    norms = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.divide((a * b).sum(axis=1), norms, out=np.zeros_like(norms), where=norms > 0)


_ENDS = 1 << 16  # bytes read at either end of a file: enough for nearly every header, and for the end marker
_ROUNDING = 1e-3  # px beyond the border that are float rounding
_ENDING = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}


@dataclass(frozen=True)
class ImageReport:
    """Result of the check of one image.

    Attributes:
        findings: Faults of the image.
        size_wh: (width, height) that its boxes refer to; None if neither labels nor image tell it.
        digest: SHA-256 of the file's bytes; b"" if it was not computed.
        thumbnail: Uint8 (32, 32), grayscale; None if it was not computed.
    """

    findings: Tuple[Finding, ...]
    size_wh: Optional[SizeWH] = None
    digest: bytes = b""
    thumbnail: Optional[np.ndarray] = None


def inspect(record: LabeledImage, images: ImageSource) -> ImageReport:
    """Read and decode the image of `record`, and run all checks of a single image."""
    where = record.location
    try:
        encoded = EncodedImage(images.read(record), where)
        stored = encoded.decode_stored()
        orientation, findings = _check_header(record, encoded.header)
        encoded.check_integrity(stored)
    except DataError as fault:
        return ImageReport((_finding_of(fault, record),), record.size_wh)
    image = apply_orientation(stored, orientation)
    digest = hashlib.sha256(encoded.data).digest()
    return ImageReport(findings, (image.shape[1], image.shape[0]), digest, thumbnail(image))


def quick_inspect(record: LabeledImage, images: ImageSource, whole: bool = False) -> ImageReport:
    """Check the image of `record` without decoding it.

    Finds missing and truncated images, and wrong formats and sizes.

    Args:
        record: The labels of the image.
        images: Source of the image.
        whole: Read the whole file, and compute its digest; else only head and tail of a file if they suffice.
    """
    digest = b""
    try:
        header = None if whole else _header_of_ends(record, images)
        if header is None:
            encoded = EncodedImage(images.read(record), record.location)
            digest = hashlib.sha256(encoded.data).digest() if whole else b""
            encoded.check_complete()
            header = encoded.header
        check_limits(header, record.location)
        _, findings = _check_header(record, header)
    except DataError as fault:
        return ImageReport((_finding_of(fault, record),), record.size_wh, digest)
    return ImageReport(findings, record.size_wh or header.display_wh, digest)


def _finding_of(fault: DataError, record: LabeledImage) -> Finding:
    """Convert the error of an image reader to a finding."""
    where = record.location
    message = str(fault)
    if message.startswith(f"{where}: "):
        message = message[len(where) + 2 :]
    return Finding(fault.code or "unreadable-image", where, message, record.name)


def files_without_label(images: FolderImages, records: Sequence[LabeledImage]) -> List[Finding]:
    """Find images below the folder that belong to none of `records`.

    Files count as images by their content, not by their names.
    """
    named: Dict[str, List[LabeledImage]] = {}
    for record in records:
        named.setdefault(record.basename, []).append(record)
    paths: List[str] = []
    files = _files(images.root)
    # names that differ from the file's: URLs, other case, no extension
    labelled = set(_located(images, [r for name, of_name in named.items() if name not in files for r in of_name]))
    for name, entries in files.items():
        if len(entries) > 1 or entries[0].is_symlink():  # ambiguous: resolve which file the labels mean
            labelled.update(_located(images, named.get(name, ())))
        elif name in named:
            continue
        paths += [entry.path for entry in entries if not entry.is_symlink()]
    paths = [path for path in sorted(paths) if path not in labelled and _is_image(path)]
    return [Finding("image-without-label", path, "found an image that no usable line names") for path in paths]


def _files(root: str) -> "Dict[str, List[os.DirEntry[str]]]":
    """Return files and links below `root` by name; skip hidden or unreadable folders."""
    by_name: "Dict[str, List[os.DirEntry[str]]]" = {}
    folders = [root]
    while folders:
        with contextlib.suppress(PermissionError), os.scandir(folders.pop()) as entries:
            for entry in entries:  # a DirEntry knows links and folders without a stat call
                if is_hidden(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    by_name.setdefault(entry.name, []).append(entry)
    return by_name


def _located(images: FolderImages, records: Sequence[LabeledImage]) -> Iterator[str]:
    for record in records:
        try:
            yield images.locate(record)
        except DataError:  # the check of the image itself reports it
            continue


def _is_image(path: str) -> bool:
    try:
        if not os.path.isfile(path):  # opening a FIFO would block forever
            return False
        with open(path, "rb") as file:
            return sniff_format(file.read(256)) in FORMATS
    except OSError:  # an unreadable file need not be labelled
        return False


def _check_header(record: LabeledImage, header: ImageHeader) -> Tuple[int, Tuple[Finding, ...]]:
    """Return the orientation to apply, and findings.

    Raises:
        DataError: The image's size does not match its labels.
    """
    where = record.location
    orientation = orientation_for(header, where, record.size_wh)
    _check_boxes_inside(record, header.display_wh)
    if header.orientation == 1:
        return orientation, ()
    return orientation, (Finding(*_of_orientation(header, record.size_wh, where), record.name),)


def _check_boxes_inside(record: LabeledImage, size_wh: SizeWH) -> None:
    """Check boxes against the image if the labels do not give its size.

    Raises:
        DataError: A box leaves the image.
    """
    if record.size_wh is None and len(record.boxes):
        outside = (record.boxes[:, 2:] > np.array(size_wh) + _ROUNDING).any(axis=1)
        if outside.any():
            box = [round(value, 2) for value in record.boxes[int(np.argmax(outside))].tolist()]
            raise DataError(
                f"found box {box}, expected it inside the image of {size_wh[0]}x{size_wh[1]}", "box-outside-image"
            )


def _of_orientation(header: ImageHeader, expected_wh: Optional[SizeWH], where: str) -> Tuple[str, str, str]:
    """Return code, place and detail of the finding about an EXIF orientation."""
    detail = f"found EXIF orientation {header.orientation}"
    if expected_wh is None or header.orientation < 5 or header.width == header.height:
        return "orientation-applied", where, f"{detail}, which is applied"
    way = "turned upright" if header.display_wh == tuple(expected_wh) else "as stored, not turned"
    return "orientation-turned", where, f"{detail}; labelled {way}, and used so"


def _header_of_ends(record: LabeledImage, images: ImageSource) -> Optional[ImageHeader]:
    """Return the header of a complete image in a folder; None if head and tail of its file do not suffice."""
    if isinstance(images, FolderImages):
        # a header longer than _ENDS, or a fault that reading the whole file reports
        with contextlib.suppress(DataError, OSError):
            head, tail = images.read_head_and_tail(record, _ENDS)
            header = read_header(head, record.location)
            if _ENDING.get(header.format, b"") in tail:
                return header
    return None
