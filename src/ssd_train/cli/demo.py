"""The command demo: train on a synthetic data set in a few minutes on a laptop."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

from ssd_train.cli.arguments import Parser, make_progress, number_in_range, program
from ssd_train.cli.train import TrainingResult, command_line
from ssd_train.cli.train import train as train_detector
from ssd_train.config import TrainConfig, current_names, with_recipe
from ssd_train.data.structures import ClassNames
from ssd_train.data.synthetic import draw_logo_set, write_drawn_set
from ssd_train.environment import Environment
from ssd_train.storage.atomic import require_writable

IMAGES, HELD_OUT = 1600, 100
LOGO = ClassNames(("logo",))
# random weights, so that nothing is downloaded; small network and grayscale images, so that it is fast
SETTINGS = {
    "base_network": "mobilenet0.25",
    "image_shape": 256,
    "use_pretrained_model": 0,
    "grayscale": True,
    "augmentation": "flip",
    "epochs": 9,
    "mini_batch_size": 16,
    "learning_rate": 0.004,
    "validation_interval": 3,
}
# enough to see that everything works: half a minute on two cores
QUICK_IMAGES, QUICK_HELD_OUT = 64, 16
QUICK = {**SETTINGS, "image_shape": 128, "epochs": 2, "validation_interval": 1}


def run(arguments: Sequence[str]) -> int:
    """Draw a data set, train on it, and print the scores and the paths of report and model."""
    parser = make_parser()
    known, settings = parser.parse_settings(arguments)
    defaults = QUICK if known.quick else SETTINGS
    config = TrainConfig.from_mapping(
        {**defaults, **with_recipe(current_names(settings))}, flags=parser.names - parser.settings
    )
    images, held_out = (QUICK_IMAGES, QUICK_HELD_OUT) if known.quick else (IMAGES, HELD_OUT)
    images = known.pictures or images
    folder, progress = known.folder, make_progress()
    require_writable(folder)
    progress.info(f"drawing {images} training and {held_out} validation images into {folder}")
    train = write_drawn_set(folder / "train", draw_logo_set(images, seed=1), LOGO, "demo-logo")
    scored = draw_logo_set(held_out, seed=2, backgrounds="validation")
    validation = write_drawn_set(folder / "validation", scored, LOGO, "demo-logo")
    command = command_line("demo", arguments)
    environment = Environment(*train, *validation, folder / "model", folder / "output", overwrite=True, command=command)
    trained = train_detector(config, environment, progress)
    assert isinstance(trained, TrainingResult)  # one host
    for line in trained.scores.lines():
        progress.info(line)
    progress.info(f"report: {trained.report}")
    progress.info(f"model:  {trained.model_dir}")
    progress.info(
        f"next:   {program('predict')} {folder / 'validation' / 'images'} --model {trained.model_dir} "
        f"--overlays {folder / 'overlays'}"
    )
    return 0


def make_parser() -> Parser:
    """Return the parser of demo."""
    parser = Parser(
        prog=program("demo"),
        description="Draw a labelled data set, train on it, score the detector. Takes all settings of train.",
    )
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="output folder")
    parser.add_argument(
        "--pictures",
        type=number_in_range(int, 1, 100_000),
        metavar="N",
        help=f"number of training images, 1 to 100000; default: {IMAGES}, with --quick {QUICK_IMAGES}",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="few small images and two epochs, to see in half a minute that everything works; little is learned",
    )
    parser.add_settings(hidden=True)
    return parser
