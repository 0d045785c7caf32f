"""Draw boxes on images, and images on a contact sheet.

Images are RGB uint8 (H, W, 3) arrays; every function returns a new one and does not modify its arguments. Detections
are solid lines in the colour of their class with name and score above; labels are dashed white lines with the name
below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

import numpy as np
from PIL import Image, ImageDraw

from ssd_train.data.boxes import SizeWH
from ssd_train.data.records import ClassNames, Detections, Record
from ssd_train.errors import DataError
from ssd_train.view import fonts
from ssd_train.view.canvas import Canvas, as_picture, pixel_edges
from ssd_train.view.palette import DARK, RGB, WHITE, class_colour


@dataclass(frozen=True)
class BoxStyle:
    """A dashed or solid line, and the label below the lower edge or above the upper edge."""

    dashed: bool = False
    below: bool = False


DETECTION_STYLE = BoxStyle()
TRUTH_STYLE = BoxStyle(dashed=True, below=True)


def class_label(class_names: ClassNames, class_id: int) -> str:
    """Return the class name, or e.g. ``#3`` if no installed font can draw it or the class id has no name."""
    number = f"#{class_id}"
    return fonts.drawable(class_names[class_id], number) if 0 <= class_id < len(class_names) else number


@dataclass(frozen=True)
class Marks:
    """Boxes to draw in one style, the most important first.

    Attributes:
        boxes: (N, 4) xyxy pixels of the image.
        labels: text of each box, "" for none.
        colours: colour of each box.
        style: line and label position.
    """

    boxes: np.ndarray
    labels: Sequence[str]
    colours: Sequence[RGB]
    style: BoxStyle = DETECTION_STYLE

    def __post_init__(self) -> None:
        if not len(self.boxes) == len(self.labels) == len(self.colours):
            raise DataError(
                f"draw: found {len(self.boxes)} boxes, {len(self.labels)} labels, {len(self.colours)} colours, "
                "expected the same number of each"
            )


def draw_marks(image: np.ndarray, *layers: Marks) -> np.ndarray:
    """Return a copy with the boxes of all `layers`; the first layer, and in it the first box, is on top.

    Labels lie inside the image and above all box lines, and avoid each other if there is space. They are placed in the
    same order.
    """
    canvas = Canvas(image)
    marks = [
        (pixel_edges(box, canvas.size_wh), label, colour, layer.style)
        for layer in layers
        for box, label, colour in zip(layer.boxes, layer.labels, layer.colours)
    ]
    for area, _, colour, style in reversed(marks):
        canvas.frame(area, colour, style.dashed)
    for area, label, colour, style in marks:
        if label:
            canvas.label(area, label, colour, style.below)
    return canvas.render()


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[str],
    colours: Sequence[RGB],
    style: BoxStyle = DETECTION_STYLE,
) -> np.ndarray:
    """Return a copy with one layer of boxes; see `Marks` and `draw_marks`."""
    return draw_marks(image, Marks(boxes, labels, colours, style))


def draw_detections(image: np.ndarray, detections: Detections, class_names: ClassNames, threshold: float) -> np.ndarray:
    """Return a copy with the detections of at least `threshold`, scaled to the size of `image`."""
    shown = detections.above(threshold)
    ids = [int(class_id) for class_id in shown.class_ids]
    labels = [f"{class_label(class_names, class_id)} {score:.2f}" for class_id, score in zip(ids, shown.scores)]
    boxes = scaled(shown.boxes, shown.size_wh, size_of(image))
    return draw_boxes(image, boxes, labels, [class_colour(class_id) for class_id in ids])


def draw_truth(
    image: np.ndarray, record: Record, class_names: ClassNames, labelled: Optional[Sequence[bool]] = None
) -> np.ndarray:
    """Return a copy with the labelled boxes, with class names where `labelled` (N,) is true (None: everywhere)."""
    mask = [True] * len(record.boxes) if labelled is None else labelled
    labels = [class_label(class_names, int(c)) if named else "" for c, named in zip(record.class_ids, mask)]
    boxes = scaled(record.boxes, record.size_wh, size_of(image))
    return draw_boxes(image, boxes, labels, [WHITE] * len(labels), TRUTH_STYLE)


