"""Extract images from videos."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import Any, Iterator, List, NamedTuple, Sequence

import numpy as np

from ssd_train.data.image_io import FORMATS, encode, sniff_format
from ssd_train.data.pixels import opencv
from ssd_train.errors import ConfigError, DataError, reading
from ssd_train.prepare.images import WriteOptions, is_done, write_image
from ssd_train.prepare.manifest import local_path
from ssd_train.progress import Progress

DEFAULT_RATE = 25.0  # frames per second
FRAME_FORMATS = {"jpg": "JPEG", "png": "PNG"}


class Choice(NamedTuple):
    """Selection and format of the frames.

    Attributes:
        every: every n-th frame is written, starting with the first.
        format: "jpg" or "png".
    """

    every: int = 1
    format: str = "jpg"


@dataclass
class Frames:
    """Counts of one video.

    Attributes:
        read: frames read.
        written: images written.
        skipped: images that existed already.
        promised: number of frames according to the video header; 0: unknown.
    """

    video: str
    read: int = 0
    written: int = 0
    skipped: int = 0
    promised: int = 0


def extract_frames(
    videos: Sequence["str | Path"], output: "str | Path", choice: Choice, writing: WriteOptions, progress: Progress
) -> List[Frames]:
    """Write the chosen frames of each video below `output`.

    Files are named ``<video>_<number>.<format>``; the number has six digits and counts all frames of the video from 0.
    Unless `writing.overwrite` is set, files that exist and are not older than the video are skipped.

    Returns:
        The counts of each video.

    Raises:
        ConfigError: `choice` is invalid, or two videos have the same name.
        DataError: a file is no video, or has no frame that can be read.
    """
    if choice.every < 1:
        raise ConfigError(f"every: found {choice.every}, expected 1 or more")
    paths = [local_path(video) for video in videos]
    stems = [path.stem for path in paths]
    twice = [stem for stem in stems if stems.count(stem) > 1]
    if twice:
        raise ConfigError(f"frames: found several videos called {twice[0]!r}, expected a folder for each")
    return [_extract(path, local_path(output), choice, writing, progress) for path in paths]


def _extract(path: Path, folder: Path, choice: Choice, writing: WriteOptions, progress: Progress) -> Frames:
    with open_video(path) as capture:
        done = Frames(str(path), promised=frame_count(capture))
        for index in progress.track(_grabbed(capture), done.promised, path.name):
            done.read += 1
            target = folder / f"{path.stem}_{index:06d}.{choice.format}"
            if index % choice.every:
                continue
            if not writing.overwrite and is_done([target], path):
                done.skipped += 1
                continue
            image = _retrieved(capture, f"{path}: frame {index}")
            write_image(target, encode(image, FRAME_FORMATS[choice.format], writing.quality))
            done.written += 1
    if not done.read:
        raise _no_frame(path)
    return done


class Frame(NamedTuple):
    """A frame of a video.

    Attributes:
        number: from 0.
        seconds: time since the first frame.
        image: RGB uint8 (H, W, 3).
    """

    number: int
    seconds: float
    image: np.ndarray


def read_frames(capture: Any, path: Path, every: int = 1) -> Iterator[Frame]:
    """Yield every n-th frame of an open video, starting with the first.

    Raises:
        DataError: the video has no frame, or one that cannot be decoded.
    """
    cv2, rate, start, index = opencv(), frame_rate(capture), 0.0, -1
    for index in _grabbed(capture):
        position = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        start = start if index else position
        if index % every == 0:
            # some containers state no time of their frames
            seconds = position - start if position > start else index / rate
            yield Frame(index, seconds, _retrieved(capture, f"{path}: frame {index}"))
    if index < 0:
        raise _no_frame(path)


def frame_count(capture: Any) -> int:
    """Return the number of frames according to the header of an open video; 0: unknown."""
    return max(0, int(capture.get(opencv().CAP_PROP_FRAME_COUNT)))


def frame_rate(capture: Any) -> float:
    """Return the frames per second of an open video; DEFAULT_RATE if its header states none."""
    rate = float(capture.get(opencv().CAP_PROP_FPS))
    return rate if 0 < rate < float("inf") else DEFAULT_RATE


@contextlib.contextmanager
def open_video(path: Path) -> Iterator[Any]:
    """Yield an open cv2.VideoCapture.

    Raises:
        DataError: `path` is no video that OpenCV can read.
    """
    capture = _open(path)
    try:
        yield capture
    finally:
        capture.release()


def _no_frame(path: Path) -> DataError:
    return DataError(f"{path}: found no frame that can be read, expected a video")


def _open(path: Path) -> Any:
    with reading(path, "a video"), open(path, "rb") as file:
        detected = sniff_format(file.read(256))
    # OpenCV opens an image file as the first of a numbered sequence of frames
    capture = None if detected in FORMATS else opencv().VideoCapture(str(path))
    if capture is None or not capture.isOpened():
        raise DataError(f"{path}: found {detected}, expected a video that OpenCV can read (MP4, AVI, MOV, MKV, ...)")
    return capture


def _grabbed(capture: Any) -> Iterator[int]:
    """Yield frame indexes; only `retrieve` decodes a frame."""
    return takewhile(lambda _: capture.grab(), count())


def _retrieved(capture: Any, where: str) -> np.ndarray:
    ok, frame = capture.retrieve()
    if not ok:
        raise DataError(f"{where}: cannot be decoded, expected a whole video")
    cv2 = opencv()
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
