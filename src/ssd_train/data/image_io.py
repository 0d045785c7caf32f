"""Detect, decode and encode images; training, evaluation and serving all use this decoder.

An image is uint8 (H, W, 3) RGB, contiguous. The format is detected from the content, never from the name. The header is
checked against limits before decoding, and truncated images are refused, never filled up.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Dict, Iterator, Optional, Tuple

import numpy as np
from PIL import Image, JpegImagePlugin, TiffImagePlugin

from ssd_train.boxes import SizeWH
from ssd_train.data import pixels
from ssd_train.data.pillow_pixels import READERS
from ssd_train.errors import DataError

_Signatures = Tuple[Tuple[int, bytes, str], ...]
# (offset, signature, name) of supported images, of unsupported formats, and of files often mistaken for images
_READ: _Signatures = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (8, b"WEBP", "WEBP"),
)
_NOT_READ: _Signatures = (
    (0, b"GIF8", "a GIF image"),
    (4, b"ftypavif", "an AVIF image"),
    (4, b"ftypavis", "an AVIF image"),
    (4, b"ftyphei", "a HEIC image"),
    (4, b"ftypmif1", "a HEIF image"),
    (4, b"ftyp", "a video (MP4)"),
    (4, b"JXL ", "a JPEG XL image"),
    (0, b"\xff\x0a", "a JPEG XL image"),
    (4, b"jP  ", "a JPEG 2000 image"),
    (0, b"\0\0\1\0", "an icon (ICO)"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"%PDF", "a PDF"),
)
_NOT_IMAGES: _Signatures = (
    (0, b"PK\3\4", "a zip archive (unpack it first)"),
    (0, b"\x1f\x8b", "a gzip file (unpack it first)"),
    (0, b"version https://git-lfs", "a Git LFS pointer (run: git lfs pull)"),
)
_SCAN_MARKER = 0xDA  # marker of a JPEG's scan


def sniff_format(data: bytes) -> str:
    """Return JPEG, PNG, BMP, TIFF or WEBP, or a description of other content."""
    if not data:
        return "an empty file (0 bytes)"
    for offset, signature, name in _READ + _NOT_READ + _NOT_IMAGES:
        if data.startswith(signature, offset):
            return name
    head = bytes(data[:256]).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype html", b"<html", b"<head")):
        return "an HTML page"
    if head.startswith((b"<?xml", b"<svg", b"<error")):
        return "XML or SVG text"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in data[:64]):
        return f"text beginning {bytes(data[:32])!r}"
    return f"unknown bytes beginning {bytes(data[:8]).hex()}"


def is_of_other_format(format: str) -> bool:
    """Return whether `format` is an unsupported image, video or document format.

    Args:
        format: Result of `sniff_format`.
    """
    return format in {name for _, _, name in _NOT_READ}


def exif_orientation(exif: bytes) -> int:
    """Return the orientation 1..8 of an EXIF block.

    It is tag 0x0112 of the first directory (EXIF 2.3, section 4.6.2). If it is absent, damaged or out of range, the
    result is 1, as in browsers.
    """
    tiff = exif[6:] if exif.startswith(b"Exif\0\0") else exif
    order = {b"II": "<", b"MM": ">"}.get(bytes(tiff[:2]))
    try:
        if order is not None:
            (start,) = struct.unpack_from(order + "I", tiff, 4)
            (count,) = struct.unpack_from(order + "H", tiff, start)
            for entry in range(start + 2, start + 2 + 12 * count, 12):
                tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, entry)
                if tag == 0x0112 and kind == 3 and 1 <= value <= 8:
                    return int(value)
    except struct.error:  # the block ends early
        return 1
    return 1


def _jpeg_segments(data: bytes) -> Iterator[Tuple[int, int]]:
    """Yield marker and offset of the segments of a JPEG up to its first scan, which is the last."""
    position = 2
    while position >= 0 and position + 4 <= len(data):
        marker = data[position + 1]
        if data[position] != 0xFF or marker in (0x00, 0xFF):  # stray or fill bytes
            position = data.find(b"\xff", position + 1)
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a length
            position += 2
        else:
            yield marker, position
            if marker == _SCAN_MARKER:
                return
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")


def first_scan(data: bytes) -> int:
    """Return the offset of the first scan of a JPEG, or -1.

    Skips the segments before it, since an EXIF thumbnail has scans and end markers of its own.
    """
    return next((offset for marker, offset in _jpeg_segments(data) if marker == _SCAN_MARKER), -1)


def jpeg_header(data: bytes) -> Optional[Tuple[int, int, int]]:
    """Return width, height and EXIF orientation of a JPEG, in a fifth of Pillow's time; None unless all is as usual.

    Usual are one frame of 8 bits in 1 or 3 components, at most one EXIF block, and a scan.
    """
    frames, blocks, marker = [], [], 0
    for marker, offset in _jpeg_segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # these are tables
            frames.append((marker, *struct.unpack_from(">BHHB", data.ljust(offset + 10), offset + 4)))
        elif marker == 0xE1 and data.startswith(b"Exif\0\0", offset + 4):
            blocks.append(data[offset + 4 : offset + 2 + int.from_bytes(data[offset + 2 : offset + 4], "big")])
    if marker != _SCAN_MARKER or len(frames) != 1 or len(blocks) > 1:
        return None
    kind, bits, height, width, components = frames[0]
    usual = kind <= 0xC2 and bits == 8 and components in (1, 3) and width and height
    return (width, height, exif_orientation(blocks[0] if blocks else b"")) if usual else None


def jpeg_is_complete(data: bytes, scan: int) -> bool:
    """Return whether a JPEG has a scan and an end marker after it; `scan` is the result of `first_scan`."""
    # inside a scan 0xff is always followed by 0 or a restart marker, so 0xffd9 can only be the end of the image
    return scan >= 0 and data.rfind(b"\xff\xd9", scan) >= 0


def png_is_complete(data: bytes) -> bool:
    """Return whether the chunks of a PNG lie within the file and lead to its IEND.

    OpenCV 4.11 allocates any length that a chunk claims: a file of 1 kB took it 9 s and 3 GB.
    """
    position = 8
    while position + 12 <= len(data):
        if data[position + 4 : position + 8] == b"IEND":
            return True
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    return False


FORMATS = tuple(READERS)

_FILL = [128, 128, 128]  # libjpeg fills missing data with this gray
_MORE = b"\x5a\x3c\xa6\x69" * 64  # arbitrary data without the 0xff of a marker
_PROGRESSIVE, _SCAN, _END = b"\xff\xc2", b"\xff\xda", b"\xff\xd9"
_COEFFICIENTS = 64


@dataclass(frozen=True)
class ImageLimits:
    """Limits checked before decoding.

    Attributes:
        max_pixels: Maximum number of pixels.
        min_side: Minimum length of each side in pixels.
        max_aspect: Maximum ratio of the longer to the shorter side.
    """

    max_pixels: int = 50_000_000
    min_side: int = 10
    max_aspect: float = 50.0


DEFAULT_LIMITS = ImageLimits()


@dataclass(frozen=True)
class ImageHeader:
    """Properties of an encoded image.

    Attributes:
        format: One of FORMATS.
        width: Width in pixels as stored, before the orientation is applied.
        height: Height in pixels as stored.
        orientation: EXIF orientation 1..8; 1 if absent or damaged.
        frames: Number of frames or pages.
    """

    format: str
    width: int
    height: int
    orientation: int = 1
    frames: int = 1

    @property
    def display_wh(self) -> SizeWH:
        """(width, height) after applying the orientation, as browsers show it."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_header(data: bytes, where: str) -> ImageHeader:
    """Read the header of an encoded image without decoding pixels.

    Raises:
        DataError: `data` is not an image of FORMATS, or damaged; the message starts with `where` and describes the
            content.
    """
    format = sniff_format(data)
    if format not in READERS:
        code = "unsupported-format" if is_of_other_format(format) else "unreadable-image"
        raise DataError(f"{where}: found {format}, expected an image ({', '.join(FORMATS)})", code)
    usual = jpeg_header(data) if format == "JPEG" else None
    if usual is not None:
        return ImageHeader(format, *usual)
    try:
        return _header_of(READERS[format](io.BytesIO(data)), format)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's parsers raise many kinds of exception on damage
        raise DataError(f"{where}: found a damaged {format} header ({error}), expected a whole image") from error


