"""The walk-through's numbers, on the genuine manifests and on drawn ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import manifests

from ssd_train.data.formats.ground_truth import read_ground_truth
from ssd_train.data.image_io import decode
from ssd_train.data.image_sources import FolderImages

ROOT = Path(__file__).resolve().parents[2]


def walk(folder, *flags):
    environment = {name: value for name, value in os.environ.items() if name != "SSD_TRAIN_DATA"}
    environment["PYTHONPATH"] = str(ROOT / "src")
    command = [sys.executable, str(ROOT / "examples" / "greengrass_walkthrough.py"), "--folder", str(folder), *flags]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    assert done.returncode == 0, done.stdout.decode()
    return done.stdout.decode()


def counts(folder):
    names = ["joined", "kept", "boxes", "classes", "split/train", "split/validation", "augmented/augmented"]
    return [len(manifests.read(folder / f"{name}.manifest")) for name in names]


def test_greengrass_walkthrough_of_genuine_manifests_gives_the_counts(tmp_path, shared_data):
    jobs = sorted((shared_data / "data" / "manifests").glob("greengrass-*.manifest"))
    if len(jobs) < 4:
        pytest.skip(f"{shared_data}/data/manifests holds no greengrass-*.manifest")

    out = walk(tmp_path, "--data", str(shared_data))

    labels = read_ground_truth(tmp_path / "augmented/augmented.manifest")
    before = {line for path in jobs for line in path.read_bytes().splitlines()}
    assert counts(tmp_path) == [1310, 1304, 1304, 1304, 1174, 130, 5870]
    assert set((tmp_path / "joined.manifest").read_bytes().splitlines()) == before
    assert list(labels.class_names) == ["blue box", "yellow box"]
    assert len(labels) == 5870 and labels.repaired == ()
    assert "--annotations_only" in out


def test_greengrass_walkthrough_of_drawn_manifests_gives_the_counts(tmp_path):
    walk(tmp_path, "--share", "0.1")

    labels = read_ground_truth(tmp_path / "augmented/augmented.manifest")
    images = FolderImages(tmp_path / "augmented/images")
    joined = 62 + 2 + 63 + 3
    train = round(0.9 * (joined - 6))
    assert counts(tmp_path) == [joined, *[joined - 6] * 3, train, joined - 6 - train, 5 * train]
    assert list(labels.class_names) == ["blue box", "yellow box"]
    assert (tmp_path / "sheet.png").is_file()
    seen = 0
    for record in labels.records:
        image = decode(images.read(record), record.where, record.size_wh)
        for (x1, y1, x2, y2), class_id in zip(record.boxes.astype(int), record.class_ids):
            red, _, blue = image[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].mean(axis=(0, 1))
            assert (red > 180 and blue < 80) if class_id else (red < 80 and blue > 160)
            seen += 1
    assert seen > 4 * train
