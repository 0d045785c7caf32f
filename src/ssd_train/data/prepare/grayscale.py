"""Write a folder of images in gray under the same names.

Images keep their format (a JPEG stays a JPEG whatever its suffix), size and three channels, which become equal. Pixels
stay as stored and keep their EXIF orientation, so that labels still fit, whether they refer to the upright or to the
stored image. Other metadata and transparency are dropped; 16 bits become 8.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Tuple

import numpy as np
from PIL import Image

from ssd_train.data.images import ImageHeader, decode_stored, encode_like
from ssd_train.data.prepare.lines import local_path
from ssd_train.data.prepare.listing import list_images
from ssd_train.data.prepare.pictures import (
    Processed,
    Writing,
    is_done,
    mismatch,
    output_folder,
    process,
    read_picture,
    write_picture,
)
from ssd_train.data.transforms import to_gray
from ssd_train.progress import Progress

_ORIENTATION = 0x0112  # EXIF 2.3, section 4.6.2


def grayscale(
    images: "str | Path",
    output: "str | Path",
    writing: Writing,
    progress: Progress,
) -> Processed:
    """Write each image below the folder `images` in gray to `output`.

    Files keep their relative names. Unless `writing.overwrite` is set, images whose files exist and are not older than
    the image are skipped.

    Returns:
        Counts, and a line for each image that cannot be read.

    Raises:
        ConfigError: `output` lies in `images`.
        DataError: `images` is no folder, or has no images.
    """
    source, target = local_path(images), output_folder(output, images)

    def work(name: str) -> Tuple[bool, str]:
        """Write one gray image; return whether it did, and a note."""
        if not writing.overwrite and is_done([target / name], source / name):
            return False, ""
        data = read_picture(source / name)
        pixels, header = decode_stored(data, str(source / name))
        write_picture(target / name, encode_stored(to_gray(pixels), header, writing.quality))
        return True, mismatch(name, data)

    return process(list_images(images), work, progress, "grayscale")


def encode_stored(image: np.ndarray, header: ImageHeader, quality: int) -> bytes:
    """Encode stored pixels in the format and with the orientation of `header`.

    Args:
        image: RGB uint8 (H, W, 3).
        header: header of the original image.
        quality: 1 to 100.
    """
    if header.orientation == 1:
        return encode_like(image, header.format, quality)
    exif = Image.Exif()
    exif[_ORIENTATION] = header.orientation
    buffer = io.BytesIO()
    # Pillow, because OpenCV writes no EXIF
    Image.fromarray(image).save(buffer, header.format, quality=quality, exif=exif.tobytes())
    return buffer.getvalue()