def _header_of(image: Image.Image, name: str) -> ImageHeader:
    frames = 1 if name == "JPEG" else int(getattr(image, "n_frames", 1))
    if name == "TIFF":
        # some Pillow versions apply the orientation to a TIFF's size; the tags are as stored
        tags = image.tag_v2  # type: ignore[attr-defined]  # of TIFF only
        return ImageHeader(name, int(tags[256]), int(tags[257]), int(tags.get(274, 1)), frames)
    width, height = image.size
    return ImageHeader(name, width, height, exif_orientation(image.info.get("exif", b"")), frames)


class EncodedImage:
    """The bytes of an image file, with its header, which is parsed once.

    Args:
        data: The encoded image.
        where: Place for messages.
        limits: Limits checked before decoding.
    """

    def __init__(self, data: bytes, where: str, limits: ImageLimits = DEFAULT_LIMITS) -> None:
        self.data, self.where, self.limits = data, where, limits
        self._header: Optional[ImageHeader] = None
        self._first_scan: Optional[int] = None

    @property
    def header(self) -> ImageHeader:
        """The header, as `read_header` returns it."""
        if self._header is None:
            self._header = read_header(self.data, self.where)
        return self._header

    def decode(self, expected_wh: Optional[SizeWH] = None, reduce: int = 1) -> np.ndarray:
        """Decode to RGB uint8 (H, W, 3), contiguous and upright.

        Grayscale is repeated in three channels, 16 bits are scaled to 8, and transparency is dropped.

        Args:
            expected_wh: (width, height) in the labels. It decides whether the EXIF orientation is applied: the result
                has this size. If it is None, the orientation is always applied, as in browsers and (since 2021) in
                Ground Truth.
            reduce: 1, 2, 4 or 8; divides each side, rounded up, after the sizes were compared. Much faster for a JPEG.

        Raises:
            DataError: The image cannot be decoded, exceeds the limits, or has another size than `expected_wh` in
                either orientation; the message starts with `where`.
        """
        check_limits(self.header, self.where, self.limits)
        orientation = orientation_for(self.header, self.where, expected_wh)
        return np.ascontiguousarray(apply_orientation(self._pixels(reduce), orientation))

    def decode_downscaled(self, side: int, expected_wh: Optional[SizeWH] = None) -> np.ndarray:
        """Decode the image, downscaled by `reduction` for a network's input side; otherwise as `decode`."""
        return self.decode(expected_wh, reduction((self.header.width, self.header.height), side))

    def decode_verified(self, side: int, expected_wh: Optional[SizeWH] = None) -> Tuple[np.ndarray, SizeWH]:
        """Decode the image for a network with input side `side`, and check it for damage.

        Args:
            side: Input side of the network in pixels.
            expected_wh: (width, height) in the labels, if known.

        Returns:
            The image as `decode_downscaled` returns it, and (width, height) of the full-size image, upright.

        Raises:
            DataError: The image cannot be used.
        """
        size_wh = expected_wh or self.header.display_wh
        image = self.decode_downscaled(side, size_wh)
        self.check_decoded(image)
        return image, size_wh

    def decode_stored(self) -> np.ndarray:
        """Decode the pixels as stored, RGB uint8 (H, W, 3), without applying the orientation.

        Raises:
            DataError: The image cannot be decoded or exceeds the limits.
        """
        check_limits(self.header, self.where, self.limits)
        return self._pixels(1)

    def _pixels(self, reduce: int) -> np.ndarray:
        self.check_complete()
        decode_pixels, format = pixels.operations.decode, self.header.format
        if format == "JPEG":  # libjpeg averages blocks; scaled decoding of other formats takes every nth pixel
            return decode_pixels(self.data, format, self.where, reduce)
        return pixels.shrink(decode_pixels(self.data, format, self.where), reduce)

    def check_complete(self) -> None:
        """Check that a JPEG or PNG is not truncated.

        Decoders fill the rest with gray or repeated rows without an error. Decoders of the other formats raise one.

        Raises:
            DataError: The image is truncated.
        """
        format = self.header.format
        if (format == "JPEG" and not jpeg_is_complete(self.data, self._scan)) or (
            format == "PNG" and not png_is_complete(self.data)
        ):
            raise DataError(
                f"{self.where}: found a {format} cut off after {len(self.data)} bytes, expected a whole image",
                "truncated-image",
            )

    def check_integrity(self, stored: np.ndarray) -> None:
        """Check that a decoded image is complete although its file has an end marker.

        Detects a JPEG that was truncated and given an end marker by a repair tool, or that lost a part, and a TIFF with
        a damaged strip. Does not detect data changed into other decodable data, nor a progressive JPEG cut off within
        its last refinement scan.

        Args:
            stored: The result of `decode_stored`.

        Raises:
            DataError: The image is damaged.
        """
        if self.header.format == "JPEG":
            # missing data affects the last pixel first
            if self._lacks_scans() or (stored[-1, -1].tolist() == _FILL and _wants_more(self.data)):
                raise DataError(
                    f"{self.where}: found a JPEG cut off after too little data for its pixels, expected a whole image",
                    "truncated-image",
                )
        elif self.header.format == "TIFF":
            try:
                # Pillow is strict where OpenCV is not
                TiffImagePlugin.TiffImageFile(io.BytesIO(self.data)).load()
            except (OSError, SyntaxError, ValueError) as error:
                raise DataError(f"{self.where}: found a damaged TIFF ({error}), expected a whole image") from error

    def check_decoded(self, image: np.ndarray) -> None:
        """Check as `check_integrity` does an image that was rotated upright or downscaled.

        This is cheap: only TIFFs, images with a corner in the gray that decoders fill in, and progressive JPEGs without
        all their scans are decoded again.

        Args:
            image: The result of `decode`.

        Raises:
            DataError: The image is damaged.
        """
        format = self.header.format
        suspicious = format == "TIFF" or (image[[0, 0, -1, -1], [0, -1, 0, -1]] == _FILL).all(axis=1).any()
        if suspicious or (format == "JPEG" and self._lacks_scans()):
            self.check_integrity(self.decode_stored())

    @property
    def _scan(self) -> int:
        """Offset of a JPEG's first scan, or -1."""
        if self._first_scan is None:
            self._first_scan = first_scan(self.data)
        return self._first_scan

    def _lacks_scans(self) -> bool:
        """Return whether a progressive JPEG lacks scans: a coefficient lacks its last bit.

        See ITU-T T.81, B.2.3 and G.1.1. A baseline JPEG is never reported.
        """
        data, position = self.data, self._scan
        if data.find(_PROGRESSIVE, 0, position) < 0:
            return False
        end = data.find(_END, position)
        bits_missing: Dict[int, bytearray] = {}
        while 0 <= position < end:
            count = data[position + 4]
            first, last, approximation = data[position + 5 + 2 * count : position + 8 + 2 * count]
            for component in data[position + 5 : position + 5 + 2 * count : 2]:
                left = bits_missing.setdefault(component, bytearray(b"\xff" * _COEFFICIENTS))
                left[first : last + 1] = bytes([approximation & 15]) * (last + 1 - first)
            position = data.find(_SCAN, position + 2)
        return any(any(left) for left in bits_missing.values())