def draw_note(image: np.ndarray, note: str) -> np.ndarray:
    """Return a copy with a line of text in the lower left corner."""
    canvas = Canvas(image)
    canvas.label((0, 0, 0, canvas.size_wh[1] - 1), note, WHITE, below=True)
    return canvas.render()


def scaled(boxes: np.ndarray, from_wh: Optional[SizeWH], to_wh: SizeWH) -> np.ndarray:
    """Scale boxes (N, 4) from an image of `from_wh` to the same image at `to_wh`; None leaves them unchanged."""
    if from_wh is None or tuple(from_wh) == tuple(to_wh):
        return boxes
    x_scale, y_scale = to_wh[0] / from_wh[0], to_wh[1] / from_wh[1]
    return boxes * np.array([x_scale, y_scale, x_scale, y_scale], dtype=np.float32)


def size_of(image: np.ndarray) -> SizeWH:
    """Return (width, height) of an image (H, W, 3)."""
    return image.shape[1], image.shape[0]


def fitted(image: np.ndarray, room_wh: SizeWH, enlarge: float = 1.0) -> np.ndarray:
    """Resize an image to fit into `room_wh`, keeping its aspect ratio and enlarging at most by `enlarge`."""
    picture = as_picture(image)
    factor = min(enlarge, room_wh[0] / picture.width, room_wh[1] / picture.height)
    if factor == 1.0:
        return np.asarray(picture)
    size_wh = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return np.asarray(picture.resize(size_wh, Image.Resampling.LANCZOS, reducing_gap=3.0))


def cell_room(cell_wh: SizeWH) -> SizeWH:
    """Return (width, height) of a contact sheet cell without title and margins."""
    margin, size = _cell_margin(cell_wh), _title_size(cell_wh)
    return cell_wh[0] - 2 * margin, cell_wh[1] - 3 * margin - fonts.text_wh("Ag", size)[1]


def contact_sheet(images: Sequence[np.ndarray], titles: Sequence[str], columns: int, cell_wh: SizeWH) -> np.ndarray:
    """Return a white sheet with the images in rows of `columns`, each in a cell of `cell_wh` pixels below its title.

    Without images the sheet is one empty row.
    """
    if len(images) != len(titles) or columns < 1 or min(cell_wh) < 16:
        raise DataError(
            f"contact sheet: found {len(images)} images, {len(titles)} titles, {columns} columns, cells {cell_wh}, "
            "expected one title per image, at least 1 column and cells of 16 px"
        )
    rows = max(1, -(-len(images) // columns))
    sheet = Image.new("RGB", (columns * cell_wh[0], rows * cell_wh[1]), WHITE)
    for index, (image, title) in enumerate(zip(images, titles)):
        origin = (index % columns * cell_wh[0], index // columns * cell_wh[1])
        _fill_cell(sheet, origin, cell_wh, (image, title))
    return np.asarray(sheet)


def _cell_margin(cell_wh: SizeWH) -> int:
    return max(2, min(cell_wh) // 40)


def _title_size(cell_wh: SizeWH) -> int:
    return int(np.clip(cell_wh[1] // 20, 8, 40))


def _fill_cell(sheet: Image.Image, origin: Tuple[int, int], cell_wh: SizeWH, content: Tuple[np.ndarray, str]) -> None:
    """Paste an image into its cell, as large as fits and centred below its title."""
    image, title = content
    margin, size = _cell_margin(cell_wh), _title_size(cell_wh)
    content_wh = cell_room(cell_wh)
    line = fonts.shortened(" ".join(title.split()), size, content_wh[0])
    draw = ImageDraw.Draw(sheet)
    draw.text((origin[0] + cell_wh[0] // 2, origin[1] + margin), line, DARK, fonts.any_font(line, size), anchor="ma")
    picture = Image.fromarray(fitted(image, content_wh, enlarge=float("inf")))
    left = origin[0] + (cell_wh[0] - picture.width) // 2
    sheet.paste(
        picture, (left, origin[1] + cell_wh[1] - margin - content_wh[1] + (content_wh[1] - picture.height) // 2)
    )
