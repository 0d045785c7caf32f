"""Load, check and summarize the training and validation data of a run, and complete the settings from it."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import shutil
import stat
import tempfile
from collections import Counter
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from ssd_train.config import TrainConfig
from ssd_train.data.checks.codes import Finding
from ssd_train.data.checks.images import files_without_label, quick_inspect
from ssd_train.data.checks.labels import label_width, remarks
from ssd_train.data.checks.runner import (
    Split,
    check_leakage,
    check_namesakes,
    drop_errors,
    quick_check,
    raise_on_errors,
)
from ssd_train.data.image_sources import Fetch, FolderImages
from ssd_train.data.labels import (
    LabeledDataset,
    LabelOptions,
    align_classes,
    load_labels,
    pad_classes,
    parse_class_names,
)
from ssd_train.data.pipe.channel import Channel, SpillFile, Table, read_channel
from ssd_train.data.pipe.samples import fifo_path
from ssd_train.data.pipe.stream import DetectionStream, StreamOptions
from ssd_train.data.split import (
    TRAIN,
    VALIDATION,
    describe_mixed_folders,
    describe_splits,
    select_split,
    split_by_hash,
    training_split,
    unseen_classes,
    validation_split,
)
from ssd_train.data.structures import ClassNames, LabeledImage, Labels
from ssd_train.environment import Environment
from ssd_train.errors import ConfigError, DataError
from ssd_train.progress import Progress
from ssd_train.storage.s3_cache import image_fetcher

MB, GB = 10**6, 10**9
FREE_FRACTION = 0.5  # of the free disk space, if --pipe_spill_gb is 0
FEW = 10  # images or boxes of a class; scores of fewer say little
BACKGROUND_FRACTION = 0.5  # of the training images; where more have no objects, some may not be labelled
VALIDATION_FRACTION = 0.25  # of the limit, if both channels are piped


def pipe_channel_paths(environment: Environment) -> Dict[str, Path]:
    """Return the paths of the train and validation channels that use Pipe mode.

    These are the channels that the environment names, and those without a folder whose first FIFO exists.
    """
    paths = {"train": environment.train, "validation": environment.validation}
    return {name: path for name, path in paths.items() if path and (name in environment.pipes or _looks_piped(path))}


class PipeChannels:
    """Pipe mode channels of a job, each received once at construction."""

    def __init__(self, config: TrainConfig, paths: Dict[str, Path], progress: Progress) -> None:
        self._config, self._progress = config, progress
        self._spills = _spill_files(config, paths)
        self._channels = self._receive(paths)
        self._table: Optional[Table] = None

    def __contains__(self, name: str) -> bool:
        return name in self._channels

    def train(self) -> LabeledDataset:
        """Return the training data.

        The images are a DetectionStream if they do not fit the spill file.
        """
        channel, config = self._channels["train"], self._config
        class_names, table = channel.class_table(parse_class_names(config.class_names))
        labels, images = channel.label_set(class_names, table, config.on_bad_data)
        if not config.class_names:
            labels = pad_classes(labels, config.num_classes)
        # later epochs and validation may have ids that do not occur in the first pass over the training data
        self._table = table = {**{i: i for i in labels.class_names.unnamed}, **table}
        if images is not None:
            return LabeledDataset(labels, images)
        options = StreamOptions(
            config.epochs, config.pipe_timeout, config.pipe_buffer_mb * MB, self._spills["train"], config.on_bad_data
        )
        return LabeledDataset(labels, DetectionStream(channel.path, table, options, self._progress))

    def validation(self, class_names: ClassNames) -> LabeledDataset:
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
        return LabeledDataset(align_classes(labels, class_names), images)

    def _receive(self, paths: Dict[str, Path]) -> Dict[str, Channel]:
        if not paths:
            return {}
        stop = Event()
        with ThreadPoolExecutor(len(paths), thread_name_prefix="pipe") as pool:
            futures = {
                name: pool.submit(read_channel, path, self._config.pipe_timeout, self._spills[name], stop)
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
            size = sum(one.span[1] for one in channel.received) / MB
            where = "kept on the disk" if channel.spill else "too much to keep: each epoch is read from its own FIFO"
            self._progress.info(f"{name}: received {len(channel.received)} images, {size:.1f} MB, {where}")
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
    limit = config.pipe_spill_gb * GB or shutil.disk_usage(folder).free * FREE_FRACTION
    fractions = {"train": 1 - VALIDATION_FRACTION, "validation": VALIDATION_FRACTION} if len(paths) > 1 else {}
    return {name: SpillFile(folder, int(limit * fractions.get(name, 1))) for name in paths}


Splits = Tuple[LabeledDataset, LabeledDataset]
Checked = Dict[str, Tuple[Finding, ...]]  # name of an image -> its findings


def require_inputs(environment: Environment) -> None:
    """Raise DataError if a path of the data does not exist; nothing is read."""
    piped = pipe_channel_paths(environment)
    paths = {
        "images": [environment.train, environment.validation],
        "labels": [environment.labels, environment.validation_labels],
    }
    for content, channel_paths in paths.items():
        for path in channel_paths:
            if path is not None and path not in piped.values() and not path.exists():
                raise DataError(f"{path}: not found, expected {content}")


def load_splits(
    config: TrainConfig, environment: Environment, progress: Progress, checked: Optional[Checked] = None
) -> Splits:
    """Return training and validation data, split if there is no validation data.

    Both have the classes of the training labels.

    Args:
        config: The settings.
        environment: The inputs.
        progress: Output for messages.
        checked: Receives the findings of the images, if they have to be read to split the data.

    Raises:
        DataError: the data are unusable.
        ConfigError: a setting does not fit the data.
    """
    pipes = PipeChannels(config, pipe_channel_paths(environment), progress)
    fetch = image_fetcher(progress) if environment.fetch_images else None
    if "train" in pipes:
        if environment.labels is not None:
            raise ConfigError(f"labels: found {environment.labels}, expected none: train is a pipe that brings labels")
        train = pipes.train()
    else:
        train = load_labels(environment.train, environment.labels, _options(config, fetch))
        if not config.class_names:
            train = LabeledDataset(pad_classes(train.labels, config.num_classes), train.images)
    if "validation" in pipes:
        return train, pipes.validation(train.labels.class_names)
    alone = environment.validation is None and environment.validation_labels is None
    train, own = _of_sets(train, config, alone, progress)
    if own is not None:
        return train, own
    if alone:
        return hold_out_validation(train, config, progress, checked)
    images: Optional[Path] = environment.validation or environment.train
    validation = load_labels(images, environment.validation_labels, _options(config, fetch))
    scored = align_classes(validation_split(validation.labels), train.labels.class_names)
    return train, LabeledDataset(scored, validation.images)


def _of_sets(
    train: LabeledDataset, config: TrainConfig, alone: bool, progress: Progress
) -> Tuple[LabeledDataset, Optional[LabeledDataset]]:
    """Return the named sets of the data to train on and to validate with.

    The second is None if the data have no set for it.
    """
    labels = train.labels
    sets = describe_splits(labels)
    mixed = describe_mixed_folders(labels) if alone else ""
    if mixed:
        progress.warning(mixed)
    if config.split:
        learned, scored = select_split(labels, config.split), None
    else:
        learned, scored = training_split(labels, alone)
        if (
            alone
            and scored is None
            and labels.sets.get(TRAIN)
            and labels.sets.get(TRAIN) == labels.sets.get(VALIDATION)
        ):
            progress.warning(f"{labels.source}: train and val are the same images; some are held out to validate with")
    if sets:
        with_what = (
            f"{len(scored)} to score with" if scored is not None else "a share held out" if alone else "all to train on"
        )
        progress.info(f"train: {sets}; {len(learned)} are taken, {with_what}, the others are left alone")
    return (
        LabeledDataset(learned, train.images),
        None if scored is None else LabeledDataset(scored, train.images),
    )


def hold_out_validation(
    whole: LabeledDataset,
    config: TrainConfig,
    progress: Optional[Progress] = None,
    checked: Optional[Checked] = None,
) -> Splits:
    """Hold out a fraction of the images for validation; `checked` receives the findings of each image."""
    if isinstance(whole.images, DetectionStream):
        raise DataError(
            f"{whole.images.path}: holds more images than can be kept to hold some out for validation, expected a "
            "channel validation, or a larger --pipe_spill_gb"
        )
    group = config.split_group or None

    def content_hash(record: LabeledImage) -> str:
        """Read an image once, for its hash and its check."""
        report = quick_inspect(record, whole.images, whole=True)
        if checked is not None:
            checked[record.name] = report.findings
        return report.digest.hex()

    train, held_out = split_by_hash(whole.labels, config.validation_fraction, content_hash, group, progress)
    # skipped and repaired lines belong to the whole file, so they are reported once, with the training data
    train = dataclasses.replace(train, skipped=whole.labels.skipped, repaired=whole.labels.repaired)
    held_out = dataclasses.replace(held_out, others=())  # reported with the training data
    return LabeledDataset(train, whole.images), LabeledDataset(held_out, whole.images)


def _options(config: TrainConfig, fetch: Optional[Fetch]) -> LabelOptions:
    names, verified = parse_class_names(config.class_names), config.verified
    format, attribute, on_bad = config.labels_format, config.label_attribute, config.on_bad_data
    return LabelOptions(format, attribute, on_bad, names, fetch, verified=verified)


def load_datasets(
    config: TrainConfig, environment: Environment, progress: Progress, splits: Optional[Splits] = None
) -> Tuple[TrainConfig, LabeledDataset, LabeledDataset]:
    """Check both splits, and load them unless given; return completed settings, training and validation data.

    Raises:
        DataError: the data cannot be used.
        ConfigError: a setting does not fit the data.
    """
    with _gc_disabled():
        checked: Checked = {}
        splits = splits or load_splits(config, environment, progress, checked)
        train, validation = validate_images(splits, config, progress, checked)
    config = resolve_config_from_data(config, train, progress)
    log_dataset_summary(train, validation, progress)
    for name, split in (("training", train), ("validation", validation)):
        if not split.labels.boxes_per_class().sum():
            raise DataError(f"{split.labels.source}: found no box in the {name} images, expected at least one")
    return config, train, validation


@contextlib.contextmanager
def _gc_disabled() -> Iterator[None]:
    """Disable Python's garbage collector, which would take a sixth of the time to read a hundred thousand records."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def validate_images(splits: Splits, config: TrainConfig, progress: Progress, checked: Checked) -> Splits:
    """Check every image file of both splits without decoding it; a stream is checked while it is read.

    Images that were read to split the data are in `checked` and are not read again.

    Files that are missing, truncated, of the wrong size or in both splits are an error; with on_bad_data "skip" they
    are dropped with a warning.
    """
    named = [Split(name, s.labels, s.images) for name, s in zip(("train", "validation"), splits)]
    findings = {
        split.name: [finding for record in split.labels.records for finding in checked[record.name]]
        if checked
        else quick_check(split.labels, data.images, progress)
        for split, data in zip(named, splits)
        if not isinstance(data.images, DetectionStream)
    }
    if len(findings) == 2:
        findings["validation"] += check_leakage(*named)
    for split in named:
        findings.setdefault(split.name, []).extend(check_namesakes([split]))
    _warn_of_images_without_labels(splits, progress)
    if config.on_bad_data == "error":
        errors = [finding for reports in findings.values() for finding in reports]
        raise_on_errors(errors, "; `check` tells what to do about each, --on_bad_data skip leaves these images out")
    for name, of_data in findings.items():
        _warn_of(name, of_data, progress)
    train, validation = (
        LabeledDataset(drop_errors(data.labels, findings.get(name, [])), data.images)
        for name, data in zip(("train", "validation"), splits)
    )
    return train, validation