def decode(data: bytes, where: str, expected_wh: Optional[SizeWH] = None) -> np.ndarray:
    """Decode `data` as `EncodedImage.decode` does."""
    return EncodedImage(data, where).decode(expected_wh)


def reduction(display_wh: Tuple[float, float], side: int) -> int:
    """Return the factor (1, 2, 4, 8) by which decoding may downscale an image.

    Neither side of the visible part becomes shorter than `side`, and its longer side stays at least twice as long, so
    that the final resize averages as for a full-size image.

    Args:
        display_wh: (width, height) in image pixels of the part that the network sees.
        side: Input side of the network in pixels.
    """
    return next((r for r in (8, 4, 2) if min(display_wh) >= r * side and max(display_wh) >= 2 * r * side), 1)


def check_limits(header: ImageHeader, where: str, limits: ImageLimits = DEFAULT_LIMITS) -> None:
    """Check an image against limits.

    Raises:
        DataError: The image exceeds `limits`, has several frames, or is a TIFF with an orientation.
    """
    width, height = header.width, header.height
    size = f"{where}: found {width}x{height}"
    if width * height > limits.max_pixels:
        raise DataError(
            f"{size} = {width * height / 1e6:.1f} Mpx, expected at most {limits.max_pixels / 1e6:g} Mpx", "too-large"
        )
    if min(width, height) < limits.min_side:
        raise DataError(f"{size}, expected sides of at least {limits.min_side} px", "too-small")
    if max(width, height) > limits.max_aspect * min(width, height):
        raise DataError(f"{size}, expected an aspect ratio of at most {limits.max_aspect:g}", "aspect-ratio")
    if header.frames > 1:
        raise DataError(
            f"{where}: found {header.format} with {header.frames} frames, expected one picture", "multi-frame"
        )
    if header.format == "TIFF" and header.orientation != 1:
        # some OpenCV versions apply the orientation even if asked not to
        raise DataError(
            f"{where}: found a TIFF with orientation {header.orientation}, expected 1 (save it upright)",
            "unsupported-format",
        )


