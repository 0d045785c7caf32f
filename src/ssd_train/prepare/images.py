"""Process folders of images in parallel, so that interrupted work can be resumed.

A file gets its name only when it is complete. So a file that exists and is not older than its source is done. An
interrupted write leaves ``.NAME.part``, which the next run replaces.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, List, NamedTuple, Sequence, Tuple, TypeVar

import numpy as np
from PIL import Image

from ssd_train.data.file_names import IMAGE_FORMATS
from ssd_train.data.image_io import EncodedImage, ImageHeader, encode
from ssd_train.data.transforms import to_gray
from ssd_train.errors import ConfigError, DataError, reading
from ssd_train.parallel import ordered_map
from ssd_train.prepare.manifest import list_images, local_path
from ssd_train.progress import Progress
from ssd_train.resources import available_cpus
from ssd_train.storage.atomic import translate_io_errors, write_bytes_atomic

Item = TypeVar("Item")


class WriteOptions(NamedTuple):
    """Options for writing images.

    Attributes:
        quality: of JPEG and WebP, 1 to 100.
        overwrite: write images again that exist already.
    """

    quality: int = 95
    overwrite: bool = False


@dataclass
class ProcessResult:
    """Result of processing images.

    Attributes:
        written: number of images written.
        skipped: number of images that existed already.
        failures: a line for each image that cannot be read.
        notes: a line for each image whose suffix does not fit its format.
    """

    written: int = 0
    skipped: int = 0
    failures: List[str] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)


def mismatch(name: str, format: str) -> str:
    """Return a note if the suffix of `name` does not fit the image's format, else ""."""
    suffix = os.path.splitext(name)[1].lower()
    expected = IMAGE_FORMATS.get(suffix, format)
    return "" if expected == format else f"{name}: is called {suffix} and is a {format}; it stays a {format}"


def output_folder(output: "str | Path", images: "str | Path") -> Path:
    """Return `output` as a path.

    Raises:
        ConfigError: it is the folder `images` or lies in it, so that outputs would become inputs.
    """
    target, source = local_path(output), local_path(images)
    if source.resolve() in [target.resolve(), *target.resolve().parents]:
        raise ConfigError(f"output: found {output}, which is in {images}, expected a folder outside of it")
    return target


def is_done(outputs: Sequence[Path], source: Path) -> bool:
    """Return whether all `outputs` exist and none is older than `source`."""
    try:
        return min(path.stat().st_mtime_ns for path in outputs) >= source.stat().st_mtime_ns
    except FileNotFoundError:
        return False


def write_image(path: Path, data: bytes) -> None:
    """Write a file atomically and flush it to the disk."""
    # not storage.open_atomic, which searches the whole folder for leftovers, here for each of thousands of files
    if path.is_symlink() or (path.exists() and not path.is_file()):
        write_bytes_atomic(path, data)
        return
    part = path.with_name(f".{path.name}.part")
    with translate_io_errors(path, len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)


def process(
    items: Sequence[Item], work: Callable[[Item], Tuple[bool, str]], progress: Progress, what: str
) -> ProcessResult:
    """Call `work` for each item, in a thread per CPU.

    A DataError counts as a failure of its item; other exceptions end the processing.

    Args:
        items: the items.
        work: returns whether it wrote something, and a note or "".
        progress: shows the items.
        what: name of the work for `progress`.
    """
    done = ProcessResult()

    def attempt(item: Item) -> Tuple[bool, str, str]:
        """Return the result of `work`, and the failure or ""."""
        try:
            return (*work(item), "")
        except DataError as error:
            return False, "", str(error)

    for written, note, failure in progress.track(ordered_map(attempt, items, available_cpus()), len(items), what):
        done.written += written
        done.skipped += not written and not failure
        done.notes += [note] if note else []
        done.failures += [failure] if failure else []
    return done


_ORIENTATION = 0x0112  # EXIF 2.3, section 4.6.2


def grayscale(
    images: "str | Path",
    output: "str | Path",
    writing: WriteOptions,
    progress: Progress,
) -> ProcessResult:
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
        with reading(source / name, "an image"):
            image = EncodedImage((source / name).read_bytes(), str(source / name))
        write_image(target / name, encode_stored(to_gray(image.decode_stored()), image.header, writing.quality))
        return True, mismatch(name, image.header.format)

    return process(list_images(images), work, progress, "grayscale")


def encode_stored(image: np.ndarray, header: ImageHeader, quality: int) -> bytes:
    """Encode stored pixels in the format and with the orientation of `header`.

    Args:
        image: RGB uint8 (H, W, 3).
        header: header of the original image.
        quality: 1 to 100.
    """
    if header.orientation == 1:
        return encode(image, header.format, quality)
    exif = Image.Exif()
    exif[_ORIENTATION] = header.orientation
    buffer = io.BytesIO()
    # Pillow, because OpenCV writes no EXIF
    Image.fromarray(image).save(buffer, header.format, quality=quality, exif=exif.tobytes())
    return buffer.getvalue()
