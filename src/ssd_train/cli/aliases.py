"""Names of flags in other tools: aliases where the meaning is the same, hints where it is not.

The other tools are Ultralytics, YOLOv5, GluonCV's train_ssd.py and torchvision's detection references.
"""

from __future__ import annotations

from typing import Collection, Dict, Iterable, List, Tuple

# flag or setting -> names of other tools that mean the same, with values in the same form
ALIASES: Dict[str, Tuple[str, ...]] = {
    "learning_rate": ("lr", "lr0"),
    "image_shape": ("imgsz", "img", "img_size", "image_size", "data_shape"),
    "mini_batch_size": ("batch", "batch_size"),
    "base_network": ("network", "backbone"),
    "weight_decay": ("wd",),
    "lr_scheduler_factor": ("lr_decay", "lr_gamma"),
    "lr_scheduler_step": ("lr_decay_epoch",),
    "validation_interval": ("val_interval",),
    "num_workers": ("workers",),
    "split_group": ("group",),
    "group": ("split_group",),
    "devices": ("device",),
    "pretrained": ("weights",),
    "model": ("weights",),
    "class_names": ("names",),
}

_DATA = (
    "--train FOLDER, with --labels PATH unless the labels are in it (a YOLO export: its folder or data.yaml)",
    "--images FOLDER and --labels PATH",
)
_PATH_FLAGS = ("--job_name NAME", "--model_dir FOLDER and --output_dir FOLDER", "--output PATH", "--folder FOLDER")
_SCORE = ("--threshold SCORE, the least score of boxes that are drawn; files of predictions have all candidates",)
_SUPPRESSION = (
    "--nms_threshold IOU (suppression) or --overlap_threshold IOU (a true positive of validation:mAP)",
    "--overlap_threshold IOU (a true positive); suppression is --nms_threshold of train, part of the model",
    "--nms_threshold IOU of train: it is part of the model",
)
_MOST = ("--post_nms N, raised to the most boxes of a training image", "--post_nms N of train: it is part of the model")
_CHECKPOINTS = ("--checkpoint_dir FOLDER: from its checkpoints the same command resumes",)
_NETWORK = ("--base_network NAME, and --pretrained PATH for weights",)
_VALIDATION = ("--validation PATH, and --validation_labels PATH unless the labels are in it",)
# name of another tool -> flags to use here; the first that the command has, else the last
HINTS: Dict[str, Tuple[str, ...]] = {
    **dict.fromkeys(("data", "dataset", "data_path"), _DATA),
    **dict.fromkeys(("name", "project", "save_prefix", "save_dir"), _PATH_FLAGS),
    **dict.fromkeys(("conf", "conf_thres", "conf_thresh", "score_threshold"), _SCORE),
    **dict.fromkeys(("iou", "iou_thres", "nms_thresh"), _SUPPRESSION),
    "max_det": _MOST,
    **dict.fromkeys(("resume", "save_period", "start_epoch"), _CHECKPOINTS),
    "patience": ("--early_stopping true --early_stopping_patience EPOCHS",),
    "freeze": ("--freeze_layer_pattern REGEX of parameter names",),
    **dict.fromkeys(("model", "cfg", "arch"), _NETWORK),
    "hyp": ("--config FILE.yaml",),
    "cos_lr": ("--lr_schedule cosine, which is the default",),
    "lr_steps": ("--lr_scheduler_step 10,20",),
    "gpus": ("--devices gpu:0,gpu:1",),
    **dict.fromkeys(("val", "val_data"), _VALIDATION),
    "cache": ("--cache_images true, which is the default",),
    "include": ("--format NAME",),
    **dict.fromkeys(("save_txt", "save_json"), ("--format NAME", "--json FILE")),
    **dict.fromkeys(("save", "view_img"), ("--overlays FOLDER",)),
    "exist_ok": ("--overwrite",),
}


def hints(names: Iterable[str], known: Collection[str]) -> List[str]:
    """Return a message for each name of another tool in `names`, which must not be flags of the command.

    Args:
        names: names of flags, without hyphens before them.
        known: names of the command's flags.
    """
    texts = []
    for name in dict.fromkeys(names):
        choices = HINTS.get(name, ())
        fitting = [text for text in choices if text[2:].split()[0].rstrip(",") in known]
        if choices:
            texts.append(f"--{name}: unknown flag, expected {[*fitting, choices[-1]][0]}")
    return texts
