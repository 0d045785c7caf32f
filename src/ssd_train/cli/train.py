"""train: the main job."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import List, Sequence

from ssd_train.cli.console import Parser, make_progress
from ssd_train.config import TrainConfig
from ssd_train.environment import Environment


def run(arguments: Sequence[str]) -> int:
    """Train as the flags say; prints the scores and where the model and the report are."""
    parser = make_parser()
    known, settings = parser.parse_settings(arguments)
    config = TrainConfig.from_mapping(settings)
    environment = Environment(**vars(known))
    progress = make_progress()
    from ssd_train.training.run import train

    trained = train(config, environment, progress)
    for line in trained.scores.lines():
        progress.say(line)
    progress.say(f"best epoch: {trained.best_epoch + 1} of {trained.epochs}")
    progress.say(f"report: {trained.report}")
    progress.say(f"model:  {trained.model_dir}")
    return 0


def make_parser() -> Parser:
    """The flags that say where; all others are settings of TrainConfig."""
    parser = Parser(
        prog="python -m ssd_train train",
        description="Train a detector. Without validation labels a share of the images is held out.",
        epilog="\n".join(["settings (--name value):", *setting_lines()]),
    )
    parser.add_argument(
        "--train", type=Path, required=True, metavar="PATH", help="folder of images, or a .rec with images and labels"
    )
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="PATH",
        help="labels, a file or folder: Ground Truth manifest, COCO .json, or a folder of image+JSON, VOC or YOLO "
        "labels (default: those found in --train)",
    )
    parser.add_argument(
        "--validation", type=Path, metavar="PATH", help="validation images, as --train (default: those of --train)"
    )
    parser.add_argument("--validation_labels", type=Path, metavar="PATH", help="validation labels, as --labels")
    parser.add_argument("--model_dir", type=Path, default=Path("model"), metavar="FOLDER", help="default: model")
    parser.add_argument(
        "--output_dir", type=Path, default=Path("output"), metavar="FOLDER", help="report; default: output"
    )
    parser.add_argument(
        "--checkpoint_dir", type=Path, metavar="FOLDER", help="keep checkpoints here and go on from them"
    )
    parser.add_argument(
        "--pretrained",
        type=Path,
        metavar="PATH",
        help="a .params file, or a model folder, to start from (default: model zoo)",
    )
    parser.add_argument(
        "--devices", default="auto", help="auto, cpu, gpu, gpu:N; default: auto, all GPUs or else the CPU"
    )
    return parser


def setting_lines() -> List[str]:
    """A line of help for each setting: name, meaning, limits, default."""
    lines = []
    for item in dataclasses.fields(TrainConfig):
        limits = item.metadata
        choices = [choice for choice in limits.get("choices", ()) if choice]
        among = f" ({', '.join(choices)})" if choices else ""
        default = f" [{item.default}]" if item.default != "" else ""
        lines.append(f"  --{item.name:<26} {limits['help']}{among}{default}")
    return lines
