"""Sources of images: a folder, whose images are read once each, and a camera, read at intervals."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import logging
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterator, NamedTuple, Tuple

import cv2
import numpy as np
from outbox import Outbox

from ssd_train.data.image_io import decode
from ssd_train.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
log = logging.getLogger("edge")
State = Tuple[int, int]  # size in bytes, modification time in ns


class InputImage(NamedTuple):
    """An image to process.

    Attributes:
        source: unique key of the image.
        name: file name, or time and number of a camera image.
        taken: ISO time.
        pixels: RGB uint8 (H, W, 3); None if the image cannot be read.
        fault: why the image cannot be read, else "".
    """

    source: str
    name: str
    taken: str
    pixels: Any
    fault: str = ""


def read_folder(flags: argparse.Namespace, outbox: Outbox, stop: threading.Event) -> Iterator[InputImage]:
    """Yield each image in the folder once, as soon as it is unchanged between two scans.

    Wait while the folder is unavailable; keep the images' entries while it is empty, as the mount point of an unplugged
    disk is.
    """
    before: Dict[str, State] = {}
    while not stop.is_set():
        try:
            now = dict(_scan(flags.folder))
        except OSError as error:
            log.warning("%s: cannot be read (%s), waiting", flags.folder, error.strerror)
            stop.wait(max(flags.every, 1))
            continue
        unchanged = [name for name, state in now.items() if before.get(name) == state]
        sources = {name: _source(name, *now[name]) for name in now}
        pending = [name for name in sorted(unchanged) if not outbox.is_done(sources[name])]
        for name in pending:
            if stop.is_set():
                return
            yield _read(flags.folder / name, sources[name], now[name][1])
        if flags.once and before == now and not pending:
            return
        if now:  # an empty folder may be the mount point of an unplugged disk
            outbox.forget(set(outbox.sources()) - set(sources.values()))
        before = now
        stop.wait(flags.every)


def _scan(folder: Path) -> Iterator[Tuple[str, State]]:
    """Yield name and state of each image in the folder."""
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # deleted since
            if path.suffix.lower() in SUFFIXES and path.is_file():
                state = path.stat()
                yield path.name, (state.st_size, state.st_mtime_ns)


def _source(name: str, size: int, modified_ns: int) -> str:
    return f"{name}|{size}|{modified_ns}"


def _read(path: Path, source: str, modified_ns: int) -> InputImage:
    taken = _iso(modified_ns / 1e9)
    try:
        return InputImage(source, path.name, taken, decode(path.read_bytes(), path.name))
    except (DataError, OSError) as error:
        return InputImage(source, path.name, taken, None, str(error))


def read_camera(flags: argparse.Namespace, stop: threading.Event) -> Iterator[InputImage]:
    """Yield the camera's newest image every `flags.every` seconds; reopen the camera if it fails."""
    device = int(flags.camera) if flags.camera.isdigit() else flags.camera
    capture, opened, count = cv2.VideoCapture(device), _iso(time.time()), 0
    try:
        while not stop.is_set():
            good, frame = capture.read()
            if not good:
                if flags.once and not count:
                    raise DataError(f"camera {flags.camera}: found no image")
                if flags.once:
                    return
                log.warning("camera %s: found no image, reopening", flags.camera)
                capture.open(device)
            else:
                count += 1
                taken = _iso(time.time())
                image = np.ascontiguousarray(frame[:, :, ::-1])  # OpenCV's frames are BGR
                yield InputImage(f"{flags.camera}|{opened}|{count}", f"{opened}-{count}", taken, image)
            stop.wait(flags.every)
    finally:
        capture.release()


def _iso(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).isoformat(timespec="milliseconds")
