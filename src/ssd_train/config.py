"""TrainConfig: all hyperparameters with their units, limits and defaults.

Names, ranges and meanings are those of the SageMaker built-in Object Detection algorithm where it has the setting
(https://docs.aws.amazon.com/sagemaker/latest/dg/object-detection-api-config.html). Command line flags, SageMaker
hyperparameters and the saved config.json are generated from the fields below.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Callable, Collection, Dict, Mapping, Optional, Tuple, Union

from ssd_train import builtin_algorithm
from ssd_train.config_fields import (
    BOOLEANS,
    checked_value,
    cross_field_errors,
    did_you_mean,
    parse_increasing_floats,
    parse_increasing_ints,
    setting,
)
from ssd_train.errors import ConfigError

RECIPES: Dict[str, Dict[str, Any]] = {
    "fast": {"image_shape": 300, "epochs": 8},
    "balanced": {"image_shape": 300, "epochs": 20, "feature_strides": "auto"},
    "best": {"image_shape": 300, "epochs": 40, "feature_strides": "auto"},
}


def with_recipe(values: Mapping[str, Any]) -> Dict[str, Any]:
    """Merge `values` into the settings of their recipe, if they name one; empty texts count as not given."""
    recipe = RECIPES.get(str(values.get("recipe", "")).strip(), {})
    explicit = {name: value for name, value in values.items() if name not in recipe or str(value).strip() != ""}
    return {**recipe, **explicit}


def describe_preset(name: str, chosen: Mapping[str, Any]) -> str:
    """Describe which settings of recipe `name` are in effect and which were overridden.

    Args:
        name: Name of the recipe.
        chosen: All settings of the run.
    """
    recipe = RECIPES[name]
    used = [f"{key} {value}" for key, value in recipe.items() if chosen[key] == value]
    overridden = [f"{key} {chosen[key]} instead of {value}" for key, value in recipe.items() if chosen[key] != value]
    text = f"recipe {name}: {', '.join(used) or 'no setting used'}"
    return f"{text}; overridden: {', '.join(overridden)}" if overridden else text


ZOOS = ("coco", "voc", "imagenet")
BASE_NETWORKS = ("mobilenet1.0", "mobilenet0.5", "mobilenet0.25", "mobilenetv2_1.0", "vgg-16", "resnet-50")
# spellings of GluonCV and of users
NETWORK_ALIASES = {
    "vgg16": "vgg-16",
    "vgg16_atrous": "vgg-16",
    "resnet50": "resnet-50",
    "resnet50_v1": "resnet-50",
    "mobilenet_v2_1.0": "mobilenetv2_1.0",
    "mobilenet-1.0": "mobilenet1.0",
}
FINE_STRIDES, USUAL_STRIDES, AUTO_STRIDES = "8,16,...", "16,32,...", "auto"
# feature_strides of any length -> the same with an ellipsis
STRIDE_ALIASES = {
    ",".join(str(first << index) for index in range(count)): strides
    for first, strides in ((8, FINE_STRIDES), (16, USUAL_STRIDES))
    for count in range(1, 13)
}
AUTO_RATE = "auto"  # of learning_rate
USUAL_RATE = 0.001
RATE_FROM_RANDOM_WEIGHTS = 0.003  # of adam, for MobileNets
# setting -> optimizers that have it, as in the built-in algorithm
OPTIMIZERS_WITH = {"momentum": ("sgd",), "weight_decay": ("sgd", "rmsprop")}
DEFAULT_CLIP = 10.0  # clip_gradient of optimizers that normalise by the gradient's own size
LEAST_CANDIDATES = 400  # least nms_topk if it is not set
LABEL_FORMATS = ("ground_truth", "image_json", "recordio", "coco", "voc", "yolo")
# old name -> current name: flags, hyperparameters, models and checkpoints with the old names are still read
SETTING_ALIASES = {
    "peer_timeout": "heartbeat_timeout",
    "peer_port": "rendezvous_port",
    "fit_anchors": "auto_anchors",
    "defaults": "preset_defaults",
}


@dataclass(frozen=True)
class TrainConfig:
    """Hyperparameters of a training run; Environment has its folders and devices.

    Raises:
        ConfigError: at construction; it lists every invalid value.
    """

    preset_defaults: str = setting(
        "measured",
        "source of defaults: our measured ones, or the built-in algorithm's",
        choices=("measured", "builtin"),
        resume=True,  # its effect is in the other settings
    )
    recipe: str = setting(
        "",
        "preset for image_shape, epochs and feature_strides; explicit flags override it",
        choices=("", *RECIPES),
        resume=True,  # its effect is in the other settings
    )
    # network
    base_network: str = setting("mobilenet1.0", "backbone network", choices=BASE_NETWORKS, aliases=NETWORK_ALIASES)
    image_shape: int = setting(300, "side length of the square network input, pixels", low=128, high=10000)
    feature_strides: str = setting(
        "",
        "strides of the feature maps: 8,16,... has one more map, for small objects; auto: as the training boxes need; "
        "empty: 16,32,..., of vgg-16 8,16,...",
        choices=("", AUTO_STRIDES, FINE_STRIDES, USUAL_STRIDES),
        aliases=STRIDE_ALIASES,
        by_data=True,
    )
    num_classes: int = setting(
        0, "number of classes; computed from the labels; if set, all class ids must be below it", low=0, by_data=True
    )
    use_pretrained_model: int = setting(
        1,
        "1: start from trained weights (--pretrained, else GluonCV's model zoo); 0: from --pretrained or random ones",
        low=0,
        high=1,
    )
    zoo: str = setting(
        "coco",
        "network of GluonCV's model zoo to start from: a detector trained on COCO or VOC, or an ImageNet backbone",
        choices=ZOOS,
        start=True,
    )
    anchor_sizes: str = setting(
        "",
        "anchor scales relative to the image side, e.g. 0.1,0.2,0.37: one more than feature maps; empty: SSD's",
        by_data=True,
    )
    auto_anchors: bool = setting(
        True,
        "fit anchor_sizes to the training boxes unless they are set; false: take those of the initial detector, and of "
        "the model zoo's detector also the heads",
    )
    freeze_layer_pattern: str = setting(
        "",
        "regular expression of parameter names to freeze",
        aliases={"false": ""},  # the SageMaker console's spelling of "none"
    )
    # data
    num_training_samples: int = setting(
        0, "number of training images; computed, a wrong value warns", low=0, by_data=True
    )
    label_width: int = setting(
        350, "padded label width of the built-in algorithm; computed, too small warns", low=1, by_data=True
    )
    validation_fraction: float = setting(0.2, "fraction held out if there are no validation labels", above=0, below=1)
    split_group: str = setting(
        "",
        "regular expression; images whose names have the same match (or the same first group, if the expression has "
        "groups) stay in the same split",
    )
    labels_format: str = setting(
        "",
        "label format; detected if empty",
        choices=("", *LABEL_FORMATS),
        aliases=builtin_algorithm.CONTENT_TYPES,
        resume=True,
    )
    class_names: str = setting(
        "", "class names for labels without names (RecordIO, Pipe mode): a,b,c in order of class id", resume=True
    )
    split: str = setting(
        "", "split to train on, if the data names some (ImageSets/Main, data.yaml); empty: train, else trainval"
    )
    verified: str = setting("", "use only images with this verdict of a Ground Truth verification job, e.g. good")
    label_attribute: str = setting("", "label attribute of the manifest; chosen by type and date if empty")
    on_bad_data: str = setting("error", "action on unusable lines and images", choices=("error", "skip"), resume=True)
    grayscale: bool = setting(False, "use only the luminance of images, in training and in prediction")
    augmentation: str = setting(
        "strong", "online augmentation policy", choices=("none", "flip", "geometry", "ssd", "strong")
    )
    mirror: bool = setting(
        True, "allow mirroring in augmentation; false if left and right differ (arrows, text, left/right parts)"
    )
    # may not change on resume: cached images are decoded for the whole image, others for each view, which differs a bit
    cache_images: bool = setting(True, "cache decoded images in memory while they fit")
    # optimization
    epochs: int = setting(30, "passes over the training images", low=1, resume=True)  # not below the epochs made
    mini_batch_size: int = setting(8, "images per step on one host, over all its devices", low=1, by_data=True)
    optimizer: str = setting("adam", "optimization algorithm", choices=("sgd", "adam", "rmsprop", "adadelta"))
    learning_rate: Union[float, str] = setting(
        AUTO_RATE,
        "initial learning rate, after warm-up; auto: as the run that is resumed, else 0.001, or 0.003 for adam from "
        "random weights of a MobileNet; unused by MXNet's adadelta",
        above=0,
        high=1,
        or_text=AUTO_RATE,
    )
    lr_schedule: str = setting(
        "",
        "learning rate schedule; empty: step if lr_scheduler_step is set, else cosine",
        choices=("", "constant", "step", "cosine"),
    )
    lr_scheduler_step: str = setting("", "epochs after which the rate is multiplied by lr_scheduler_factor, e.g. 10,20")
    lr_scheduler_factor: float = setting(0.1, "factor of each step", above=0, below=1)
    warmup_epochs: float = setting(0.5, "epochs of linear warm-up from 0", low=0)
    momentum: float = setting(0.9, "momentum of sgd", low=0, high=1)
    weight_decay: float = setting(0.0005, "weight decay of sgd and rmsprop", low=0, below=1)
    clip_gradient: float = setting(-1.0, "maximum L2 norm of the gradient; 0: none; -1: 10, or none with sgd", low=-1)
    negative_mining_ratio: float = setting(3.0, "hard negatives per positive anchor", low=0)
    min_hard_negatives: int = setting(3, "minimum of hard negatives per image, for images without objects", low=0)
    classification_loss: str = setting(
        "hard_negative",
        "cross entropy with hard negative mining, or focal loss over all anchors",
        choices=("hard_negative", "focal"),
    )
    class_weights: str = setting(
        "",
        "weights of the classes in the class loss, for rare classes: balanced (each class counts the same in all), or "
        "a=2,b=0.5 by name, other classes 1; empty: every object counts the same",
    )
    label_smoothing: float = setting(0.0, "probability moved from the target class to all classes", low=0, below=1)
    ema_decay: float = setting(0.0, "decay of the moving average of the weights; 0 disables it", low=0, below=1)
    amp: Union[bool, str] = setting(
        "auto",
        "mixed precision: float16 on GPUs, bfloat16 on CPUs; auto: as the run that is resumed, else 1 for "
        "mobilenet1.0 and mobilenet0.5 on a CPU with avx512_bf16 or amx_bf16, 0 elsewhere",
        choices=("auto", 0, 1),
        aliases=BOOLEANS,
    )
    seed: int = setting(1, "seed of initial weights, order and augmentation", low=0, high=2**31 - 1)
    # evaluation and stopping
    validation_interval: int = setting(1, "epochs between evaluations", low=1)
    metric_for_best_model: str = setting(
        "coco",
        "metric that selects the best model: coco: COCO mAP, then VOC07 mAP, last epoch wins ties; voc07: "
        "validation:mAP, first epoch wins ties, as the built-in algorithm",
        choices=("coco", "voc07"),
        resume=True,
    )
    overlap_threshold: float = setting(0.5, "IoU of a true positive, for validation:mAP", above=0, high=1)
    nms_threshold: float = setting(0.45, "IoU above which non-maximum suppression drops a box", above=0, high=1)
    nms_topk: int = setting(
        0,
        "boxes per image that enter non-maximum suppression; 0: 400, or more if training images are crowded",
        low=0,
        resume=True,
    )
    post_nms: int = setting(100, "maximum detections per image; raised to the most boxes of a training image", low=1)
    box_voting: bool = setting(
        True,
        "box voting after suppression: each kept box becomes the score-weighted mean of its class's candidates with "
        "IoU >= 0.5 with it",
        resume=True,
        older=False,
    )
    early_stopping: bool = setting(False, "stop when validation:mAP no longer improves", resume=True)
    early_stopping_min_epochs: int = setting(10, "epochs before early stopping may stop", low=1, resume=True)
    early_stopping_patience: int = setting(5, "epochs to wait for an improvement", low=1, resume=True)
    early_stopping_tolerance: float = setting(0.0, "minimum relative improvement", low=0, high=1, resume=True)
    # devices and hosts
    kv_store: str = setting(
        "device",
        "gradient synchronisation across devices and hosts; default with a parameter server: dist_sync",
        choices=("device", "local", "dist_sync", "dist_async", "dist_device_sync"),
        aliases={"-": "device", "": "device"},  # AWS documents "-" as the default: one machine
    )
    heartbeat_timeout: float = setting(
        60, "several hosts: seconds without a heartbeat before all exit", low=2, resume=True
    )
    rendezvous_port: int = setting(
        8470, "several hosts: port on the first host for rendezvous", low=1024, high=65535, resume=True
    )
    checkpoint_minutes: float = setting(
        10.0, "minutes between checkpoints inside an epoch; 0: only after each epoch", low=0, resume=True
    )
    artifact_names: str = setting(
        "",
        "builtin: deployment files also under the built-in algorithm's names, model_algo_1-symbol.json and "
        "model_algo_1-0000.params, with corners from 0 to 1",
        choices=("", "builtin"),
        resume=True,
    )
    pipe_buffer_mb: int = setting(256, "Pipe mode: size of the shuffle buffer, MB", low=1, resume=True)
    pipe_spill_gb: float = setting(
        0, "Pipe mode: disk space for images that exceed the buffer, GB; 0: half of the free space", low=0, resume=True
    )
    pipe_timeout: float = setting(900, "Pipe mode: seconds to wait for a FIFO or its next bytes", above=0, resume=True)
    num_workers: int = setting(-1, "threads that load images; -1: one per CPU, 0: none", low=-1, resume=True)

    def __post_init__(self) -> None:
        violations = []
        for item in dataclasses.fields(self):
            value, fault = checked_value(item, getattr(self, item.name))
            object.__setattr__(self, item.name, value)
            if fault:
                violations.append(fault)
        violations += cross_field_errors(self.to_json())
        if violations:
            raise ConfigError("; ".join(violations))
        if self.clip_gradient < 0:
            object.__setattr__(self, "clip_gradient", 0.0 if self.optimizer == "sgd" else DEFAULT_CLIP)

    @property
    def lr_steps(self) -> Optional[Tuple[int, ...]]:
        """Epochs of lr_scheduler_step; None if it is not an increasing list of epochs."""
        return parse_increasing_ints(self.lr_scheduler_step)

    @property
    def anchor_scales(self) -> Tuple[float, ...]:
        """Anchor scales of anchor_sizes."""
        return parse_increasing_floats(self.anchor_sizes) or ()

    @property
    def first_stride(self) -> int:
        """Stride of the first feature map; 0: that of the network, also before "auto" is resolved."""
        return 0 if self.feature_strides == AUTO_STRIDES else int(self.feature_strides.split(",")[0] or 0)

    @property
    def candidates(self) -> int:
        """Boxes per image that enter non-maximum suppression: nms_topk or its default."""
        return self.nms_topk or LEAST_CANDIDATES

    @property
    def base_learning_rate(self) -> float:
        """Learning rate after warm-up; that of trained weights, before "auto" is resolved."""
        return USUAL_RATE if isinstance(self.learning_rate, str) else self.learning_rate

    @property
    def schedule(self) -> str:
        """Resolved learning rate schedule: constant, step or cosine."""
        return self.lr_schedule or ("step" if self.lr_steps else "cosine")

    def to_json(self) -> Dict[str, Any]:
        """Return all settings by name, for json.dump."""
        return dataclasses.asdict(self)

    @classmethod
    def from_mapping(
        cls, values: Mapping[str, Any], warn: Callable[[str], None] = lambda text: None, flags: Collection[str] = ()
    ) -> "TrainConfig":
        """Build a TrainConfig from flags, hyperparameters or config.json.

        Args:
            values: Settings by name, as texts or typed values. Hyphens in names count as underscores, and old names
                as the current ones. Hidden keys of the built-in algorithm are ignored.
            warn: Called with a message for each value that is accepted with a correction.
            flags: Names of command line flags, for suggestions of what an unknown name may mean.

        Raises:
            ConfigError: unknown names or invalid values; lists all of them.
        """
        known = {item.name for item in dataclasses.fields(cls)}
        settings = current_names(values)
        unknown = sorted(name for name in settings if name not in known and not builtin_algorithm.is_hidden(name))
        faults = [f"{name}: unknown setting{did_you_mean(name, known, flags)}" for name in unknown]
        kept = {name: value for name, value in settings.items() if name in known}
        if str(kept.get("preset_defaults", "")).strip() == "builtin":
            kept = builtin_algorithm.with_defaults(kept)
        kept = with_recipe(kept)
        if "image_shape" in kept:
            kept["image_shape"], note = builtin_algorithm.parse_image_shape(kept["image_shape"])
            if note:
                warn(note)
        try:
            config = cls(**kept)
        except ConfigError as error:
            faults.append(str(error))
        if faults:
            raise ConfigError("; ".join(faults))
        return config

    @classmethod
    def from_saved(cls, settings: Mapping[str, Any]) -> "TrainConfig":
        """Build the TrainConfig of a saved model, which may lack newer settings."""
        older = {item.name: item.metadata["older"] for item in dataclasses.fields(cls) if "older" in item.metadata}
        return cls.from_mapping({**older, **settings})


def current_names(values: Mapping[str, Any]) -> Dict[str, Any]:
    """Return `values` keyed by current setting names: underscores for hyphens, old names replaced.

    Raises:
        ConfigError: a setting is given by its old and its current name.
    """
    renamed: Dict[str, Any] = {}
    for key, value in values.items():
        name = SETTING_ALIASES.get(key.replace("-", "_"), key.replace("-", "_"))
        if name in renamed:
            raise ConfigError(f"{name}: found two values, one as {key}, expected one")
        renamed[name] = value
    return renamed


def resumable_settings() -> Tuple[str, ...]:
    """Return the settings that a resumed run may change: the fields with resume=True.

    They do not affect the steps already made. All other settings, the classes and the labels are part of the
    checkpoint's fingerprint (training/checkpoint.py); a run that differs in them is refused.
    """
    return tuple(item.name for item in dataclasses.fields(TrainConfig) if item.metadata.get("resume"))


def check_for_mpi(config: TrainConfig, processes: int) -> None:
    """Raise ConfigError for settings that Horovod cannot train with, under `processes` processes on each host."""
    if config.kv_store in ("dist_async", "dist_device_sync"):
        raise ConfigError(
            f"kv_store: found {config.kv_store!r} under mpi, which is synchronous, expected 'device', or the "
            "estimator's distribution parameter_server"
        )
    if config.mini_batch_size % processes:
        raise ConfigError(
            f"mini_batch_size: found {config.mini_batch_size}, expected a multiple of {processes}, the number of "
            "processes that share it on a host"
        )


def settings_by_data() -> Tuple[str, ...]:
    """Return the settings that are completed from the training data: the fields with by_data=True.

    Their values may change once the data is read (training/data_setup.py, training/autoanchor.py).
    """
    return tuple(item.name for item in dataclasses.fields(TrainConfig) if item.metadata.get("by_data"))
