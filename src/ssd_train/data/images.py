"""Bytes <-> RGB array: the one decoder of training, evaluation and serving.

An image is uint8 (H, W, 3) RGB, contiguous. What a file is, is told by its bytes, never by its name. Nothing is decoded
before its header has passed the limits, and nothing that is cut off is ever passed on with invented pixels.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np
from PIL import Image

from ssd_train.data import pixels
from ssd_train.data.boxes import SizeWH
from ssd_train.data.encoded import exif_orientation, is_of_other_format, jpeg_ends, looks_like, png_ends
from ssd_train.data.pillow_pixels import READERS
from ssd_train.errors import DataError

FORMATS = tuple(READERS)


@dataclass(frozen=True)
class ImageLimits:
    """What is refused before decoding: pixels above `max_pixels`, a side below `min_side`, long over short side above
    `max_aspect`."""

    max_pixels: int = 50_000_000
    min_side: int = 10
    max_aspect: float = 50.0


DEFAULT_LIMITS = ImageLimits()


@dataclass(frozen=True)
class ImageHeader:
    """What an encoded image says of itself.

    format          one of FORMATS
    width, height   pixels as stored, before the orientation is applied
    orientation     EXIF orientation 1..8; 1 where there is none or it is damaged
    frames          1, or more for an animation or a TIFF of many pages
    """

    format: str
    width: int
    height: int
    orientation: int = 1
    frames: int = 1

    @property
    def shown_wh(self) -> SizeWH:
        """(width, height) with the orientation applied, as browsers show it."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_header(data: bytes, where: str) -> ImageHeader:
    """The header of an encoded image, read without decoding a pixel. A DataError, beginning with `where`, says what the
    bytes look like when they are no image of FORMATS."""
    found = looks_like(data)
    if found not in READERS:
        code = "unsupported-format" if is_of_other_format(found) else "unreadable-image"
        raise DataError(f"{where}: found {found}, expected an image ({', '.join(FORMATS)})", code)
    try:
        image = READERS[found](io.BytesIO(data))
        return _header_of(image, found)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's parsers meet damage with many kinds of exception; all mean the same here
        raise DataError(f"{where}: found a damaged {found} header ({error}), expected a whole image") from error


def _header_of(image: Image.Image, name: str) -> ImageHeader:
    frames = 1 if name == "JPEG" else int(getattr(image, "n_frames", 1))
    if name == "TIFF":
        # Pillow's size of a TIFF is turned already in some versions; the tags are as stored
        tags = image.tag_v2  # type: ignore[attr-defined]
        return ImageHeader(name, int(tags[256]), int(tags[257]), int(tags.get(274, 1)), frames)
    width, height = image.size
    return ImageHeader(name, width, height, exif_orientation(image.info.get("exif", b"")), frames)


def decode(
    data: bytes,
    where: str,
    expected_wh: Optional[SizeWH] = None,
    limits: ImageLimits = DEFAULT_LIMITS,
    reduce: int = 1,
) -> np.ndarray:
    """Decode to RGB uint8 (H, W, 3), contiguous, turned upright.

    Without `expected_wh` the EXIF orientation is applied, as browsers and (since 2021) Ground Truth show it. With it,
    the labels' (width, height) decides whether the picture was turned when it was labelled; a picture that has another
    size either way is a DataError. `reduce` 2, 4 or 8 divides each side by that, rounded up, which is much faster for a
    JPEG; the sizes are compared before. Gray becomes three equal channels, 16 bit is scaled to 8, transparency is
    dropped. Every DataError begins with `where`.
    """
    header = read_header(data, where)
    check_limits(header, where, limits)
    orientation = turn_for(header, where, expected_wh)
    return np.ascontiguousarray(turn(_pixels(data, header, where, reduce), orientation))


