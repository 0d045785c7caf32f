"""Build everything a run needs: labels, loaders, network and training step."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, NamedTuple, Optional, Tuple, Union

import numpy as np

from ssd_train import mxnet_compat
from ssd_train.artifacts.builtin_archive import RESNET, artifact_folder, read_artifact
from ssd_train.artifacts.model_config import CONFIG
from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.artifacts.symbol_format import is_converted
from ssd_train.config import AUTO_RATE, LEAST_CANDIDATES, RATE_FROM_RANDOM_WEIGHTS, USUAL_RATE, TrainConfig
from ssd_train.config_fields import BALANCED, parse_class_weights
from ssd_train.data.dataset import DetectionDataset, ImageCache
from ssd_train.data.labels import LabeledDataset, has_own_ids
from ssd_train.data.loaders import BadSampleHandler, EpochSampler, EvalLoader, TrainLoader, default_workers
from ssd_train.data.pipe.stream import DetectionStream, StreamLoader
from ssd_train.data.structures import ClassNames, Labels
from ssd_train.data.transforms import EvalTransform, TrainTransform, View, transform_boxes
from ssd_train.devices import contexts
from ssd_train.environment import CHANNELS, Environment, available_memory
from ssd_train.errors import CheckpointError, ConfigError, WeightsError
from ssd_train.model.anchors import feature_cells, layout_of, make_anchors
from ssd_train.model.model_zoo import ADVICE, find_weights, zoo_file
from ssd_train.model.net import freeze, init_background_prior, net_of
from ssd_train.model.pretrained import LoadReport, load_builtin, load_pretrained
from ssd_train.model.targets import TargetEncoder
from ssd_train.progress import Progress
from ssd_train.storage.archive import open_model
from ssd_train.training.autoanchor import resolve_anchors, resolve_strides
from ssd_train.training.checkpoint import Checkpoints, check_model_folder, config_fingerprint, fingerprint
from ssd_train.training.data_setup import Splits, load_datasets, require_inputs
from ssd_train.training.distributed.communicator import Communicator
from ssd_train.training.engine import Evaluator
from ssd_train.training.step import ModelEMA, TrainStep, amp_dtype

# advice in a SageMaker job that cannot download weights from the model zoo
IN_A_JOB = (
    f"or give a channel {' or '.join(CHANNELS['pretrained'])} with a .params file "
    "of GluonCV or a model, or use_pretrained_model 0 to start from random weights"
)
CACHE_FRACTION = 0.5  # fraction of the memory that is free when the job starts
FASTER_IN_BFLOAT16 = ("mobilenet1.0", "mobilenet0.5")  # 1.44 and 1.26 times; mobilenet0.25: 0.73 times
FULLEST_IMAGES = 100  # the images with the most boxes, which determine nms_topk
RANDOM = (
    "random weights: no trained weights are used, so the run needs many more images and epochs for the same score; "
    "--pretrained FILE, or --zoo with --use_pretrained_model 1, starts from trained ones"
)
AnyLoader = Union[TrainLoader, StreamLoader]


class InitialWeights(NamedTuple):
    """Weights to start from.

    Attributes:
        path: a weights file, or the folder or archive of a model.
        heads: take the class and box heads of a detector, too.
    """

    path: Path
    heads: bool


@dataclass(frozen=True)
class TrainingSetup:
    """Data, network, training step and loaders of a run."""

    config: TrainConfig
    train: LabeledDataset
    validation: LabeledDataset
    train_step: TrainStep
    evaluator: Evaluator
    train_loader: AnyLoader
    validation_loader: EvalLoader
    post_nms: int
    fingerprint: Dict[str, Any]

    @property
    def class_names(self) -> ClassNames:
        return self.train.labels.class_names

    @property
    def cluster(self) -> Communicator:
        return self.train_step.cluster

    @property
    def net(self) -> Any:
        return self.train_step.net

    @property
    def eval_net(self) -> Any:
        """Return the network to evaluate and save: the trained one, or the moving average of its weights."""
        return self.evaluator.net

    @property
    def cache(self) -> Optional[ImageCache]:
        """Return the cache of decoded training images; None without cache_images, or for a stream."""
        if self.config.cache_images and isinstance(self.train_loader, TrainLoader):
            return self.train_loader.dataset.cache
        return None

    def saved_model(self, epoch: int, scores: Dict[str, Any]) -> SavedModel:
        """Return the model's metadata after `epoch` (from 0)."""
        return SavedModel(
            self.config,
            self.class_names,
            self.post_nms,
            epoch,
            scores,
            mxnet_compat.versions(),
            category_ids=self.train.labels.category_ids,
            score_threshold=(scores.get("best_f1") or {}).get("threshold"),
            labels_sha256={name: self.fingerprint[f"{name} labels"] for name in ("training", "validation")},
        )