def _warn_of_images_without_labels(splits: Splits, progress: Progress) -> None:
    records = [record for split in splits for record in (*split.labels.records, *split.labels.others)]
    roots = sorted({split.images.root for split in splits if isinstance(split.images, FolderImages)})
    findings = [finding for root in roots for finding in files_without_label(FolderImages(root), records)]
    if findings:
        paths = [finding.where for finding in findings]
        progress.warning(
            f"{len(paths)} pictures without labels are left out, of {len(paths) + len(records)} ({_first(paths)})"
        )


def _warn_of(name: str, findings: Sequence[Finding], progress: Progress) -> None:
    for code in Counter(finding.code for finding in findings):
        locations = [finding.where for finding in findings if finding.code == code]
        progress.warning(f"{name}: {len(locations)} images: {code} ({_first(locations)})")


def _first(names: List[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def resolve_config_from_data(config: TrainConfig, train: LabeledDataset, progress: Progress) -> TrainConfig:
    """Return the settings with the values that the data determines.

    Raises:
        ConfigError: num_classes differs from the labels; the other settings only cause a warning.
    """
    labels = train.labels
    if config.num_classes and config.num_classes != len(labels.class_names):
        raise ConfigError(
            f"num_classes: found {config.num_classes}, expected {len(labels.class_names)}: "
            f"{labels.source} has {', '.join(map(repr, labels.class_names))}"
        )
    if config.num_training_samples and config.num_training_samples != len(labels):
        progress.warning(
            f"num_training_samples: found {config.num_training_samples}, the data has {len(labels)}, which is used"
        )
    if config.mini_batch_size > len(labels):
        progress.warning(
            f"mini_batch_size: found {config.mini_batch_size}, the data has {len(labels)} images: all are used"
        )
    width = label_width(max(len(record.boxes) for record in labels.records))
    if width > config.label_width:
        progress.warning(f"label_width: found {config.label_width}, the data needs {width}, which is used")
    return dataclasses.replace(
        config,
        num_classes=len(labels.class_names),
        num_training_samples=len(labels),
        mini_batch_size=min(config.mini_batch_size, len(labels)),
        label_width=max(width, config.label_width),
    )


def log_dataset_summary(train: LabeledDataset, validation: LabeledDataset, progress: Progress) -> None:
    """Log the numbers of images and boxes.

    Warn of skipped and repaired lines, and of classes that cannot be learned or scored.
    """
    for name, subset in (("train", train), ("validation", validation)):
        labels = subset.labels
        counts = ", ".join(f"{n} {c}" for n, c in zip(labels.class_names, labels.boxes_per_class()))
        empty = sum(record.is_background for record in labels.records)
        ignored = sum(len(record.ignored) for record in labels.records)
        more = f"; {ignored} difficult objects or crowds are ignored" if ignored else ""
        progress.info(f"{name}: {len(labels)} images, {empty} without objects; boxes: {counts}{more}")
        for line in remarks(labels) if subset is train else ():
            progress.warning(f"{name}: {line}")
        for action, lines in (("skipped", labels.skipped), ("repaired", labels.repaired)):
            for reason in sorted({line.reason for line in lines}):
                locations = [line.where for line in lines if line.reason == reason]
                progress.warning(f"{name}: {action} {len(locations)}: {reason} ({_first(locations)})")
    for line in _warnings_of_few(train.labels, validation.labels):
        progress.warning(line)
    scored = validation.labels.boxes_per_class()
    unused = [class_id for class_id in train.labels.unused_ids() if not scored[class_id]]
    if unused:
        named = _first([f"{class_id} ({train.labels.class_names[class_id]})" for class_id in unused])
        progress.warning(
            f"train: {len(unused)} class ids without a name and a box: {named}; all ids are kept, "
            f"so the network has {len(train.labels.class_names)} classes"
        )
    for name in unseen_classes(train.labels, validation.labels):
        progress.warning(f"class {name!r} has boxes in validation but none in training, so it cannot be learned")
    unscored = unseen_classes(validation.labels, train.labels)
    if unscored:  # one line: a small validation set may lack many
        progress.warning(
            f"{len(unscored)} classes have boxes in training but none in validation, "
            f"so they are not part of the scores: {', '.join(map(repr, unscored))}"
        )


def _warnings_of_few(train: Labels, validation: Labels) -> Iterator[str]:
    """Yield a line for each reason to expect a weak model, or scores that do not tell."""
    if len(validation) < FEW:
        yield (
            f"validation: found {len(validation)} images, expected at least {FEW}: "
            "the scores, and which epoch is the best, are largely chance"
        )
    effects = (
        (train, "train", "hardly enough to learn them"),
        (validation, "validation", "their AP is largely chance"),
    )
    for labels, name, effect in effects:
        counts = zip(labels.class_names, labels.boxes_per_class().tolist())
        few = [f"{class_name} ({count})" for class_name, count in counts if 0 < count < FEW]
        if few:
            yield f"{name}: found fewer than {FEW} boxes of {_first(few)}: {effect}"
    empty = sum(record.is_background for record in train.records)
    if empty > BACKGROUND_FRACTION * len(train):
        yield (
            f"train: found {empty} of {len(train)} images without objects, which are trained as background: "
            "leave out those that nobody has labelled"
        )
