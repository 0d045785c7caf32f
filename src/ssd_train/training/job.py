"""A job put together: labels read and split, loaders, net, learner. What `run` then trains."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Tuple, Union

from ssd_train import framework
from ssd_train.archives import opened_model
from ssd_train.config import TrainConfig, resumable_settings
from ssd_train.data.batches import EpochSampler, EvalLoader, TrainLoader, default_workers
from ssd_train.data.check import cheap_check, refuse_errors, without_errors
from ssd_train.data.dataset import DetectionDataset
from ssd_train.data.labels import LabelledImages
from ssd_train.data.records import ClassNames, LabelSet
from ssd_train.data.split import classes_missing_from
from ssd_train.data.stream import DetectionStream
from ssd_train.data.stream_loader import StreamLoader
from ssd_train.data.transforms import EvalTransform, TrainTransform
from ssd_train.environment import Environment, available_memory
from ssd_train.errors import ConfigError, DataError, WeightsError
from ssd_train.model.anchors import anchor_layout, make_anchors
from ssd_train.model.net import build_net, freeze
from ssd_train.model.pretrained import LoadReport, load_pretrained, zoo_weights
from ssd_train.model.targets import TargetEncoder
from ssd_train.progress import Progress
from ssd_train.training.devices import contexts
from ssd_train.training.engine import Evaluator, Learner
from ssd_train.training.saved_model import CONFIG, SavedModel
from ssd_train.training.sides import read_sides

CACHE_SHARE = 0.5  # of the memory that is free when the job starts
BUILTIN_ARTIFACT = "model_algo_1"  # what the built-in algorithm calls its files
AnyLoader = Union[TrainLoader, StreamLoader]
LABEL_HEADER, LABEL_OBJECT = 2, 5  # numbers of the built-in algorithm's label: header, and each object


@dataclass(frozen=True)
class Job:
    """Everything a run needs, put together once."""

    config: TrainConfig
    train: LabelledImages
    validation: LabelledImages
    learner: Learner
    evaluator: Evaluator
    train_loader: AnyLoader
    validation_loader: EvalLoader
    post_nms: int
    fingerprint: Dict[str, Any]

    @property
    def class_names(self) -> ClassNames:
        """The classes of training and validation."""
        return self.train.labels.class_names

    @property
    def net(self) -> Any:
        """The network that is trained."""
        return self.learner.net

    def saved_model(self, epoch: int, scores: Dict[str, Any]) -> SavedModel:
        """The description of the net as it is after `epoch`."""
        return SavedModel(self.config, self.class_names, self.post_nms, epoch, scores, framework.versions())


def prepare(config: TrainConfig, environment: Environment, progress: Progress) -> Job:
    """Read the data, build the net and all that trains it. Everything that can be refused is refused here."""
    if len(environment.hosts) > 1:
        raise ConfigError(f"hosts: found {', '.join(environment.hosts)}, expected one")
    train, validation = read_sides(config, environment, progress)
    train, validation = checked(train, validation, config, progress)
    config = completed(config, train, progress)
    _tell_about(train, validation, progress)
    for name, side, purpose in (("training", train, "learn from"), ("validation", validation, "score with")):
        if not side.labels.boxes_per_class().sum():
            raise DataError(f"{side.labels.source}: found no box among the {name} images, expected some to {purpose}")
    devices = contexts(environment.devices)[: config.mini_batch_size]
    if config.amp:
        dtype = framework.enable_mixed_precision(on_gpu=devices[0].device_type == "gpu")
        progress.say(f"mixed precision: {dtype}")
    net = _make_net(config, environment, train.labels.class_names, progress)
    learner = Learner(net, config, devices)
    post_nms = _boxes_let_out(config, train.labels)
    evaluator = Evaluator(net, config, devices[0], post_nms)
    loaders = _make_loaders(config, train, validation)
    progress.say(f"training on {', '.join(map(str, devices))} with {framework.cpu_threads()} CPU threads")
    return Job(
        config, train, validation, learner, evaluator, *loaders, post_nms, fingerprint(config, train, validation)
    )


def _boxes_let_out(config: TrainConfig, labels: LabelSet) -> int:
    """Boxes per image that the model may answer: post_nms, or as many as the fullest training image has; never more
    than there are anchors in all classes."""
    most = max(len(record.boxes) for record in labels.records)
    anchors = len(make_anchors(anchor_layout(config.base_network, config.image_shape)))
    return min(max(config.post_nms, most), anchors * len(labels.class_names))


def checked(
    train: LabelledImages, validation: LabelledImages, config: TrainConfig, progress: Progress
) -> Tuple[LabelledImages, LabelledImages]:
    """Both sides after a look at every image, none decoded: a missing, cut off or wrong one is an error, or with
    on_bad_data 'skip' left out and counted. A stream is looked at as it comes."""
    sides = []
    for name, side in (("train", train), ("validation", validation)):
        if isinstance(side.images, DetectionStream):
            sides.append(side)
            continue
        findings = cheap_check(side.labels, side.images, progress)
        if config.on_bad_data == "error":
            refuse_errors(findings)
        for code, count in Counter(finding.code for finding in findings).items():
            places = [finding.where for finding in findings if finding.code == code]
            progress.warn(f"{name}: {count} images: {code} ({', '.join(places[:3])}{', …' if count > 3 else ''})")
        sides.append(LabelledImages(without_errors(side.labels, findings), side.images))
    return sides[0], sides[1]


def completed(config: TrainConfig, train: LabelledImages, progress: Progress) -> TrainConfig:
    """The settings with those that the data decides. A wrong num_classes is an error, the others only warn."""
    labels = train.labels
    if config.num_classes and config.num_classes != len(labels.class_names):
        raise ConfigError(
            f"num_classes: found {config.num_classes}, expected {len(labels.class_names)}: "
            f"{labels.source} has {', '.join(map(repr, labels.class_names))}"
        )
    if config.num_training_samples and config.num_training_samples != len(labels):
        progress.warn(
            f"num_training_samples: found {config.num_training_samples}, the data has {len(labels)}, which is used"
        )
    width = LABEL_HEADER + LABEL_OBJECT * max(len(record.boxes) for record in labels.records)
    if width > config.label_width:
        progress.warn(f"label_width: found {config.label_width}, the data needs {width}, which is used")
    return dataclasses.replace(
        config,
        num_classes=len(labels.class_names),
        num_training_samples=len(labels),
        label_width=max(width, config.label_width),
    )


def _tell_about(train: LabelledImages, validation: LabelledImages, progress: Progress) -> None:
    for name, subset in (("train", train), ("validation", validation)):
        labels = subset.labels
        counts = ", ".join(f"{n} {c}" for n, c in zip(labels.class_names, labels.boxes_per_class()))
        empty = sum(not len(record.boxes) for record in labels.records)
        progress.say(f"{name}: {len(labels)} images, {empty} without objects; boxes: {counts}")
        for what, lines in (("skipped", labels.skipped), ("mended", labels.mended)):
            for reason in sorted({line.reason for line in lines}):
                places = [line.where for line in lines if line.reason == reason]
                progress.warn(
                    f"{name}: {what} {len(places)}: {reason} ({', '.join(places[:3])}{', …' if len(places) > 3 else ''})"
                )
    for name in classes_missing_from(train.labels, validation.labels):
        progress.warn(f"class {name!r} has boxes in validation and none in training, so it cannot be learned")


def _make_net(config: TrainConfig, environment: Environment, class_names: ClassNames, progress: Progress) -> Any:
    net = build_net(config.base_network, config.image_shape, list(class_names), config.seed)
    if environment.pretrained is not None:
        progress.say(str(_load_given(net, config, environment.pretrained)))
    elif config.use_pretrained_model:
        progress.say(str(load_pretrained(net, config.base_network, zoo_weights(config.base_network))))
    frozen = freeze(net, config.base_network, config.freeze_layer_pattern)
    if frozen:
        progress.say(f"{len(frozen)} of {len(net._collect_params_with_prefix())} tensors are frozen")
    return net


def _load_given(net: Any, config: TrainConfig, given: Path) -> LoadReport:
    """Fill `net` from a .params file or a folder with one, or from a model of ours, a folder or its archive."""
    if not given.exists():
        raise ConfigError(f"pretrained: {given} not found, expected a .params file or a model folder")
    with opened_model(given) as place:
        if not (place / CONFIG).exists():
            report = load_pretrained(net, config.base_network, _params_file(place))
        else:
            model = SavedModel.load(place)
            if model.config.base_network != config.base_network:
                raise ConfigError(
                    f"base_network: found {config.base_network!r}, expected {model.config.base_network!r}, "
                    f"that of the model in {given}"
                )
            report = load_pretrained(net, config.base_network, model.weights, list(model.class_names))
    return dataclasses.replace(report, source=str(given))


def _params_file(place: Path) -> Path:
    if place.is_file():
        return place
    files = sorted(place.glob("*.params"))
    if len(files) != 1:
        raise ConfigError(f"pretrained: found {len(files)} .params files in {place}, expected one, or a model folder")
    if files[0].name.startswith(BUILTIN_ARTIFACT):
        raise WeightsError(
            f"{files[0].name}: found an artifact of the built-in algorithm, whose network is another one, "
            "expected a model of ssd_train or a .params file of GluonCV"
        )
    return files[0]


def _make_loaders(
    config: TrainConfig, train: LabelledImages, validation: LabelledImages
) -> Tuple[AnyLoader, EvalLoader]:
    side, gray = config.image_shape, config.grayscale
    workers = default_workers() if config.num_workers < 0 else config.num_workers
    encode = TargetEncoder(make_anchors(anchor_layout(config.base_network, side)))
    budget = int(available_memory() * CACHE_SHARE) if config.cache_images else 0
    share = len(train.labels) / (len(train.labels) + len(validation.labels))
    validation_set = DetectionDataset(validation.labels, validation.images, side, int(budget * (1 - share)))
    transform = TrainTransform(side, config.augmentation, encode, gray)
    sampler = EpochSampler(len(train.labels), config.mini_batch_size, config.seed)
    if isinstance(train.images, DetectionStream):
        loader: AnyLoader = StreamLoader(train.images, train.labels, transform, sampler, side, workers)
    else:
        train_set = DetectionDataset(train.labels, train.images, side, int(budget * share))
        loader = TrainLoader(train_set, transform, sampler, workers)
    return loader, EvalLoader(validation_set, EvalTransform(side, encode, gray), config.mini_batch_size, workers)


def fingerprint(config: TrainConfig, train: LabelledImages, validation: LabelledImages) -> Dict[str, Any]:
    """What a resumed run must share with the one before, by name: settings that shape the weights, classes and data."""
    free = set(resumable_settings())
    found = {f"setting {name}": value for name, value in config.to_json().items() if name not in free}
    found["classes"] = list(train.labels.class_names)
    found["training labels"] = _digest(train.labels)
    found["validation labels"] = _digest(validation.labels)
    return found


def _digest(labels: LabelSet) -> str:
    digest = hashlib.sha256()
    for record in labels.records:
        digest.update(f"{record.name}\0{record.size_wh}\0".encode("utf-8", "surrogateescape"))
        digest.update(record.boxes.tobytes() + record.class_ids.tobytes())
    return digest.hexdigest()