def decode_for(
    data: bytes,
    where: str,
    side: int,
    expected_wh: Optional[SizeWH] = None,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> np.ndarray:
    """`decode` for a network that looks at (side, side) pixels of the whole picture, divided by its `reduction`."""
    header = read_header(data, where)
    return decode(data, where, expected_wh, limits, reduction((header.width, header.height), side))


def reduction(shown_wh: Tuple[float, float], side: int) -> int:
    """Return by how much (1, 2, 4, 8) a picture may be divided when decoded, if (width, height) pixels of it are shown
    to a network that looks at (side, side): neither side of what is shown becomes shorter than that, and the longer
    one stays twice as long, so that the last step to the network's size averages as it does for a whole picture."""
    return next((r for r in (8, 4, 2) if min(shown_wh) >= r * side and max(shown_wh) >= 2 * r * side), 1)


def decode_stored(data: bytes, where: str, limits: ImageLimits = DEFAULT_LIMITS) -> Tuple[np.ndarray, ImageHeader]:
    """The pixels as they are stored, not turned upright, and the header that tells how to turn them; else as
    `decode`."""
    header = read_header(data, where)
    check_limits(header, where, limits)
    return _pixels(data, header, where, 1), header


def _pixels(data: bytes, header: ImageHeader, where: str, reduce: int) -> np.ndarray:
    check_whole(data, header, where)
    if header.format == "JPEG":  # libjpeg's scaled decoding means over blocks; other decoders' takes every nth pixel
        return pixels.operations.decode(data, header.format, where, reduce)
    return pixels.shrink(pixels.operations.decode(data, header.format, where), reduce)


def check_limits(header: ImageHeader, where: str, limits: ImageLimits = DEFAULT_LIMITS) -> None:
    """A DataError when the image is larger, narrower or longer than `limits`, or has several frames."""
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
        # OpenCV turns these whatever it is told, in some versions only
        raise DataError(
            f"{where}: found a TIFF with orientation {header.orientation}, expected 1 (save it upright)",
            "unsupported-format",
        )


def turn_for(header: ImageHeader, where: str, expected_wh: Optional[SizeWH] = None) -> int:
    """The orientation 1..8 to apply so that the picture has the labels' size; a DataError when neither way has it."""
    if expected_wh is None or header.shown_wh == tuple(expected_wh):
        return header.orientation
    # some tools labelled the stored pixels, blind to EXIF
    if (header.width, header.height) == tuple(expected_wh):
        return 1
    (width, height), (expected_width, expected_height) = header.shown_wh, expected_wh
    raise DataError(
        f"{where}: found {width}x{height}, expected {expected_width}x{expected_height} (the labels' image_size)",
        "size-differs",
    )


def turn(image: np.ndarray, orientation: int) -> np.ndarray:
    """The stored pixels (H, W, 3) of EXIF `orientation` 1..8 as they are to be seen; a view."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image


def check_whole(data: bytes, header: ImageHeader, where: str) -> None:
    """A DataError when a JPEG or PNG is cut off; decoders fill the rest with gray or repeated rows without a word. The
    other formats' decoders refuse by themselves."""
    if (header.format == "JPEG" and not jpeg_ends(data)) or (header.format == "PNG" and not png_ends(data)):
        raise DataError(
            f"{where}: found a {header.format} cut off after {len(data)} bytes, expected a whole image",
            "truncated-image",
        )


def encode_jpeg(image: np.ndarray, quality: int = 90) -> bytes:
    """RGB uint8 (H, W, 3) -> JPEG of `quality` 1..100."""
    return encode_like(image, "JPEG", quality)


def encode_png(image: np.ndarray) -> bytes:
    """RGB uint8 (H, W, 3) -> PNG, lossless."""
    return encode_like(image, "PNG")


def encode_like(image: np.ndarray, format: str, quality: int = 90) -> bytes:
    """RGB uint8 (H, W, 3) -> bytes of `format`, one of FORMATS; `quality` 1..100 counts for JPEG and WEBP."""
    if format not in FORMATS:
        raise DataError(f"image format: found {format!r}, expected one of {', '.join(FORMATS)}")
    encoded = pixels.operations.encode(image, format, quality)
    if encoded is None:
        raise DataError(f"image of {image.shape[1]}x{image.shape[0]}: cannot be encoded as {format}")
    return bytes(encoded)
