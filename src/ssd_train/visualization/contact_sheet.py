"""A contact sheet of labelled images, to check labels by eye."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Tuple

import numpy as np

from ssd_train.boxes import SizeWH
from ssd_train.data.image_io import EncodedImage
from ssd_train.data.structures import ImageSource, LabeledImage, Labels
from ssd_train.errors import ConfigError, DataError
from ssd_train.progress import Progress
from ssd_train.visualization.draw import cell_content_size, contact_sheet, draw_labels, fit_within

MAX_PIXELS = 100_000_000


@dataclass(frozen=True)
class Layout:
    """Layout of a contact sheet: at most `count` images in rows of `columns`, in cells of `cell_wh` pixels."""

    count: int = 24
    columns: int = 4
    cell_wh: SizeWH = (360, 300)


def labelled_sheet(
    labels: Labels, images: ImageSource, layout: Layout, progress: Progress
) -> Tuple[np.ndarray, List[str]]:
    """Draw a contact sheet of images at even intervals of `labels`, with their boxes.

    Returns:
        The sheet, RGB uint8 (H, W, 3), and a message for each unreadable image.

    Raises:
        ConfigError: the layout has no images or columns, tiny cells, or more than MAX_PIXELS.
        DataError: none of the images can be read.
    """
    count = min(layout.count, len(labels))
    _check(layout, count)
    chosen = [labels.records[index] for index in np.linspace(0, len(labels) - 1, count).round().astype(int)]
    images_drawn, titles, failures = [], [], []
    for record in progress.track(chosen, count, "sheet"):
        try:
            images_drawn.append(_draw_image(record, labels, images, cell_content_size(layout.cell_wh)))
            titles.append(f"{record.basename} ({len(record.boxes)})")
        except DataError as error:
            failures.append(str(error))
    if not images_drawn:
        raise DataError(f"{failures[0]}; none of {count} images can be read")
    return contact_sheet(images_drawn, titles, min(layout.columns, count), layout.cell_wh), failures


def _check(layout: Layout, count: int) -> None:
    if layout.count < 1 or layout.columns < 1 or min(layout.cell_wh) < 64:
        raise ConfigError(f"sheet: found {layout}, expected at least 1 image, 1 column and cells of 64 px")
    pixels = -(-count // layout.columns) * layout.columns * layout.cell_wh[0] * layout.cell_wh[1]
    if pixels > MAX_PIXELS:
        raise ConfigError(
            f"sheet: found {count} images in {pixels / 1e6:.0f} Mpx, expected at most {MAX_PIXELS / 1e6:.0f} Mpx"
        )


def _draw_image(record: LabeledImage, labels: Labels, images: ImageSource, max_wh: SizeWH) -> np.ndarray:
    """Return the image with its boxes, resized to its cell first, so that lines and text have their final size."""
    encoded = EncodedImage(images.read(record), f"{record.where}: {images.locate(record)}")
    if record.size_wh is None:  # the boxes are in pixels of the full-size image
        image = encoded.decode()
        size_wh = (image.shape[1], image.shape[0])
        record = LabeledImage(record.name, record.boxes, record.class_ids, size_wh, record.where)
    else:
        image = encoded.decode_downscaled(max(max_wh), record.size_wh)
    return draw_labels(fit_within(image, max_wh, enlarge=float("inf")), record, labels.class_names)