def orientation_for(header: ImageHeader, where: str, expected_wh: Optional[SizeWH] = None) -> int:
    """Return the orientation 1..8 to apply so that the image has the labels' size.

    Raises:
        DataError: Neither the stored nor the upright image has the size `expected_wh`.
    """
    if expected_wh is None or header.display_wh == tuple(expected_wh):
        return header.orientation
    # some labelling tools ignore EXIF and show the stored pixels
    if (header.width, header.height) == tuple(expected_wh):
        return 1
    (width, height), (expected_width, expected_height) = header.display_wh, expected_wh
    raise DataError(
        f"{where}: found {width}x{height}, expected {expected_width}x{expected_height} (the labels' image_size)",
        "size-differs",
    )


def apply_orientation(image: np.ndarray, orientation: int) -> np.ndarray:
    """Apply the EXIF `orientation` 1..8 to stored pixels (H, W, 3); returns a view."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image


def encode_jpeg(image: np.ndarray, quality: int = 90) -> bytes:
    """Encode RGB uint8 (H, W, 3) as JPEG of `quality` 1..100."""
    return encode(image, "JPEG", quality)


def encode_png(image: np.ndarray) -> bytes:
    """Encode RGB uint8 (H, W, 3) as PNG."""
    return encode(image, "PNG")


def encode(image: np.ndarray, format: str, quality: int = 90) -> bytes:
    """Encode RGB uint8 (H, W, 3) in `format`, one of FORMATS.

    Args:
        image: The image.
        format: One of FORMATS.
        quality: 1..100; used by JPEG and WEBP.

    Raises:
        DataError: The format is unknown, or the image cannot be encoded in it.
    """
    if format not in FORMATS:
        raise DataError(f"image format: found {format!r}, expected one of {', '.join(FORMATS)}")
    encoded = pixels.operations.encode(image, format, quality)
    if encoded is None:
        raise DataError(f"image of {image.shape[1]}x{image.shape[0]}: cannot be encoded as {format}")
    return bytes(encoded)


def _wants_more(data: bytes) -> bool:
    """Return whether additional data before the end of a JPEG changes its pixels.

    It does not if the JPEG is complete. Decodes with Pillow, which prints no warnings to standard error.
    """
    end = data.rfind(_END)
    try:
        pixels, longer = (
            np.asarray(JpegImagePlugin.JpegImageFile(io.BytesIO(part)))
            for part in (data, data[:end] + _MORE + data[end:])
        )
    except (OSError, SyntaxError, ValueError):
        return True
    return not np.array_equal(longer, pixels)
