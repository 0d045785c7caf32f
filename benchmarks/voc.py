"""The table of Pascal VOC that AWS published for its built-in algorithm, made again: VOC07+12 to VOC07 test at 512 px.

    python -m benchmarks.voc VOCdevkit --out runs [--networks vgg-16 resnet-50] [--batches 64 16]
                             [--pretrained_folder weights] [...]

VOCdevkit has VOC2007 and VOC2012, each with Annotations, ImageSets/Main and JPEGImages, as the organisers' archives
unpack (host.robots.ox.ac.uk/pascal/VOC). 240 epochs of 16 551 images are a matter of days without GPUs. The last epoch
is scored once, by GluonCV's VOC07MApMetric, which leaves out objects marked difficult as the devkit does; our own
VOC07, which counts them, stands beside it. Each of AWS's rows is a batch size and a learning rate (p3.8xlarge and
p3.2xlarge); all else is the built-in algorithm's table, `--preset_defaults builtin`: no warm-up, no clipping, a step
schedule.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple
from xml.etree import ElementTree

import numpy as np

from ssd_train import mxnet_compat
from ssd_train.data.formats.ground_truth import read_ground_truth, write_ground_truth
from ssd_train.data.formats.voc import read_voc
from ssd_train.data.image_sources import FolderImages
from ssd_train.data.structures import NOTHING_IGNORED, Detections, LabeledImage, Labels
from ssd_train.deploy.detector import Detector, ImageRef
from ssd_train.evaluation.metrics import MeanAveragePrecision

TRAINING, TEST = ("VOC2007/trainval", "VOC2012/trainval"), ("VOC2007/test",)


class Row(NamedTuple):
    """A row of AWS's table: network, mini_batch_size, learning_rate, and the VOC07 mAP that AWS published."""

    network: str
    batch: int
    rate: float
    published: Optional[float]


