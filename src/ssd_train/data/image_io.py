"""Decode and encode images; training, evaluation and serving all use this decoder.

An image is uint8 (H, W, 3) RGB, contiguous. The format is detected from the content, never from the name. The header is
checked against limits before decoding, and truncated images are refused, never filled up.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Dict, Optional, Tuple

import numpy as np
from PIL import Image, JpegImagePlugin, TiffImagePlugin

from ssd_train.boxes import SizeWH
from ssd_train.data import pixels
from ssd_train.data.image_format import (
    exif_orientation,
    first_scan,
    is_of_other_format,
    jpeg_header,
    jpeg_is_complete,
    png_is_complete,
    sniff_format,
)
from ssd_train.data.pillow_pixels import READERS
from ssd_train.errors import DataError

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
    """

    def __init__(self, data: bytes, where: str) -> None:
        self.data, self.where = data, where
        self._header: Optional[ImageHeader] = None
        self._first_scan: Optional[int] = None

    @property
    def header(self) -> ImageHeader:
        """The header, as `read_header` returns it."""
        if self._header is None:
            self._header = read_header(self.data, self.where)
        return self._header

    def decode(
        self, expected_wh: Optional[SizeWH] = None, limits: ImageLimits = DEFAULT_LIMITS, reduce: int = 1
    ) -> np.ndarray:
        """Decode to RGB uint8 (H, W, 3), contiguous and upright.

        Grayscale is repeated in three channels, 16 bits are scaled to 8, and transparency is dropped.

        Args:
            expected_wh: (width, height) in the labels. It decides whether the EXIF orientation is applied: the result
                has this size. If it is None, the orientation is always applied, as in browsers and (since 2021) in
                Ground Truth.
            limits: Limits checked before decoding.
            reduce: 1, 2, 4 or 8; divides each side, rounded up, after the sizes were compared. Much faster for a JPEG.

        Raises:
            DataError: The image cannot be decoded, exceeds the limits, or has another size than `expected_wh` in
                either orientation; the message starts with `where`.
        """
        check_limits(self.header, self.where, limits)
        orientation = orientation_for(self.header, self.where, expected_wh)
        return np.ascontiguousarray(apply_orientation(self._pixels(reduce), orientation))

    def decode_downscaled(
        self, side: int, expected_wh: Optional[SizeWH] = None, limits: ImageLimits = DEFAULT_LIMITS
    ) -> np.ndarray:
        """Decode the image, downscaled by `reduction` for a network's input side; otherwise as `decode`."""
        return self.decode(expected_wh, limits, reduction((self.header.width, self.header.height), side))

    def decode_verified(
        self, side: int, expected_wh: Optional[SizeWH] = None, limits: ImageLimits = DEFAULT_LIMITS
    ) -> Tuple[np.ndarray, SizeWH]:
        """Decode the image for a network with input side `side`, and check it for damage.

        Args:
            side: Input side of the network in pixels.
            expected_wh: (width, height) in the labels, if known.
            limits: Limits checked before decoding.

        Returns:
            The image as `decode_downscaled` returns it, and (width, height) of the full-size image, upright.

        Raises:
            DataError: The image cannot be used.
        """
        size_wh = expected_wh or self.header.display_wh
        image = self.decode_downscaled(side, size_wh, limits)
        self.check_decoded(image)
        return image, size_wh

    def decode_stored(self, limits: ImageLimits = DEFAULT_LIMITS) -> np.ndarray:
        """Decode the pixels as stored, RGB uint8 (H, W, 3), without applying the orientation.

        Raises:
            DataError: The image cannot be decoded or exceeds the limits.
        """
        check_limits(self.header, self.where, limits)
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


def decode(
    data: bytes,
    where: str,
    expected_wh: Optional[SizeWH] = None,
    limits: ImageLimits = DEFAULT_LIMITS,
    reduce: int = 1,
) -> np.ndarray:
    """Decode `data` as `EncodedImage.decode` does."""
    return EncodedImage(data, where).decode(expected_wh, limits, reduce)


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
