"""TrainConfig: every hyperparameter once, with its unit, limits and default.

Names, ranges and meanings are those of the SageMaker built-in Object Detection algorithm where it has the setting
(https://docs.aws.amazon.com/sagemaker/latest/dg/object-detection-api-config.html). Command line flags, SageMaker
hyperparameters and the saved config.json are all made from the fields below.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Callable, Collection, Dict, Mapping, Optional, Tuple

from ssd_train import builtin, recipes
from ssd_train.errors import ConfigError
from ssd_train.setting_values import checked_value, contradictions, did_you_mean, rising_epochs, rising_shares, setting

BASE_NETWORKS = ("mobilenet1.0", "mobilenet0.5", "mobilenet0.25", "mobilenetv2_1.0", "vgg-16", "resnet-50")
# other spellings in use: GluonCV's names
NETWORK_ALIASES = {
    "vgg16": "vgg-16",
    "vgg16_atrous": "vgg-16",
    "resnet50": "resnet-50",
    "resnet50_v1": "resnet-50",
    "mobilenet_v2_1.0": "mobilenetv2_1.0",
    "mobilenet-1.0": "mobilenet1.0",
}
USUAL_CLIP = 10.0  # of clip_gradient, where it is left open, for rules that divide by the gradient's own size
LEAST_CANDIDATES = 400  # what nms_topk comes to at least, where it is left open
LABEL_FORMATS = ("ground_truth", "image_json", "recordio", "coco", "voc", "yolo")


@dataclass(frozen=True)
class TrainConfig:
    """What is trained and how; where (folders, devices) is Environment's. Construction checks every value and
    reports all violations in one ConfigError."""

    defaults: str = setting(
        "measured",
        "of settings not given: the best measured here, or the built-in algorithm's table",
        choices=("measured", "builtin"),
        resume=True,  # what it led to are the other settings
    )
    recipe: str = setting(
        "",
        "an image size and a number of epochs, by name: how much time to spend; one that is given counts instead",
        choices=("", *recipes.RECIPES),
        resume=True,  # what it led to are the other settings
    )
    # the network
    base_network: str = setting(
        "mobilenet1.0", "network that the detector is built on", choices=BASE_NETWORKS, aliases=NETWORK_ALIASES
    )
    image_shape: int = setting(300, "side of the square the image is resized to, pixels", low=128, high=10000)
    num_classes: int = setting(
        0, "number of classes; computed from the labels, whose ids must be below a given one", low=0, by_data=True
    )
    use_pretrained_model: int = setting(
        1, "1: start from trained weights (--pretrained, else GluonCV's model zoo); 0: from random ones", low=0, high=1
    )
    anchor_sizes: str = setting(
        "",
        "sides of the anchors as shares of the image's, e.g. 0.1,0.2,0.37: one more than feature maps; empty: SSD's",
        by_data=True,
    )
    fit_anchors: bool = setting(True, "choose anchor_sizes by the training boxes, where none are given")
    freeze_layer_pattern: str = setting(
        "",
        "regular expression of parameter names that are not trained",
        aliases={"false": ""},  # the console's "none"
    )
    # the data
    num_training_samples: int = setting(
        0, "number of training images; computed, a wrong value warns", low=0, by_data=True
    )
    label_width: int = setting(
        350, "padded label width of the built-in algorithm; computed, too small warns", low=1, by_data=True
    )
    validation_fraction: float = setting(0.2, "share held out where no validation labels are given", above=0, below=1)
    split_group: str = setting(
        "",
        "regular expression; images with the same match in their names (the same text in its first bracket, if it has "
        "one) stay on one side of the split",
    )
    labels_format: str = setting(
        "",
        "format of the labels; found by looking when empty",
        choices=("", *LABEL_FORMATS),
        aliases=builtin.CONTENT_TYPES,
        resume=True,
    )
    class_names: str = setting(
        "", "names of classes for labels without (RecordIO, Pipe mode): a,b,c in order of their ids", resume=True
    )
    split: str = setting(
        "", "set to train on, of those that the data names (ImageSets/Main, data.yaml); empty: train, else trainval"
    )
    verified: str = setting("", "only images whose labels a Ground Truth verification job called so, e.g. good")
    label_attribute: str = setting("", "label attribute of the manifest; chosen by type and date when empty")
    on_bad_data: str = setting("error", "what unusable lines and images do", choices=("error", "skip"), resume=True)
    grayscale: bool = setting(False, "use the brightness of the images only, in training and in prediction")
    augmentation: str = setting(
        "strong", "policy of online augmentation", choices=("none", "flip", "geometry", "ssd", "strong")
    )
    mirror: bool = setting(
        True,
        "let the augmentation policy mirror; false where left and right differ: arrows, lettering, left/right parts",
    )
    # not free on resume: kept pictures are decoded for the whole image, others for each view, which differs a little
    cache_images: bool = setting(True, "keep decoded images in memory while they fit")
    # the optimisation
    epochs: int = setting(30, "passes over the training images", low=1, resume=True)  # not below what is made
    mini_batch_size: int = setting(8, "images per step on one host, over all its devices", low=1, by_data=True)
    optimizer: str = setting("adam", "update rule", choices=("sgd", "adam", "rmsprop", "adadelta"))
    learning_rate: float = setting(
        0.001, "initial learning rate, after warm-up; MXNet's adadelta has none", above=0, high=1
    )
    lr_schedule: str = setting(
        "",
        "course of the learning rate; empty: step if lr_scheduler_step is given, else cosine",
        choices=("", "constant", "step", "cosine"),
    )
    lr_scheduler_step: str = setting("", "epochs after which the rate is multiplied by lr_scheduler_factor, e.g. 10,20")
    lr_scheduler_factor: float = setting(0.1, "factor of each step", above=0, below=1)
    warmup_epochs: float = setting(0.5, "epochs over which the rate rises linearly from 0", low=0)
    momentum: float = setting(0.9, "momentum of sgd", low=0, high=1)
    weight_decay: float = setting(0.0005, "weight decay of sgd and rmsprop", low=0, below=1)
    clip_gradient: float = setting(
        -1.0,
        "largest L2 norm of the whole gradient; 0: no limit; -1: 10, and none with sgd, whose rate clipping divides",
        low=-1,
    )
    negative_mining_ratio: float = setting(3.0, "hard negatives per positive anchor", low=0)
    min_hard_negatives: int = setting(3, "least number of hard negatives per image, so that empty images teach", low=0)
    classification_loss: str = setting(
        "hard_negative",
        "cross entropy of objects and hard negatives, or the focal loss of all anchors",
        choices=("hard_negative", "focal"),
    )
    label_smoothing: float = setting(0.0, "share of the wanted class's probability spread over all", low=0, below=1)
    ema_decay: float = setting(
        0.0, "the model is a moving average of the weights, of which a step leaves this share; 0: none", low=0, below=1
    )
    amp: bool = setting(False, "mixed precision: float16 on GPUs, bfloat16 on CPUs (slower where they lack it)")
    seed: int = setting(1, "seed of initial weights, order and augmentation", low=0, high=2**31 - 1)
    # evaluation and stopping
    validation_interval: int = setting(1, "epochs between evaluations", low=1)
    metric_for_best_model: str = setting(
        "coco",
        "what the kept model is chosen by: COCO mAP, then VOC07, the later of equals; or validation:mAP (VOC07), the "
        "earlier of equals, as the built-in algorithm",
        choices=("coco", "voc07"),
        resume=True,
    )
    overlap_threshold: float = setting(
        0.5, "IoU at which a detection counts as found, for validation:mAP", above=0, high=1
    )
    nms_threshold: float = setting(
        0.45, "IoU above which the lower of two boxes of a class is dropped", above=0, high=1
    )
    nms_topk: int = setting(
        0,
        "boxes per image that enter non-maximum suppression; 0: 400, or more where training images are crowded",
        low=0,
        resume=True,
    )
    post_nms: int = setting(100, "boxes per image that leave it; raised to the most boxes of one training image", low=1)
    early_stopping: bool = setting(False, "stop when validation:mAP no longer improves", resume=True)
    early_stopping_min_epochs: int = setting(10, "epochs before early stopping may stop", low=1, resume=True)
    early_stopping_patience: int = setting(5, "epochs to wait for an improvement", low=1, resume=True)
    early_stopping_tolerance: float = setting(0.0, "relative improvement that counts", low=0, high=1, resume=True)
    # the machine
    kv_store: str = setting(
        "device",
        "how gradients of several devices and hosts meet; hosts with a parameter server: dist_sync unless given",
        choices=("device", "local", "dist_sync", "dist_async", "dist_device_sync"),
        aliases={"-": "device", "": "device"},  # documented as the default: one machine
    )
    peer_timeout: float = setting(
        60, "several hosts: seconds after which all end when one no longer gives signs of life", low=2, resume=True
    )
    peer_port: int = setting(
        8470, "several hosts: port of the first one's that the others find", low=1024, high=65535, resume=True
    )
    checkpoint_minutes: float = setting(
        10.0, "minutes between checkpoints inside an epoch; 0: only after each epoch", low=0, resume=True
    )
    pipe_buffer_mb: int = setting(256, "Pipe mode: memory of the buffer that shuffles images, MB", low=1, resume=True)
    pipe_spill_gb: float = setting(
        0, "Pipe mode: disk for images beyond the buffer, GB; 0: half of what is free", low=0, resume=True
    )
    pipe_timeout: float = setting(900, "Pipe mode: seconds to wait for a FIFO or its next bytes", above=0, resume=True)
    num_workers: int = setting(
        -1, "threads that prepare images; -1: as many as processors, 0: none", low=-1, resume=True
    )

    def __post_init__(self) -> None:
        violations = []
        for item in dataclasses.fields(self):
            value, fault = checked_value(item, getattr(self, item.name))
            object.__setattr__(self, item.name, value)
            if fault:
                violations.append(fault)
        violations += contradictions(self.to_json())
        if violations:
            raise ConfigError("; ".join(violations))
        if self.clip_gradient < 0:
            object.__setattr__(self, "clip_gradient", 0.0 if self.optimizer == "sgd" else USUAL_CLIP)

    @property
    def lr_steps(self) -> Optional[Tuple[int, ...]]:
        """The epochs of lr_scheduler_step; None when the text is not a rising list of epochs."""
        return rising_epochs(self.lr_scheduler_step)

    @property
    def anchor_shares(self) -> Tuple[float, ...]:
        """The numbers of anchor_sizes."""
        return rising_shares(self.anchor_sizes) or ()

    @property
    def candidates(self) -> int:
        """The boxes per image that enter non-maximum suppression: nms_topk, or the least where no data was seen."""
        return self.nms_topk or LEAST_CANDIDATES

    @property
    def schedule(self) -> str:
        """The course of the learning rate: constant, step or cosine."""
        return self.lr_schedule or ("step" if self.lr_steps else "cosine")

    def to_json(self) -> Dict[str, Any]:
        """All fields by name, ready for json.dump."""
        return dataclasses.asdict(self)

    @classmethod
    def from_mapping(
        cls,
        values: Mapping[str, Any],
        warn: Callable[[str], None] = lambda text: None,
        flags: Collection[str] = (),
    ) -> "TrainConfig":
        """Build from names and texts or numbers, as flags, hyperparameters or config.json carry them. Hyphens in names
        become underscores; the built-in algorithm's hidden keys are accepted and have no effect. `warn` is told of
        values that are understood but not as they should be. `flags`, which are no settings, may have been meant by a
        name that is unknown."""
        known = {item.name for item in dataclasses.fields(cls)}
        given = {name.replace("-", "_"): value for name, value in values.items()}
        unknown = sorted(name for name in given if name not in known and not builtin.is_hidden(name))
        faults = [f"{name}: unknown setting{did_you_mean(name, known, flags)}" for name in unknown]
        kept = {name: value for name, value in given.items() if name in known}
        if str(kept.get("defaults", "")).strip() == "builtin":
            kept = builtin.with_defaults(kept)
        kept = recipes.with_recipe(kept)
        if "image_shape" in kept:
            kept["image_shape"], note = builtin.side_of(kept["image_shape"])
            if note:
                warn(note)
        try:
            config = cls(**kept)
        except ConfigError as error:
            faults.append(str(error))
        if faults:
            raise ConfigError("; ".join(faults))
        return config


def resumable_settings() -> Tuple[str, ...]:
    """Settings that a resumed run may change: they do not alter what the steps already made would have been.

    These are all whose field says resume=True. Folders and devices, which are Environment's, may change too. All
    others, the classes and the labels may not: they are the checkpoint's fingerprint (training/job.py), and a run that
    differs is refused by name.
    """
    return tuple(item.name for item in dataclasses.fields(TrainConfig) if item.metadata.get("resume"))


def settings_by_data() -> Tuple[str, ...]:
    """Settings that a run's data completes (training/intake.py, training/anchor_choice.py): before it is read, they may
    differ from what they will be. These are all whose field says by_data=True."""
    return tuple(item.name for item in dataclasses.fields(TrainConfig) if item.metadata.get("by_data"))
