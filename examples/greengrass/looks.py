"""Where pictures come from: a folder, each of them once, or a camera, every so many seconds."""

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

from ssd_train.data.images import decode
from ssd_train.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
log = logging.getLogger("edge")
State = Tuple[int, int]  # size, and time of the last change


class Look(NamedTuple):
    """A picture to look at: what tells it from all others, its name, when it was taken, its pixels or why there are
    none."""

    source: str
    name: str
    taken: str
    image: Any
    fault: str = ""


def from_folder(flags: argparse.Namespace, outbox: Outbox, stop: threading.Event) -> Iterator[Look]:
    """Each picture in the folder once, as soon as nobody writes to it any more. A folder that goes away, or is empty
    for a while, as that of a disk that is unplugged, is waited for."""
    before: Dict[str, State] = {}
    while not stop.is_set():
        try:
            now = dict(_states(flags.folder))
        except OSError as error:
            log.warning("%s: cannot be read (%s), waiting", flags.folder, error.strerror)
            stop.wait(max(flags.every, 1))
            continue
        settled = [name for name, state in now.items() if before.get(name) == state]
        sources = {name: _source(name, *now[name]) for name in now}
        waiting = [name for name in sorted(settled) if not outbox.is_done(sources[name])]
        for name in waiting:
            if stop.is_set():
                return
            yield _read(flags.folder / name, sources[name], now[name][1])
        if flags.once and before == now and not waiting:
            return
        if now:  # an empty folder may be where a disk is mounted that is away
            outbox.forget(set(outbox.sources()) - set(sources.values()))
        before = now
        stop.wait(flags.every)


def _states(folder: Path) -> Iterator[Tuple[str, State]]:
    """Name and state of each picture that is there."""
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # gone since
            if path.suffix.lower() in SUFFIXES and path.is_file():
                state = path.stat()
                yield path.name, (state.st_size, state.st_mtime_ns)


def _source(name: str, size: int, changed: int) -> str:
    return f"{name}|{size}|{changed}"


def _read(path: Path, source: str, changed_ns: int) -> Look:
    taken = _iso(changed_ns / 1e9)
    try:
        return Look(source, path.name, taken, decode(path.read_bytes(), path.name))
    except (DataError, OSError) as error:
        return Look(source, path.name, taken, None, str(error))


def from_camera(flags: argparse.Namespace, stop: threading.Event) -> Iterator[Look]:
    """The camera's newest picture every so many seconds; a camera that goes away is opened again."""
    device = int(flags.camera) if flags.camera.isdigit() else flags.camera
    capture, opened, count = cv2.VideoCapture(device), _iso(time.time()), 0
    with contextlib.closing(_Released(capture)):
        while not stop.is_set():
            good, frame = capture.read()
            if not good:
                if flags.once and not count:
                    raise DataError(f"camera {flags.camera}: gives no picture")
                if flags.once:
                    return
                log.warning("camera %s: no picture, opened again", flags.camera)
                capture.open(device)
            else:
                count += 1
                taken = _iso(time.time())
                image = np.ascontiguousarray(frame[:, :, ::-1])  # OpenCV's are BGR
                yield Look(f"{flags.camera}|{opened}|{count}", f"{opened}-{count}", taken, image)
            stop.wait(flags.every)


class _Released(NamedTuple):
    capture: Any

    def close(self) -> None:
        self.capture.release()


def _iso(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).isoformat(timespec="milliseconds")
