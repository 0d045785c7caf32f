"""Our data set used by GluonCV's own transform, loader and metric."""

from __future__ import annotations

import numpy as np
import pytest

from ssd_train import mxnet_compat
from ssd_train.data.dataset import DetectionDataset
from ssd_train.data.gluon_dataset import GluonDetectionDataset
from ssd_train.data.image_io import encode_png
from ssd_train.data.image_sources import MemoryImages
from ssd_train.data.structures import LabeledImage, Labels
from ssd_train.data.synthetic import SHAPE_CLASSES, draw_shapes_set

mx, gcv = mxnet_compat.mxnet(), mxnet_compat.gluoncv()


@pytest.fixture()
def dataset() -> GluonDetectionDataset:
    drawn = draw_shapes_set(6, seed=3, empty_fraction=0.0)
    records = [LabeledImage(s.name, s.boxes, s.class_ids, s.image.shape[1::-1]) for s in drawn]
    images = MemoryImages({s.name: encode_png(s.image) for s in drawn})
    return GluonDetectionDataset(DetectionDataset(Labels(tuple(records), SHAPE_CLASSES), images, side=128))


def test_items_are_those_of_a_gluoncv_data_set(dataset: GluonDetectionDataset) -> None:
    image, label = dataset[2]
    assert isinstance(dataset, mx.gluon.data.Dataset)
    assert (image.shape, image.dtype) == ((120, 160, 3), np.uint8)
    assert label.dtype == np.float32 and label.shape[1] == 5
    assert dataset.classes == ["disc", "square", "triangle"]


def test_gluoncvs_transform_and_loader_take_it(dataset: GluonDetectionDataset) -> None:
    transform = gcv.data.transforms.presets.ssd.SSDDefaultTrainTransform(128, 128)
    batchify = gcv.data.batchify.Tuple(gcv.data.batchify.Stack(), gcv.data.batchify.Pad(pad_val=-1))
    loader = mx.gluon.data.DataLoader(dataset.transform(transform), 3, batchify_fn=batchify)
    shapes = [(images.shape, labels.shape[0]) for images, labels in loader]
    assert shapes == [((3, 3, 128, 128), 3)] * 2
