"""Ours beside Ultralytics' YOLO11n, both from random weights, for the same time, judged by pycocotools.

    SSD_TRAIN_DATA=... make bench-ultralytics ARGS="[--sets raccoon bccd fruit] [--epochs 40] [--seeds 1] [--json FILE]"

Ours trains first, by the recipe best, which chooses the feature maps by the sizes of the boxes, at 300 px. The seconds
from the start of its command until the weights of its last epoch are saved are the time that YOLO11n may train at 320
px; YOLO11n's start is not counted. Both evaluate after each epoch, as they do by default. The judge scores the weights
of the last epochs. Ultralytics runs as a program in an environment of its own (requirements/ultralytics.txt): its
licence, AGPL-3.0, keeps it out of the dependencies.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

import yaml

from benchmarks.machine import describe
from benchmarks.quality import SETS, add_row, details, judge, predict, run_python, split_of, threads, train

# all other settings are Ultralytics' defaults
YOLO = ["model=yolo11n.yaml", "pretrained=False", "imgsz=320", "batch=16", "device=cpu", "plots=False"]
PACKAGES = ("ultralytics", "torch")


def main() -> None:
    """Run both on each set, print a row for each, and add the rows to a result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--yolo", type=Path, required=True, help="the program yolo of an environment with Ultralytics")
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--epochs", type=int, default=40, help="epochs of ours, whose time both take")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--json", type=Path, help="add the rows to this result")
    flags = parser.parse_args()
    shared, machine = Path(os.environ["SSD_TRAIN_DATA"]), describe()
    machine["versions"].update(versions(flags.yolo))
    with tempfile.TemporaryDirectory() as folder:
        for name in flags.sets:
            split = split_of(shared, name, Path(folder) / "split")
            dataset = write_yolo_dataset(shared / "data" / name / "images", split, Path(folder) / f"yolo-{name}")
            for seed in flags.seeds:
                out = Path(folder) / f"{name}-{seed}"
                ours = measured(train_ours, shared, name, split, out / "ours", flags.epochs, seed)
                yolo = measured(train_yolo, flags.yolo, shared, split, dataset, out / "yolo", ours["seconds"], seed)
                for row in (ours, yolo):
                    row = {"set": name, "seed": seed, **row}
                    print(json.dumps(row), flush=True)
                    if flags.json:
                        add_row(flags.json, row, row["command seconds"] / 60, machine)


def measured(run: Callable[..., Dict[str, Any]], *arguments: Any) -> Dict[str, Any]:
    """Return the row of a run with the number of threads, and the load before it."""
    load = round(os.getloadavg()[0], 1)
    return {**run(*arguments), "threads": threads(), "load before": load}