def build_setup(
    config: TrainConfig,
    environment: Environment,
    progress: Progress,
    cluster: Optional[Communicator] = None,
    splits: Optional[Splits] = None,
) -> TrainingSetup:
    """Read the data and build the network and its training step.

    Whatever can be refused is refused here: unusable weights before any data is read, the rest before the first step.
    `splits` are the training and validation data; None: those that `environment` names.

    Raises:
        SsdTrainError: settings, weights or data are unusable, or differ between hosts.
    """
    cluster = cluster or Communicator()
    devices = contexts(environment.devices, cluster.local_rank, cluster.local_size)
    config = resolve_amp(config, devices[0], environment.checkpoint_dir, cluster)
    config = resolve_learning_rate(config, environment, cluster)
    _check_folders(environment, cluster, config_fingerprint(config, cluster.size), config.epochs, before_data=True)
    require_inputs(environment)  # before a model zoo is asked
    weights = _find_weights(config, environment, progress)
    config, train, validation = load_datasets(config, environment, progress, splits)
    heads = weights.path if weights and weights.heads else None
    config = resolve_strides(config, heads, train.labels, progress)
    config = resolve_anchors(config, heads, train.labels, progress)
    config = with_candidates(config, train.labels, progress)
    marks = fingerprint(config, train.labels, validation.labels, cluster.size)
    _check_folders(environment, cluster, marks, config.epochs)
    for what, value in marks.items():
        cluster.assert_same_on_all_ranks(what, value, " (of data the whole: S3DataDistributionType FullyReplicated)")
    batch = max(config.mini_batch_size // cluster.local_size, 1)
    devices = devices[:batch]
    dtype = amp_dtype(config, devices[0])
    if dtype:
        slow = dtype == "bfloat16" and not mxnet_compat.has_native_bfloat16()
        progress.info(f"mixed precision: {dtype}" + (", slower than --amp 0 on this processor" if slow else ""))
    net = _make_net(config, weights, train.labels, progress)
    train_step = TrainStep(net, config, devices, cluster, class_weights(config, train.labels, progress))
    if config.ema_decay:
        train_step.average = _make_average(train_step, config, train.labels.class_names)
    post_nms = max_detections(config, train.labels)
    evaluator = Evaluator(train_step.average.net if train_step.average else net, config, devices[0], post_nms)
    sampler = EpochSampler(len(train.labels), batch, config.seed, cluster.rank, cluster.size)
    # the first device evaluates alone, in batches of its part of a step
    loaders = _make_loaders(config, train, validation, sampler, -(-batch // len(devices)), progress)
    joined = ", BatchNorm and ReLU in one" if train_step.features else ""
    progress.info(f"training on {', '.join(map(str, devices))} with {mxnet_compat.cpu_threads()} CPU threads{joined}")
    return TrainingSetup(config, train, validation, train_step, evaluator, *loaders, post_nms, marks)


def resolve_amp(config: TrainConfig, device: Any, checkpoint_dir: Optional[Path], cluster: Communicator) -> TrainConfig:
    """Return `config` with amp "auto" resolved, alike on all hosts.

    It is that of the checkpoint, if there is one, else true for a network that it makes faster, on CPUs that all
    compute in bfloat16 natively. GPUs compute in float16, but begin without.

    Raises:
        CheckpointError: the checkpoint has amp true, and a host's CPU does not compute in bfloat16 natively.
    """
    native = device.device_type == "cpu" and mxnet_compat.has_native_bfloat16()
    without_bfloat16, slow = cluster.allreduce_sum([not native, not native and device.device_type == "cpu"])

    def decide() -> bool:
        kept = Checkpoints(checkpoint_dir).setting("amp") if checkpoint_dir and config.amp == "auto" else None
        if kept and slow:
            raise CheckpointError(
                f"{checkpoint_dir}: found a run with mixed precision (amp 1), and here no CPU with avx512_bf16 or "
                "amx_bf16, expected one, or a GPU, on every host; --amp 1 resumes nonetheless, on another CPU 6 times "
                "slower"
            )
        return not without_bfloat16 and config.base_network in FASTER_IN_BFLOAT16 if kept is None else bool(kept)

    amp = cluster.broadcast_from_rank0(decide)
    return dataclasses.replace(config, amp=amp) if config.amp == "auto" else config


def resolve_learning_rate(config: TrainConfig, environment: Environment, cluster: Communicator) -> TrainConfig:
    """Return `config` with learning_rate "auto" resolved, alike on all hosts.

    It is that of the checkpoint, if there is one. Else Adam starts from random weights at three times the rate of
    trained ones (benchmarks/README.md), but for vgg-16, which was not measured, and resnet-50, which diverges.
    """

    def decide() -> float:
        kept = Checkpoints(environment.checkpoint_dir).setting("learning_rate") if environment.checkpoint_dir else None
        random = environment.pretrained is None and not config.use_pretrained_model
        faster = random and config.optimizer == "adam" and config.base_network.startswith("mobilenet")
        return kept or (RATE_FROM_RANDOM_WEIGHTS if faster else USUAL_RATE)

    rate = cluster.broadcast_from_rank0(decide)  # also of a host with a rate of its own, which is refused later
    return dataclasses.replace(config, learning_rate=rate) if config.learning_rate == AUTO_RATE else config


def _check_folders(
    environment: Environment, cluster: Communicator, marks: Dict[str, Any], epochs: int, before_data: bool = False
) -> None:
    """Refuse a checkpoint folder of another run, and a model folder with a model that the run does not continue.

    In a SageMaker job the latter is the job's own. Before the data has been read, only the settings are compared.
    """
    resumes = False
    if environment.checkpoint_dir:
        resumes = Checkpoints(environment.checkpoint_dir).check_resumable(marks, epochs, before_data)
    if cluster.is_main_process and not (environment.on_sagemaker or environment.overwrite):
        check_model_folder(environment.model_dir, marks, before_data, resumes, environment.checkpoint_dir)


def max_detections(config: TrainConfig, labels: Labels) -> int:
    """Return the maximum number of detections per image.

    It is post_nms or the number of boxes of the fullest training image, at most the number of anchors times classes.
    """
    most = max(len(record.boxes) for record in labels.records)
    anchors = len(make_anchors(layout_of(config)))
    return min(max(config.post_nms, most), anchors * len(labels.class_names))


def with_candidates(config: TrainConfig, labels: Labels, progress: Progress) -> TrainConfig:
    """Return `config` with nms_topk set, if it is not.

    It becomes twice the highest number of positive anchors of a training image, but at least LEAST_CANDIDATES. Fewer
    would drop objects even if the network scored exactly those anchors; twice as many, because their neighbours score
    too.
    """
    if config.nms_topk:
        return config
    side = config.image_shape
    encode = TargetEncoder(make_anchors(layout_of(config)))
    sized = [(record, View((0, 0, *record.size_wh))) for record in labels.records if record.size_wh]
    fullest = sorted(sized, key=lambda one: len(one[0].boxes))[-FULLEST_IMAGES:]
    targets = [encode(*transform_boxes(record.boxes, record.class_ids, view, side))[0] for record, view in fullest]
    positives = [np.count_nonzero(classes) for classes in targets]
    nms_topk = max(LEAST_CANDIDATES, 2 * max(positives, default=0))
    if nms_topk > LEAST_CANDIDATES:
        progress.info(f"nms_topk {nms_topk}: one training image has {max(positives)} positive anchors")
    return dataclasses.replace(config, nms_topk=nms_topk)


def class_weights(config: TrainConfig, labels: Labels, progress: Progress) -> Tuple[float, ...]:
    """Return the weight of each class in the class loss; () if class_weights is not set.

    Balanced weights are inverse to the number of training boxes, with a mean of 1 over the boxes (scikit-learn's
    formula). A class without boxes has weight 1.

    Raises:
        ConfigError: class_weights names a class that the labels do not have.
    """
    if not config.class_weights:
        return ()
    names = labels.class_names
    weights = parse_class_weights(config.class_weights) or {}
    unknown = sorted(set(weights) - set(names))
    if unknown:
        raise ConfigError(f"class_weights: found class {unknown[0]!r}, expected some of {', '.join(names)}")
    if config.class_weights == BALANCED:
        counts = np.bincount(np.concatenate([r.class_ids for r in labels.records]).astype(int), minlength=len(names))
        mean = counts.sum() / max(np.count_nonzero(counts), 1)
        weights = {name: mean / count for name, count in zip(names, counts) if count}
    progress.info(f"class_weights: {', '.join(f'{name} {weights.get(name, 1.0):.3g}' for name in names)}")
    return tuple(float(weights.get(name, 1.0)) for name in names)


def _make_average(train_step: TrainStep, config: TrainConfig, class_names: ClassNames) -> ModelEMA:
    net = net_of(config, class_names)
    net.collect_params().reset_ctx(train_step.devices[0])
    return ModelEMA(net, train_step.net, config.ema_decay)


def _find_weights(config: TrainConfig, environment: Environment, progress: Progress) -> Optional[InitialWeights]:
    """Return the initial weights, from `pretrained` or the model zoo; None for random weights.

    A detector of the model zoo has anchors and classes of its own: with auto_anchors only its features are taken. The
    weights are loaded once into a network of one class: only the class head depends on the data.

    Raises:
        ConfigError, WeightsError: the weights are missing, damaged, or of another network.
    """
    if environment.pretrained is not None:
        weights = InitialWeights(environment.pretrained, heads=True)
    elif config.use_pretrained_model:
        file, note = zoo_file(config.zoo, config.base_network, config.image_shape)
        if note:
            progress.info(note)
        advice = IN_A_JOB if environment.on_sagemaker else ADVICE
        if file.name.startswith("ssd_"):
            advice = f"or zoo imagenet to start from the backbone alone, {advice}"
        path = find_weights(file, environment.weights_dir, progress, advice)
        weights = InitialWeights(path, heads=not config.auto_anchors)
    else:
        return None
    one_class = ClassNames(("object",))
    _load_weights(net_of(config, one_class), config, weights, one_class)
    return weights


def _make_net(config: TrainConfig, weights: Optional[InitialWeights], labels: Labels, progress: Progress) -> Any:
    net = net_of(config, labels.class_names)
    if config.classification_loss == "focal":
        init_background_prior(net)
    if weights is None:
        progress.warning(RANDOM)
    else:
        progress.info(str(_load_weights(net, config, weights, labels.class_names, has_own_ids(labels))))
    frozen = freeze(net, config.base_network, config.freeze_layer_pattern)
    if frozen:
        progress.info(f"{len(frozen)} of {len(net._collect_params_with_prefix())} tensors are frozen")
    return net


def _load_weights(
    net: Any, config: TrainConfig, weights: InitialWeights, class_names: ClassNames, by_id: bool = True
) -> LoadReport:
    """Load a weights file, a folder with one, or a model (folder or archive) of ours or of the built-in algorithm.

    Args:
        net: the network to fill.
        config: its settings.
        weights: the file, folder or archive.
        class_names: classes of `net`. Each takes the rows of the model's class of the same name.
        by_id: if either side has no names, take the rows of the same class id instead.

    Raises:
        ConfigError: there is no such file, or the model has another backbone.
        WeightsError: the weights are damaged or do not fit.
    """
    source = weights.path
    if not source.exists():
        raise ConfigError(f"pretrained: {source} not found, expected a weights file or a model folder")
    with open_model(source) as path:
        builtin = artifact_folder(path)
        if builtin is not None:
            report = _load_artifact(net, config, builtin, class_names, by_id)
        elif not (path / CONFIG).exists():
            report = load_pretrained(
                net, config.base_network, _weights_file(path), heads=weights.heads, finer_maps=_finer_maps(config, 0)
            )
        else:
            model = SavedModel.load(path)
            _check_base_network(config, model.config.base_network, source)
            rows = class_names.ids_in(model.class_names, by_id).tolist()
            finer = _finer_maps(config, model.config.first_stride)
            report = load_pretrained(
                net, config.base_network, model.weights, list(model.class_names), rows, finer_maps=finer
            )
    return dataclasses.replace(report, source=str(source))


def _load_artifact(net: Any, config: TrainConfig, folder: Path, class_names: ClassNames, by_id: bool) -> LoadReport:
    """Load a model of the built-in algorithm; it states no class names."""
    artifact = read_artifact(folder)
    if artifact.base_network == RESNET:
        raise WeightsError(
            f"{artifact.files.weights}: found a {RESNET} of the built-in algorithm, whose units normalize before they "
            "convolve, unlike GluonCV's; expected vgg-16. convert makes a model of it for predict, evaluate, serve and "
            "export"
        )
    _check_base_network(config, artifact.base_network, folder)
    names = ClassNames.of_ids({}, artifact.num_classes)
    return load_builtin(net, artifact.arrays, str(folder), list(names), class_names.ids_in(names, by_id).tolist())


def _check_base_network(config: TrainConfig, expected: str, source: Path) -> None:
    if config.base_network != expected:
        raise ConfigError(
            f"base_network: found {config.base_network!r}, expected {expected!r}, that of the model in {source}"
        )


def _finer_maps(config: TrainConfig, first_stride: int) -> int:
    """Return how many more maps the network has than with this first stride."""
    others = feature_cells(config.base_network, config.image_shape, first_stride)
    return len(layout_of(config).cells) - len(others)


def _weights_file(path: Path) -> Path:
    if path.is_file():
        return path
    files = sorted(file for kind in ("params", "safetensors") for file in path.glob(f"*.{kind}"))
    if len(files) != 1:
        raise ConfigError(
            f"pretrained: found {len(files)} .params and .safetensors files in {path}, expected one, or a model folder"
        )
    if is_converted(path):
        raise WeightsError(
            f"{files[0]}: found a converted model of the built-in algorithm, expected the archive that it was made from"
        )
    return files[0]


def _make_loaders(
    config: TrainConfig,
    train: LabeledDataset,
    validation: LabeledDataset,
    sampler: EpochSampler,
    eval_batch: int,
    progress: Progress,
) -> Tuple[AnyLoader, EvalLoader]:
    side, gray = config.image_shape, config.grayscale
    workers = default_workers() if config.num_workers < 0 else config.num_workers
    encode = TargetEncoder(make_anchors(layout_of(config)))
    budget = int(available_memory() * CACHE_FRACTION) if config.cache_images else 0
    train_fraction = len(train.labels) / (len(train.labels) + len(validation.labels))
    validation_budget = int(budget * (1 - train_fraction))
    validation_set = DetectionDataset(validation.labels, validation.images, side, validation_budget)
    transform = TrainTransform(side, config.augmentation, encode, gray, config.mirror)
    if isinstance(train.images, DetectionStream):
        loader: AnyLoader = StreamLoader(train.images, train.labels, transform, sampler, side, workers)
    else:
        train_set = DetectionDataset(train.labels, train.images, side, int(budget * train_fraction))
        loader = TrainLoader(train_set, transform, sampler, workers, _bad_samples(config, train, progress))
    eval_transform = EvalTransform(side, encode, gray)
    bad_samples = _bad_samples(config, validation, progress)
    return loader, EvalLoader(validation_set, eval_transform, eval_batch, workers, bad_samples)


def _bad_samples(config: TrainConfig, subset: LabeledDataset, progress: Progress) -> BadSampleHandler:
    return BadSampleHandler(len(subset.labels), config.on_bad_data, progress)