ROWS = (
    Row("vgg-16", 64, 0.004, 0.780),
    Row("vgg-16", 16, 0.0005, 0.780),
    Row("resnet-50", 64, 0.002, 0.791),
    Row("resnet-50", 16, 0.0005, 0.796),
)
RECIPE = {
    "preset_defaults": "builtin",
    "image_shape": 512,
    "epochs": 240,
    "lr_scheduler_step": "80,160",
    "lr_scheduler_factor": 0.1,
}
Sets = Sequence[str]


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Print a JSON line for each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("devkit", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", default=sorted({row.network for row in ROWS}))
    parser.add_argument("--batches", nargs="+", type=int, default=sorted({row.batch for row in ROWS}))
    parser.add_argument("--training", nargs="+", default=TRAINING, help="image sets, as YEAR/SET")
    parser.add_argument("--test", nargs="+", default=TEST)
    parser.add_argument("--pretrained_folder", type=Path, help="with NETWORK.params; without, GluonCV's model zoo")
    parser.add_argument("--set", nargs="*", default=[], help="other settings of train, as name=value")
    flags = parser.parse_args(arguments)
    flags.out.mkdir(parents=True, exist_ok=True)
    class_names = None
    for sets, name in ((flags.training, "train"), (flags.test, "test")):
        labels = read_sets(flags.devkit, sets, class_names)
        class_names = labels.class_names
        write_ground_truth(flags.out / f"{name}.manifest", labels.records, class_names)
    for row in rows_of(flags.networks, flags.batches):
        print(json.dumps(reproduce(row, flags)), flush=True)


def rows_of(networks: Sequence[str], batches: Sequence[int]) -> List[Row]:
    """Return AWS's rows of these networks and batch sizes; a network that it did not publish has ResNet-50's rates."""
    rates = {row.batch: row.rate for row in ROWS}
    others = [Row(n, b, rates[b], None) for n in networks for b in batches if n not in {row.network for row in ROWS}]
    return [row for row in ROWS if row.network in networks and row.batch in batches] + others


def read_sets(devkit: Path, sets: Sets, class_names: Any = None) -> Labels:
    """Read the labels of the images that `sets` (YEAR/SET) list, named by their paths below `devkit`."""
    records: List[LabeledImage] = []
    for place in sets:
        year, name = place.split("/")
        listed = (devkit / year / "ImageSets/Main" / f"{name}.txt").read_text("utf-8").split()
        found = read_voc(devkit / year / "Annotations", class_names)
        class_names = found.class_names
        by_stem = {Path(record.where).stem: record for record in found.records}
        records += [
            dataclasses.replace(_with_difficult(by_stem[stem]), name=f"{year}/JPEGImages/{by_stem[stem].basename}")
            for stem in listed
        ]
    return Labels(tuple(records), class_names, source=str(devkit))


def _with_difficult(record: LabeledImage) -> LabeledImage:
    """Return the record with its difficult objects as ordinary ones, last: the built-in algorithm knows no flag."""
    boxes = np.concatenate([record.boxes, record.ignored.boxes])
    class_ids = np.concatenate([record.class_ids, record.ignored.class_ids])
    return dataclasses.replace(record, boxes=boxes, class_ids=class_ids, ignored=NOTHING_IGNORED)


def settings_of(row: Row, given: Sequence[str]) -> Dict[str, Any]:
    """Return the settings of `row`; those given as name=value win."""
    settings = {**RECIPE, "base_network": row.network, "mini_batch_size": row.batch, "learning_rate": row.rate}
    settings.update(pair.split("=", 1) for pair in given)
    settings["validation_interval"] = settings["epochs"]  # scored once: no epoch is chosen by the test images
    return settings


def reproduce(row: Row, flags: argparse.Namespace) -> Dict[str, Any]:
    """Train a network, let it answer, score."""
    settings = settings_of(row, flags.set)
    place = flags.out / f"{row.network}-{row.batch}"
    command = [sys.executable, "-m", "ssd_train", "train", "--train", str(flags.devkit)]
    command += ["--labels", str(flags.out / "train.manifest"), "--validation_labels", str(flags.out / "test.manifest")]
    command += ["--model_dir", str(place / "model"), "--output_dir", str(place / "output")]
    command += ["--checkpoint_dir", str(place / "checkpoints")]
    if flags.pretrained_folder:
        command += ["--pretrained", str(flags.pretrained_folder / f"{row.network}.params")]
    start = time.perf_counter()
    subprocess.run([*command, *(f"--{name}={value}" for name, value in settings.items())], check=True)
    hours = (time.perf_counter() - start) / 3600
    with_difficult, as_devkit = score(place / "model", flags.devkit, flags.out / "test.manifest")
    return {
        "network": row.network,
        "batch": int(settings["mini_batch_size"]),
        "learning rate": float(settings["learning_rate"]),
        "VOC07 mAP": round(as_devkit, 4),
        "published": row.published,
        "VOC07 mAP, difficult ones counted": round(with_difficult, 4),
        "epochs": int(settings["epochs"]),
        "pixels": int(settings["image_shape"]),
        "hours": round(hours, 3),
    }


def score(model: Path, devkit: Path, manifest: Path) -> Tuple[float, float]:
    """VOC07 mAP of all objects, by our metric, and without difficult ones, by GluonCV's."""
    labels, source = read_ground_truth(manifest), FolderImages(devkit)
    pictures = [
        ImageRef(record.name, lambda record=record: source.read(record), record.where, record.size_wh)
        for record in labels.records
    ]
    ours = MeanAveragePrecision(labels.class_names)
    mxnet_compat.gluoncv()
    module = mxnet_compat.gluoncv("utils.metrics.voc_detection")
    theirs = module.VOC07MApMetric(iou_thresh=0.5, class_names=list(labels.class_names))
    for record, answer in zip(labels.records, Detector.load(model).predict_iter(pictures)):
        ours.update(answer.detections, record)
        theirs.update(*rows_for_gluoncv(answer.detections, record, is_difficult(devkit, record)))
    return ours.compute().voc07, float(theirs.get()[1][-1])


def rows_for_gluoncv(found: Detections, record: LabeledImage, difficult: np.ndarray) -> Iterable[List[np.ndarray]]:
    """Return the arguments of VOC07MApMetric.update for one image."""
    columns = (found.boxes, found.class_ids[:, None], found.scores[:, None], record.boxes, record.class_ids[:, None])
    return [[column[None]] for column in (*columns, difficult[:, None])]


def is_difficult(devkit: Path, record: LabeledImage) -> np.ndarray:
    """Return which objects of a record are marked difficult, (N,) of 0 and 1: these are its last."""
    year, _, name = record.name.partition("/JPEGImages/")
    tree = ElementTree.parse(devkit / year / "Annotations" / f"{Path(name).stem}.xml")
    return np.sort(np.array([int(o.findtext("difficult") or 0) for o in tree.iter("object")], int))


if __name__ == "__main__":
    main()