def versions(yolo: Path) -> Dict[str, str]:
    """Return the versions of PACKAGES in the environment of the program `yolo`."""
    code = f"from importlib.metadata import version; print(*map(version, {PACKAGES}))"
    done = subprocess.run([yolo.with_name("python"), "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    return dict(zip(PACKAGES, done.stdout.split()))


def write_yolo_dataset(images: Path, split: Path, folder: Path) -> Path:
    """Write both parts of a split as a YOLO data set and return its data.yaml."""
    names = []
    for part in ("train", "validation"):
        convert = ["-m", "ssd_train", "prepare", "convert", "--labels", str(split / f"{part}.manifest")]
        convert += ["--images", str(images), "--to", "yolo", "--output", str(folder / part)]
        run_python([*convert, "--output_images", str(folder / part / "images")])
        names.append(yaml.safe_load((folder / part / "data.yaml").read_text("utf-8"))["names"])
    if names[0] != names[1]:
        sys.exit(
            f"{split}: found the classes {names[1]} in the validation part, expected those of training, {names[0]}"
        )
    document = {"path": str(folder), "train": "train/images", "val": "validation/images", "names": names[0]}
    (folder / "data.yaml").write_text(yaml.safe_dump(document), "utf-8")
    return folder / "data.yaml"


def train_ours(shared: Path, name: str, split: Path, out: Path, epochs: int, seed: int) -> Dict[str, Any]:
    """Train ours from random weights by the recipe best, and judge the weights of the last epoch."""
    settings = ["--recipe", "best", "--use_pretrained_model", "0", "--epochs", str(epochs), "--seed", str(seed)]
    start = time.time()
    train(shared, name, split, out, *settings, "--checkpoint_dir", str(out / "checkpoints"))
    taken, last = time.time() - start, last_weights(out / "checkpoints")
    answers = out / "predictions.jsonl"
    predict(shared, name, with_weights(out / "model", last, out / "last"), answers)
    row = {"who": "ssd_train", "epochs": epochs, "seconds": round(last.stat().st_mtime - start, 1)}
    return {**row, "command seconds": round(taken, 1), **scores(shared, split, answers)}


def last_weights(checkpoints: Path) -> Path:
    """Return the weights of the newest checkpoint."""
    from ssd_train.storage.atomic import finished_dirs
    from ssd_train.training.checkpoint import LAST, Checkpoints

    return finished_dirs(Checkpoints(checkpoints).target)[0] / LAST


def with_weights(model: Path, weights: Path, folder: Path) -> Path:
    """Save a model with other weights into `folder` and return it."""
    from ssd_train.artifacts.saved_model import SavedModel

    saved = dataclasses.replace(SavedModel.load(model), weights=str(weights))
    saved.save(folder, saved.build())
    return folder


def train_yolo(
    yolo: Path, shared: Path, split: Path, dataset: Path, out: Path, seconds: float, seed: int
) -> Dict[str, Any]:
    """Train YOLO11n from random weights for `seconds`, and judge the weights of the last epoch."""
    out.mkdir(parents=True)
    start = time.time()
    run_yolo(yolo, out, ["train", *YOLO, f"data={dataset}", f"time={seconds / 3600:.6f}", f"seed={seed}", "name=run"])
    taken = time.time() - start
    with (out / "run" / "results.csv").open(encoding="utf-8") as file:
        epochs = list(csv.DictReader(file, skipinitialspace=True))
    images = validation_images(dataset)
    listed = out / "images.txt"
    listed.write_text("".join(f"{image}\n" for image in images), "utf-8")
    found = ["conf=0.001", "save=False", "save_txt=True", "save_conf=True", "name=found"]  # 0.001 as in its evaluation
    weights = out / "run" / "weights" / "last.pt"
    run_yolo(yolo, out, ["predict", f"model={weights}", f"source={listed}", "imgsz=320", "device=cpu", *found])
    answers = out / "predictions.jsonl"
    write_predictions(images, out / "found" / "labels", answers)
    row = {"who": "YOLO11n", "epochs": len(epochs), "seconds": round(float(epochs[-1]["time"]), 1)}
    return {**row, "command seconds": round(taken, 1), **scores(shared, split, answers)}


def validation_images(dataset: Path) -> List[Path]:
    """Return the images of the validation part of a data.yaml of `write_yolo_dataset`."""
    return sorted(path for path in (dataset.parent / "validation" / "images").rglob("*") if path.is_file())


def write_predictions(images: Sequence[Path], labels: Path, answers: Path) -> None:
    """Write Ultralytics' detections, a text file for each image, as the predictions that the judge reads."""
    with answers.open("w", encoding="utf-8") as file:
        for image in images:
            found = labels / f"{image.stem}.txt"  # there is none if nothing was detected
            detections = parse_detections(found.read_text("utf-8")) if found.exists() else []
            file.write(json.dumps({"image": image.name, "prediction": detections}) + "\n")


def parse_detections(text: str) -> List[List[float]]:
    """Return rows (class id, score, x1, y1, x2, y2 in 0..1) of Ultralytics' lines "class x y width height score"."""
    rows = []
    for line in text.splitlines():
        class_id, x, y, width, height, score = map(float, line.split())
        rows.append([int(class_id), score, x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    return rows


def scores(shared: Path, split: Path, answers: Path) -> Dict[str, Any]:
    """Return COCO mAP, mAP@0.5, and both by class."""
    judged, found = judge(shared, split, str(answers)), details(split, str(answers), answers.parent)
    by_class = {"AP": found["AP"], "AP@0.5": judged["AP50"]}
    rounded = {key: {name: value and round(value, 4) for name, value in part.items()} for key, part in by_class.items()}
    intervals = {name: [round(end, 4) for end in ends] for name, ends in found["intervals"].items()}
    return {"mAP": judged["mAP"], "mAP@0.5": judged["mAP50"], **rounded, "intervals": intervals}


def run_yolo(yolo: Path, folder: Path, arguments: List[str]) -> None:
    """Run Ultralytics in `folder`, with settings of its own, offline and without installing packages."""
    environ = {**os.environ, "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_CONFIG_DIR": str(folder)}
    environ["OMP_NUM_THREADS"] = str(threads())
    command = [str(yolo.absolute()), "detect", *arguments, f"project={folder}"]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nexited {done.returncode}:\n{done.stderr[-2000:]}{done.stdout[-500:]}")


if __name__ == "__main__":
    main()
