"""Read the training and validation data of Pipe mode channels.

All channels are read at the same time, because SageMaker gives up on a channel that waits too long.
"""

from __future__ import annotations

import stat
import tempfile
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event
from typing import Dict, Optional

from ssd_train.config import TrainConfig
from ssd_train.data.channel import Channel, Table, receive
from ssd_train.data.fifo import fifo_path
from ssd_train.data.labels import LabelledImages, matched_to, parse_class_names, with_class_count
from ssd_train.data.records import ClassNames
from ssd_train.data.spill import SpillFile, free_space
from ssd_train.data.stream import DetectionStream, StreamOptions
from ssd_train.environment import Environment
from ssd_train.errors import DataError
from ssd_train.progress import Progress

MB, GB = 10**6, 10**9
FREE_SHARE = 0.5  # of the free disk space, if --pipe_spill_gb is 0
VALIDATION_SHARE = 0.25  # of the limit, if both channels are piped


def piped_paths(environment: Environment) -> Dict[str, Path]:
    """Return the paths of the train and validation channels that use Pipe mode.

    These are the channels that the environment names, and those without a folder whose first FIFO exists.
    """
    paths = {"train": environment.train, "validation": environment.validation}
    return {name: path for name, path in paths.items() if path and (name in environment.pipes or _looks_piped(path))}


class Pipes:
    """Pipe mode channels of a job, each received once at construction."""

    def __init__(self, config: TrainConfig, paths: Dict[str, Path], progress: Progress) -> None:
        self._config, self._progress = config, progress
        self._spills = _spill_files(config, paths)
        self._channels = self._receive(paths)
        self._table: Optional[Table] = None

    def __contains__(self, name: str) -> bool:
        return name in self._channels

    def train(self) -> LabelledImages:
        """Return the training data.

        The images are a DetectionStream if they do not fit the spill file.
        """
        channel, config = self._channels["train"], self._config
        class_names, table = channel.class_table(parse_class_names(config.class_names))
        labels, images = channel.label_set(class_names, table, config.on_bad_data)
        if not config.class_names:
            labels = with_class_count(labels, config.num_classes)
        # later epochs and validation may have ids that do not occur in the first pass over the training data
        self._table = table = {**{i: i for i in labels.class_names.unnamed}, **table}
        if images is not None:
            return LabelledImages(labels, images)
        options = StreamOptions(
            config.epochs, config.pipe_timeout, config.pipe_buffer_mb * MB, self._spills["train"], config.on_bad_data
        )
        return LabelledImages(labels, DetectionStream(channel.path, table, options, self._progress))

    def validation(self, class_names: ClassNames) -> LabelledImages:
        """Return the validation data with the training classes `class_names`.

        Raises:
            DataError: the images do not fit the spill file, or training lacks a class.
        """
        channel = self._channels["validation"]
        if channel.classes or self._table is None:
            names, table = channel.class_table(None)
        else:  # without class names its ids are those of the training channel
            names, table = class_names, self._table
        labels, images = channel.label_set(names, table, self._config.on_bad_data)
        if images is None:
            raise DataError(
                f"{channel.path}: holds more images than can be kept, expected a larger --pipe_spill_gb or fewer images"
            )
        return LabelledImages(matched_to(labels, class_names), images)

    def _receive(self, paths: Dict[str, Path]) -> Dict[str, Channel]:
        if not paths:
            return {}
        stop = Event()
        with ThreadPoolExecutor(len(paths), thread_name_prefix="pipe") as pool:
            futures = {
                name: pool.submit(receive, path, self._config.pipe_timeout, self._spills[name], stop)
                for name, path in paths.items()
            }
            try:
                done, _ = wait(futures.values(), return_when=FIRST_EXCEPTION)
            finally:
                stop.set()  # after a failure the other readers need not go on
            for future in done:
                future.result()
            channels = {name: future.result() for name, future in futures.items()}
        for name, channel in channels.items():
            size = sum(one.place[1] for one in channel.received) / MB
            where = "kept on the disk" if channel.spill else "too much to keep: each epoch is read from its own FIFO"
            self._progress.say(f"{name}: received {len(channel.received)} images, {size:.1f} MB, {where}")
        return channels


def _looks_piped(path: Path) -> bool:
    if path.exists():  # also ".", which has no name to derive the FIFO's from
        return False
    fifo = fifo_path(path, 0)
    return fifo.exists() and stat.S_ISFIFO(fifo.stat().st_mode)


def _spill_files(config: TrainConfig, paths: Dict[str, Path]) -> Dict[str, SpillFile]:
    if not paths:
        return {}
    folder = Path(tempfile.gettempdir())
    limit = config.pipe_spill_gb * GB or free_space(folder) * FREE_SHARE
    shares = {"train": 1 - VALIDATION_SHARE, "validation": VALIDATION_SHARE} if len(paths) > 1 else {}
    return {name: SpillFile(folder, int(limit * shares.get(name, 1))) for name in paths}
