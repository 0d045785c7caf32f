"""What each part of the recipe brings: one setting changed at a time, all else as it is by default.

    SSD_TRAIN_DATA=... python -m benchmarks.ablation [--sets raccoon bccd small] [--epochs 8] [--rows NAME ...]

Every row is `python -m ssd_train train` with default settings but those named here. The scores are those of the last
epoch, by our own metric (equal to pycocotools), not of the best one. `small` is drawn: shapes of 2 to 5 % of the
picture's width on pictures of 640 x 480; the other sets are those of quality.py. It is one seed: on these sets another
seed moves a score by about 0.02.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Sequence

from benchmarks.quality import course, run_python, split_of
from ssd_train.config import FINE_STRIDES
from ssd_train.data.synthetic import SHAPE_CLASSES, draw_shapes_set, write_drawn_set

SMALL, SMALL_TRAINING, SMALL_HELD_OUT = "small", 160, 60
SMALL_DRAWING = {"size_wh": (640, 480), "max_objects": 8, "sides": (0.02, 0.05)}
FINE = "a map of stride 8"
GLUONCV_START, OFFLINE = "gluoncv initialisation", "offline x5"
ROWS: Dict[str, Dict[str, str]] = {
    "default": {},
    "SSD's own anchors": {"auto_anchors": "0"},
    GLUONCV_START: {},
    "no negatives in empty images": {"min_hard_negatives": "0"},
    "no warm-up, constant rate": {"warmup_epochs": "0", "lr_schedule": "constant"},
    "augmentation none": {"augmentation": "none"},
    "augmentation flip": {"augmentation": "flip"},
    "augmentation geometry": {"augmentation": "geometry"},
    "augmentation ssd": {"augmentation": "ssd"},
    OFFLINE: {"augmentation": "none"},
    FINE: {"feature_strides": FINE_STRIDES},
    f"{FINE}, image_shape 512": {"feature_strides": FINE_STRIDES, "image_shape": "512"},
    "image_shape 416": {"image_shape": "416"},
    "image_shape 512": {"image_shape": "512"},
    "learning_rate 0.0005": {"learning_rate": "0.0005"},
    "learning_rate 0.002": {"learning_rate": "0.002"},
    "mini_batch_size 4": {"mini_batch_size": "4", "learning_rate": "0.0005"},
    "sgd 0.01": {"optimizer": "sgd", "learning_rate": "0.01"},
    "sgd 0.001": {"optimizer": "sgd", "learning_rate": "0.001"},
    "ema_decay 0.998": {"ema_decay": "0.998"},
    "focal loss": {"classification_loss": "focal"},
    "label_smoothing 0.1": {"label_smoothing": "0.1"},
    "class_weights balanced": {"class_weights": "balanced"},
    "amp 0": {"amp": "0"},
    "amp 1": {"amp": "1"},
    "no box voting": {"box_voting": "0"},
    "frozen backbone": {"freeze_layer_pattern": "features.mobilenet0"},
    "frozen first half": {"freeze_layer_pattern": r"features\.mobilenet0_(conv|batchnorm)([0-9]|1[0-3])_"},
}


def main() -> None:
    """Run the rows; print each as JSON and write all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=["raccoon", "bccd"])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS, metavar="NAME")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="add the rows to the list in this file")
    flags = parser.parse_args()
    for name in flags.sets:
        with tempfile.TemporaryDirectory() as folder:
            where = (
                drawn_set(Path(folder)) if name == SMALL else places(Path(os.environ["SSD_TRAIN_DATA"]), name, folder)
            )
            for row in flags.rows:
                result = {"set": name, "row": row, "epochs": flags.epochs, "seed": flags.seed}
                result.update(train(where, row, flags, Path(folder) / row))
                print(json.dumps(result), flush=True)
                if flags.json:
                    append(flags.json, result)


def append(file: Path, row: Dict[str, Any]) -> None:
    """Add `row` to the JSON list in `file`, so that what was measured stays when a later row fails."""
    rows: List[Dict[str, Any]] = json.loads(file.read_text("utf-8")) if file.exists() else []
    file.write_text(json.dumps([*rows, row], indent=1) + "\n", "utf-8")


def places(shared: Path, name: str, folder: str) -> Dict[str, Path]:
    """Return flags with the paths of a dataset of quality.py, split as there, and of the backbone."""
    split = split_of(shared, name, Path(folder) / "split")
    return {
        "train": shared / "data" / name,
        "labels": split / "train.manifest",
        "validation_labels": split / "validation.manifest",
        "pretrained": shared / "weights" / "mobilenet1.0-imagenet-coral.params",
    }


def drawn_set(folder: Path) -> Dict[str, Path]:
    """Draw a dataset of small objects into `folder` and return flags with its paths."""
    sides = [("train", "labels", SMALL_TRAINING, 1), ("validation", "validation_labels", SMALL_HELD_OUT, 2)]
    found = {"pretrained": Path(os.environ["SSD_TRAIN_DATA"]) / "weights" / "mobilenet1.0-imagenet-coral.params"}
    for images, labels, count, seed in sides:
        samples = draw_shapes_set(count, seed, **SMALL_DRAWING)  # type: ignore[arg-type]
        found[images], found[labels] = write_drawn_set(folder / images, samples, SHAPE_CLASSES, "shapes")
    return found


def train(where: Dict[str, Path], row: str, flags: argparse.Namespace, out: Path) -> Dict[str, Any]:
    """Train from the command line; return the last epoch's scores, the minutes and the number of threads."""
    epochs = flags.epochs
    if row == OFFLINE:
        where = offline(where, out)
    places = {**where, "model_dir": out / "model", "output_dir": out / "output"}
    settings = {"epochs": epochs, "seed": flags.seed, "validation_interval": epochs, **ROWS[row]}
    arguments = [part for name, value in {**places, **settings}.items() for part in (f"--{name}", str(value))]
    program = ["-m", "benchmarks.ablation", GLUONCV_START] if row == GLUONCV_START else ["-m", "ssd_train", "train"]
    start = time.time()
    run_python([*program, *arguments])
    minutes = round((time.time() - start) / 60, 2)
    threads = len(os.sched_getaffinity(0))
    return {"settings": ROWS[row], "minutes": minutes, "threads": threads, **course(out / "model" / "history.jsonl")}


def offline(where: Dict[str, Path], out: Path) -> Dict[str, Path]:
    """Write each training image five times, as AWS's sample does: unchanged, mirrored twice, rotated twice."""
    target = out / "five"
    run_python(
        ["-m", "ssd_train", "prepare", "augment", str(where["labels"])]
        + ["--images", str(where["train"]), "--output", str(target)]
    )
    validation = where.get("validation", where["train"])
    return {**where, "train": target / "images", "labels": target / "augmented.manifest", "validation": validation}


def train_as_gluoncv_begins(arguments: Sequence[str]) -> int:
    """Run `train` with the initial values of GluonCV's net.initialize().

    MXNet's default initialiser then draws the head, the extra layers and even variances.
    """
    from ssd_train.cli.main import main as command
    from ssd_train.model import net as nets

    def initialize(net: Any, image_size: int, seed: int) -> None:
        with nets.mx.autograd.train_mode():
            net.infer_shape(nets.mx.nd.zeros((1, 3, image_size, image_size)))
        nets.mx.random.seed(seed)
        net.initialize()

    nets.initialize = initialize
    return command(["train", *arguments])


if __name__ == "__main__":
    if sys.argv[1:2] == [GLUONCV_START]:
        sys.exit(train_as_gluoncv_begins(sys.argv[2:]))
    main()
