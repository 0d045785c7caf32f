"""Folders of pictures: listed, worked on in parallel, written so that work that was broken off can be taken up again.

A picture stands under its name only when it is whole, so one that is there, and not older than what it was made of, is
done. What a killed run leaves half done is called ``.NAME.part`` and replaced by the next one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, List, NamedTuple, Sequence, Tuple, TypeVar

from ssd_train.cpus import available_cpus
from ssd_train.data.file_names import IMAGE_FORMATS, images_below
from ssd_train.data.images import read_header
from ssd_train.data.prepare.lines import local_path
from ssd_train.errors import ConfigError, DataError
from ssd_train.parallel import in_order
from ssd_train.progress import Progress
from ssd_train.storage import errors_of, write_bytes_atomic

Item = TypeVar("Item")


class Writing(NamedTuple):
    """How pictures are written: `quality` 1..100 of JPEG and WebP, and whether what is there already is made anew."""

    quality: int = 95
    overwrite: bool = False


@dataclass
class Processed:
    """What became of the pictures: how many were written or already there, and a line for each that could not be read
    (`failures`) or is not what its name says (`notes`)."""

    written: int = 0
    skipped: int = 0
    failures: List[str] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)


def list_images(folder: "str | Path") -> List[str]:
    """Paths below `folder`, with slashes and sorted, of the files whose names end as pictures' do; a DataError if there
    are none."""
    root = local_path(folder)
    if not root.is_dir():
        raise DataError(f"{folder}: not found or not a folder, expected a folder of images")
    found = [path.relative_to(root).as_posix() for path in images_below(root)]
    if not found:
        raise DataError(f"{folder}: found no images, expected files named *{', *'.join(IMAGE_FORMATS)}")
    return sorted(found)


def mismatch(name: str, data: bytes) -> str:
    """How the suffix of `name` contradicts the picture's bytes, or ""."""
    found, suffix = read_header(data, name).format, os.path.splitext(name)[1].lower()
    named = IMAGE_FORMATS.get(suffix, found)
    return "" if named == found else f"{name}: is called {suffix} and is a {found}; it stays a {found}"


def output_folder(output: "str | Path", images: "str | Path") -> Path:
    """`output` as a path; a ConfigError when it is the folder `images` or in it, so that it would be a source too."""
    place, source = local_path(output), local_path(images)
    if source.resolve() in [place.resolve(), *place.resolve().parents]:
        raise ConfigError(f"output: found {output}, which is in {images}, expected a folder outside of it")
    return place


def is_done(outputs: Sequence[Path], source: Path) -> bool:
    """Whether all `outputs` are there and none is older than `source`."""
    try:
        return min(path.stat().st_mtime_ns for path in outputs) >= source.stat().st_mtime_ns
    except FileNotFoundError:
        return False


def read_picture(path: Path) -> bytes:
    """The bytes of a file; a DataError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}), expected an image") from error


def write_picture(path: Path, data: bytes) -> None:
    """Write a file so that it stands under its name only when it is whole and on the disk."""
    # not storage.open_atomic: it looks through the whole folder for leftovers, for each of thousands of files
    if path.is_symlink() or (path.exists() and not path.is_file()):
        write_bytes_atomic(path, data)
        return
    part = path.with_name(f".{path.name}.part")
    with errors_of(path, len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)


def process(
    items: Sequence[Item], work: Callable[[Item], Tuple[bool, str]], progress: Progress, what: str
) -> Processed:
    """Call `work` for each item, on all processors; it returns whether it wrote something, and a note or "".

    A DataError is noted as a failure, and the other items go on; any other error ends all.
    """
    done = Processed()

    def attempt(item: Item) -> Tuple[bool, str, str]:
        """What `work` returned, and the failure or ""."""
        try:
            return (*work(item), "")
        except DataError as error:
            return False, "", str(error)

    for written, note, failure in progress.track(in_order(attempt, items, available_cpus()), len(items), what):
        done.written += written
        done.skipped += not written and not failure
        done.notes += [note] if note else []
        done.failures += [failure] if failure else []
    return done
