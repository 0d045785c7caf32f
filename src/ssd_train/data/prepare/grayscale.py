"""grayscale: a folder of pictures without their colours, under the same names.

Pictures keep their format (a JPEG stays a JPEG, whatever it is called), their size, and three channels, now equal, as
labels and networks expect them. Pixels stay as they are stored and the EXIF orientation stays with them, so that labels
fit as before, whether they were made on the turned or on the stored picture. Other metadata is left out, and so is
transparency; 16 bits become 8.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Tuple

import numpy as np
from PIL import Image

from ssd_train.data.images import ImageHeader, decode_stored, encode_like
from ssd_train.data.prepare.lines import local_path
from ssd_train.data.prepare.pictures import (
    Processed,
    Writing,
    is_done,
    list_images,
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
    """Write each picture below the folder `images` in gray below `output`, under the same relative name.

    Pictures that are there already, and not older than their source, are skipped unless `writing` says otherwise. Those
    that cannot be read are listed in the result.
    """
    source, target = local_path(images), output_folder(output, images)

    def work(name: str) -> Tuple[bool, str]:
        """Write the gray picture called `name`; whether it did, and a note."""
        if not writing.overwrite and is_done([target / name], source / name):
            return False, ""
        data = read_picture(source / name)
        pixels, header = decode_stored(data, str(source / name))
        write_picture(target / name, encode_stored(to_gray(pixels), header, writing.quality))
        return True, mismatch(name, data)

    return process(list_images(images), work, progress, "grayscale")


def encode_stored(image: np.ndarray, header: ImageHeader, quality: int) -> bytes:
    """RGB uint8 (H, W, 3) of pixels as stored -> bytes of the format and with the orientation of `header`."""
    if header.orientation == 1:
        return encode_like(image, header.format, quality)
    exif = Image.Exif()
    exif[_ORIENTATION] = header.orientation
    buffer = io.BytesIO()
    # OpenCV writes no EXIF
    Image.fromarray(image).save(buffer, header.format, quality=quality, exif=exif.tobytes())
    return buffer.getvalue()
