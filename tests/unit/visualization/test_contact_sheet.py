"""Contact sheets of labelled images."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.data import HeardProgress, label_set, memory_images

from ssd_train.data.image_io import encode_png
from ssd_train.data.image_sources import MemoryImages
from ssd_train.visualization.draw import CLASS_COLOURS, Layout, labelled_sheet

BOX = [[8, 6, 32, 24]]


def gray(count, size_wh=(40, 30)):
    return [np.full((size_wh[1], size_wh[0], 3), 40, np.uint8)] * count


@pytest.mark.parametrize("size_wh", [(40, 30), None], ids=["known-size", "unknown-size"])
@pytest.mark.parametrize("pixels_wh", [(40, 30), (1600, 1200)], ids=["small", "large"])
def test_labelled_sheet_scales_boxes_with_the_image(size_wh, pixels_wh):
    box = np.array(BOX) * pixels_wh[0] / 40
    labels = label_set([box.tolist()], size_wh=size_wh and pixels_wh)

    sheet, _ = labelled_sheet(
        labels, memory_images(labels, gray(1, pixels_wh)), Layout(1, 1, (400, 320)), HeardProgress()
    )

    rows, columns = np.nonzero((np.abs(sheet.astype(int) - 40) < 3).all(axis=2))
    picture = sheet[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    height, width = picture.shape[:2]
    rows, columns = np.nonzero((picture == CLASS_COLOURS[0]).all(axis=2))  # boxes have the colour of their class
    assert columns.min() == pytest.approx(width * 0.2, abs=3)
    assert columns.max() + 1 == pytest.approx(width * 0.8, abs=3)
    assert rows.min() == pytest.approx(height * 0.2, abs=3)


def test_labelled_sheet_selects_images_evenly():
    labels = label_set([BOX] * 10)
    names = []

    class RecordingImages(MemoryImages):
        def read(self, record):
            names.append(record.name)
            return super().read(record)

    images = RecordingImages({record.name: encode_png(gray(1)[0]) for record in labels.records})
    labelled_sheet(labels, images, Layout(4, 2, (100, 80)), HeardProgress())

    assert names == ["0.png", "3.png", "6.png", "9.png"]


def test_labelled_sheet_unreadable_image_is_reported():
    labels = label_set([BOX] * 3)
    data = {record.name: encode_png(gray(1)[0]) for record in labels.records}
    data["1.png"] = b"x"

    sheet, failures = labelled_sheet(labels, MemoryImages(data), Layout(3, 1, (100, 80)), HeardProgress())

    assert len(failures) == 1 and failures[0].startswith("train.manifest:2: 1.png")
    assert sheet.shape[0] == 2 * 80
