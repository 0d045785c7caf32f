"""A contact sheet of labelled images."""

from __future__ import annotations

import numpy as np
import pytest
from builders import HeardProgress, label_set, memory_images

from ssd_train.data.images import encode_png
from ssd_train.data.sources import MemoryImages
from ssd_train.errors import ConfigError, DataError
from ssd_train.view.sheet import Layout, labelled_sheet

BOX = [[8, 6, 32, 24]]


def gray(count, size_wh=(40, 30)):
    return [np.full((size_wh[1], size_wh[0], 3), 40, np.uint8)] * count


def test_sheet_has_rows_of_columns():
    labels = label_set([BOX] * 5)

    sheet, failures = labelled_sheet(labels, memory_images(labels), Layout(5, 2, (100, 80)), HeardProgress())

    assert sheet.shape == (3 * 80, 2 * 100, 3) and failures == []


@pytest.mark.parametrize("size_wh", [(40, 30), None], ids=["size-told", "size-not-told"])
@pytest.mark.parametrize("pixels_wh", [(40, 30), (1600, 1200)], ids=["small", "large"])
def test_boxes_are_where_they_belong(size_wh, pixels_wh):
    box = np.array(BOX) * pixels_wh[0] / 40
    labels = label_set([box.tolist()], size_wh=size_wh and pixels_wh)

    sheet, _ = labelled_sheet(
        labels, memory_images(labels, gray(1, pixels_wh)), Layout(1, 1, (400, 320)), HeardProgress()
    )

    rows, columns = np.nonzero((np.abs(sheet.astype(int) - 40) < 3).all(axis=2))
    picture = sheet[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    height, width = picture.shape[:2]
    rows, columns = np.nonzero(picture.mean(axis=2) > 250)  # the frame is white
    assert columns.min() == pytest.approx(width * 0.2, abs=3)
    assert columns.max() + 1 == pytest.approx(width * 0.8, abs=3)
    assert rows.min() == pytest.approx(height * 0.2, abs=3)


def test_images_are_spread_over_the_labels():
    labels = label_set([BOX] * 10)
    asked = []

    class Asked(MemoryImages):
        def read(self, record):
            asked.append(record.name)
            return super().read(record)

    images = Asked({record.name: encode_png(gray(1)[0]) for record in labels.records})
    labelled_sheet(labels, images, Layout(4, 2, (100, 80)), HeardProgress())

    assert asked == ["0.png", "3.png", "6.png", "9.png"]


def test_unreadable_images_are_told():
    labels = label_set([BOX] * 3)
    data = {record.name: encode_png(gray(1)[0]) for record in labels.records}
    data["1.png"] = b"x"

    sheet, failures = labelled_sheet(labels, MemoryImages(data), Layout(3, 1, (100, 80)), HeardProgress())

    assert len(failures) == 1 and failures[0].startswith("train.manifest:2: 1.png")
    assert sheet.shape[0] == 2 * 80


def test_no_readable_image_at_all():
    labels = label_set([BOX] * 2)

    with pytest.raises(DataError, match="none of 2 images can be read"):
        labelled_sheet(labels, MemoryImages({}), Layout(), HeardProgress())


@pytest.mark.parametrize(
    "layout, expected",
    [
        pytest.param(Layout(count=0), "at least 1 image", id="no-image"),
        pytest.param(Layout(columns=0), "1 column", id="no-column"),
        pytest.param(Layout(cell_wh=(63, 300)), "cells of 64 px", id="tiny-cells"),
        pytest.param(Layout(2, 1, (90000, 1000)), "in 180 Mpx", id="huge"),
    ],
)
def test_layouts_that_cannot_be(layout, expected):
    labels = label_set([BOX] * 2)

    with pytest.raises(ConfigError, match=expected):
        labelled_sheet(labels, memory_images(labels), layout, HeardProgress())
