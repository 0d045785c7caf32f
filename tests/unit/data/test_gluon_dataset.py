"""The data set that is trained on, read by Gluon and by GluonCV: its transform, its loader, its own VOC reader."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.data import shapes_set, small_config

from ssd_train import mxnet_compat
from ssd_train.data.dataset import DetectionDataset, to_gluoncv
from ssd_train.data.labels import load_labels
from ssd_train.environment import Environment
from ssd_train.progress import Progress
from ssd_train.training.setup import build_setup

mx, gcv = mxnet_compat.mxnet(), mxnet_compat.gluoncv()
SIDE = 128


@pytest.fixture()
def drawn(tmp_path):
    return shapes_set(tmp_path, 6, seed=3, empty_fraction=0.0)


def test_dataset_from_manifest_has_the_images_and_boxes_of_its_lines(drawn):
    dataset = DetectionDataset.from_manifest(drawn.manifest, drawn.images, SIDE)
    records = load_labels(drawn.images, drawn.manifest).labels.records
    assert isinstance(dataset, mx.gluon.data.Dataset)
    assert list(dataset.classes) == ["disc", "square", "triangle"]
    assert len(dataset) == len(records) == 6
    for (image, boxes, class_ids), record in zip(dataset, records):
        expected = cv2.imread(str(drawn.images / record.basename))[:, :, ::-1]
        np.testing.assert_array_equal(image, expected)
        np.testing.assert_array_equal(boxes, record.boxes)
        np.testing.assert_array_equal(class_ids, record.class_ids)


def test_training_goes_through_the_gluon_dataset(drawn, tmp_path):
    places = {name: tmp_path / name for name in ("model_dir", "output_dir", "checkpoint_dir")}
    environment = Environment(drawn.images, drawn.manifest, **places, devices="cpu")
    setup = build_setup(small_config(), environment, Progress())
    for loader in (setup.train_loader, setup.validation_loader):
        assert isinstance(loader.dataset, mx.gluon.data.Dataset)
        image, boxes, class_ids = loader.dataset[0]
        assert image.shape[2] == 3 and boxes.shape == (len(class_ids), 4)


@pytest.mark.parametrize("workers", [{}, {"num_workers": 2, "thread_pool": True}], ids=["none", "threads"])
def test_gluoncv_transform_and_loader_take_the_dataset(drawn, workers):
    dataset = DetectionDataset.from_manifest(drawn.manifest, drawn.images, SIDE).transform(to_gluoncv)
    transform = gcv.data.transforms.presets.ssd.SSDDefaultTrainTransform(SIDE, SIDE)
    batchify = gcv.data.batchify.Tuple(gcv.data.batchify.Stack(), gcv.data.batchify.Pad(pad_val=-1))
    loader = mx.gluon.data.DataLoader(dataset.transform(transform), 3, batchify_fn=batchify, **workers)
    shapes = [(images.shape, labels.shape[0]) for images, labels in loader]
    assert shapes == [((3, 3, SIDE, SIDE), 3)] * 2


OBJECTS = {"dog": [(3, 5, 60, 50)], "cat": [(1, 1, 30, 40), (70, 20, 120, 90)]}  # VOC counts pixels from 1


def write_voc(folder: Path) -> Path:
    """A VOC data set of one image, as GluonCV's reader expects its folders."""
    root = folder / "VOC2007"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    cv2.imwrite(str(root / "JPEGImages/a.jpg"), np.random.RandomState(0).randint(0, 256, (96, 128, 3)))
    corners = ("xmin", "ymin", "xmax", "ymax")
    objects = "".join(
        f"<object><name>{name}</name><difficult>0</difficult><bndbox>"
        + "".join(f"<{corner}>{value}</{corner}>" for corner, value in zip(corners, box))
        + "</bndbox></object>"
        for name, boxes in OBJECTS.items()
        for box in boxes
    )
    size = "<size><width>128</width><height>96</height><depth>3</depth></size>"
    (root / "Annotations/a.xml").write_text(f"<annotation><filename>a.jpg</filename>{size}{objects}</annotation>")
    (root / "ImageSets/Main/trainval.txt").write_text("a\n")
    return root


def test_to_gluoncv_gives_the_item_of_gluoncv_own_voc_dataset(tmp_path):
    root = write_voc(tmp_path)
    theirs = gcv.data.VOCDetection(str(tmp_path), splits=[(2007, "trainval")])
    ours = DetectionDataset.from_manifest(root / "Annotations", root / "JPEGImages", SIDE)
    image, label = ours.transform(to_gluoncv)[0]
    expected_image, expected_label = theirs[0]
    assert (image.dtype, image.context, label.dtype) == (expected_image.dtype, expected_image.context, np.float32)
    off = np.abs(image.asnumpy().astype(int) - expected_image.asnumpy())
    assert image.shape == expected_image.shape and off.max() <= 2  # MXNet decodes with a libjpeg of its own

    def named(rows, classes):
        return sorted((classes[int(row[4])], *row[:4].tolist()) for row in rows)

    # GluonCV subtracts 1 from all four corners, and so makes the box a pixel smaller; VOC's corners are inside it
    shifted = label - np.array([0, 0, 1, 1, 0], np.float32)
    assert named(shifted, ours.classes) == named(expected_label, theirs.classes)


WITHOUT_MXNET = """
import sys
sys.modules.update(mxnet=None, gluoncv=None)
from ssd_train.data.checks.runner import quick_check
from ssd_train.data.labels import load_labels
import ssd_train.deploy.detector, ssd_train.deploy.evaluate, ssd_train.deploy.handlers
data = load_labels(*sys.argv[1:])
print(len(data.labels), len(quick_check(data.labels, data.images)))
"""


def test_labels_are_read_and_checked_without_mxnet(drawn):
    command = [sys.executable, "-c", WITHOUT_MXNET, str(drawn.images), str(drawn.manifest)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    assert (done.stdout, done.returncode) == ("6 0\n", 0), done.stderr
