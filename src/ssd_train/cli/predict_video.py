"""The command predict for videos: predictions of frames as JSON Lines, and the video with boxes drawn on it."""

from __future__ import annotations

import argparse
import contextlib
import functools
import shutil
import tempfile
from collections import deque
from pathlib import Path
from typing import Any, BinaryIO, Callable, Deque, Dict, Iterator, List, Optional, Sequence

import numpy as np

from ssd_train.data.pixels import opencv
from ssd_train.deploy.detector import Detector, ImageRef, Tiling
from ssd_train.errors import ConfigError, SsdTrainError
from ssd_train.evaluation.predictions import prediction_line
from ssd_train.prepare.frames import Frame, frame_count, frame_rate, open_video, read_frames
from ssd_train.progress import Progress
from ssd_train.storage import atomic
from ssd_train.visualization.draw import draw_detections, size_of

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm")
DRAWN = ".mp4"
CODEC = "mp4v"  # MPEG-4 Part 2: OpenCV's wheels have no encoder of H.264
BATCH, WORKERS = 4, 1  # frames wait as full-size pixels, so few are read ahead


def check_video_flags(flags: argparse.Namespace) -> bool:
    """Return True if the inputs are videos.

    Raises:
        ConfigError: they are videos and images, two videos have the same name, or a flag does not apply to videos.
    """
    videos = [path for path in flags.paths if _has_suffix(path)]
    if not videos:
        if flags.every != 1:
            raise ConfigError("every: found images, expected a video")
        return False
    if len(videos) < len(flags.paths):
        raise ConfigError(f"found {videos[0]}, a video, and other paths, expected only videos or only images")
    for name in ("pdf", "labels", "transform_output"):
        if getattr(flags, name):
            raise ConfigError(f"{name}: found a video, {videos[0]}, expected images")
    if flags.format != "jsonl":
        raise ConfigError(f"format: found {flags.format} and a video, {videos[0]}, expected jsonl")
    stems = [Path(str(path)).stem for path in videos]
    for stem in stems:
        if stems.count(stem) > 1:
            raise ConfigError(f"found two videos called {stem!r}, expected unique names")
    return True


def _has_suffix(path: object) -> bool:
    return Path(str(path)).suffix.lower() in VIDEO_SUFFIXES and not (isinstance(path, Path) and path.is_dir())


def predict_videos(
    detector: Detector, videos: Sequence[Path], flags: argparse.Namespace, threshold: float, progress: Progress
) -> None:
    """Write a line for each chosen frame of the videos, and the videos with boxes of at least `threshold`.

    Raises:
        DataError: a file is no video that OpenCV can read.
        ConfigError: an overlay would overwrite a video.
    """
    targets = [flags.overlays / f"{video.stem}{DRAWN}" if flags.overlays else None for video in videos]
    for video, target in zip(videos, targets):
        if target is not None and target.exists() and target.samefile(video):
            raise ConfigError(f"overlays: found {target}, an input video, expected another folder")
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(atomic.open_atomic(flags.output)) if flags.output else None
        for video, target in zip(videos, targets):
            _predict(detector, video, lines, target, flags, threshold, progress)


def _predict(
    detector: Detector,
    video: Path,
    lines: Optional[BinaryIO],
    target: Optional[Path],
    flags: argparse.Namespace,
    threshold: float,
    progress: Progress,
) -> None:
    with contextlib.ExitStack() as stack:
        capture = stack.enter_context(open_video(video))
        total, rate = frame_count(capture), frame_rate(capture)
        writer = stack.enter_context(_video_writer(target, rate / flags.every)) if target else None
        numbers: Deque[Dict[str, Any]] = deque()
        refs = _refs(read_frames(capture, video, flags.every), video, numbers)
        predictions = detector.predict_iter(refs, BATCH, WORKERS, Tiling(flags.tile, flags.tile_overlap))
        stack.enter_context(contextlib.closing(predictions))
        counts: List[int] = []
        last = 0
        for prediction in progress.track(predictions, -(-total // flags.every), video.name):
            number, (image, detections) = numbers.popleft(), prediction.decoded()
            last, name = number["frame"], prediction.image_ref.name
            counts.append(len(detections.above(threshold)))
            if lines is not None:
                lines.write(prediction_line(name, detections, detector.class_names, **number))
            if writer is not None:
                writer(draw_detections(image, detections, detector.class_names, threshold))
    progress.info(
        f"{video.name}: {len(counts)} frames, boxes that score {threshold:.3g} or more: {sum(counts)}, "
        f"in {sum(map(bool, counts))} of them"
    )
    if last + flags.every < total:
        progress.warning(f"{video}: frames until {last} of {total} are readable; the video may be truncated")


def _refs(frames: Iterator[Frame], video: Path, numbers: Deque[Dict[str, Any]]) -> Iterator[ImageRef]:
    """Yield the frames as images, named as `prepare frames` names them, and append their numbers to `numbers`."""
    for frame in frames:
        numbers.append({"frame": frame.number, "seconds": round(frame.seconds, 3)})
        yield ImageRef(
            f"{video.stem}_{frame.number:06d}",
            functools.partial(np.asarray, frame.image),
            f"{video}: frame {frame.number}",
        )


@contextlib.contextmanager
def _video_writer(path: Path, rate: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function that appends a frame, RGB uint8 (H, W, 3), to a video of `rate` frames per second.

    The video replaces `path` when the block ends without an exception. All frames get the size of the first one.

    Raises:
        SsdTrainError: by that function, OpenCV cannot write the video.
    """
    cv2, writer, size_wh = opencv(), None, (0, 0)

    def write(image: np.ndarray) -> None:
        nonlocal writer, size_wh
        if writer is None:
            size_wh = size_of(image)
            writer = cv2.VideoWriter(written.name, cv2.VideoWriter_fourcc(*CODEC), rate, size_wh)
            if not writer.isOpened():
                raise SsdTrainError(f"video: OpenCV cannot write {CODEC} of {size_wh[0]}x{size_wh[1]}")
        if size_of(image) != size_wh:
            image = cv2.resize(image, size_wh)
        writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    # OpenCV chooses the container by the suffix of the name
    with atomic.open_atomic(path) as file, tempfile.NamedTemporaryFile(suffix=DRAWN) as written:
        try:
            yield write
        finally:
            if writer is not None:
                writer.release()
        with open(written.name, "rb") as source:
            shutil.copyfileobj(source, file)
