"""Boxes on a picture, and pictures on a sheet.

Pictures are RGB uint8 (H, W, 3) arrays; every function returns a new one and leaves its argument as it was. Detections
are solid lines in the colour of their class, name and score above; ground truth is a dashed white line, its name below.
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
    """How a box is drawn: `dashed` or solid; its label below the lower edge (`below`) or above the upper one."""

    dashed: bool = False
    below: bool = False


DETECTED = BoxStyle()
TRUE = BoxStyle(dashed=True, below=True)


def class_label(class_names: ClassNames, class_id: int) -> str:
    """The name of a class, or ``#3`` where no font here can draw it or the class is unknown; a legend tells names."""
    number = f"#{class_id}"
    return fonts.drawable(class_names[class_id], number) if 0 <= class_id < len(class_names) else number


@dataclass(frozen=True)
class Marks:
    """Boxes (N, 4) xyxy pixels of a picture, each with its label ("" for none) and colour, drawn in one style; the
    first ones are the most important."""

    boxes: np.ndarray
    labels: Sequence[str]
    colours: Sequence[RGB]
    style: BoxStyle = DETECTED

    def __post_init__(self) -> None:
        if not len(self.boxes) == len(self.labels) == len(self.colours):
            raise DataError(
                f"draw: found {len(self.boxes)} boxes, {len(self.labels)} labels, {len(self.colours)} colours, "
                "expected as many"
            )


def draw_marks(image: np.ndarray, *layers: Marks) -> np.ndarray:
    """A new picture with the boxes of all `layers`, the first layer on top and within it the first box.

    Labels stay inside the picture, lie over all frames and, where there is room, off each other; they choose their
    places in that order, too.
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
    return canvas.finished()


def draw_boxes(
    image: np.ndarray, boxes: np.ndarray, labels: Sequence[str], colours: Sequence[RGB], style: BoxStyle = DETECTED
) -> np.ndarray:
    """A new picture with one layer of Marks, see there and `draw_marks`."""
    return draw_marks(image, Marks(boxes, labels, colours, style))


def draw_detections(image: np.ndarray, detections: Detections, class_names: ClassNames, threshold: float) -> np.ndarray:
    """A new picture with the detections that score at least `threshold`, scaled where the picture was resized."""
    shown = detections.above(threshold)
    ids = [int(class_id) for class_id in shown.class_ids]
    labels = [f"{class_label(class_names, class_id)} {score:.2f}" for class_id, score in zip(ids, shown.scores)]
    boxes = scaled(shown.boxes, shown.size_wh, size_of(image))
    return draw_boxes(image, boxes, labels, [class_colour(class_id) for class_id in ids])


def draw_truth(
    image: np.ndarray, record: Record, class_names: ClassNames, labelled: Optional[Sequence[bool]] = None
) -> np.ndarray:
    """A new picture with the true boxes, dashed and white, named where `labelled` (N,) says so (None: all)."""
    wanted = [True] * len(record.boxes) if labelled is None else labelled
    labels = [class_label(class_names, int(c)) if named else "" for c, named in zip(record.class_ids, wanted)]
    boxes = scaled(record.boxes, record.size_wh, size_of(image))
    return draw_boxes(image, boxes, labels, [WHITE] * len(labels), TRUE)


def draw_note(image: np.ndarray, note: str) -> np.ndarray:
    """A new picture with a line of text in its lower left corner."""
    canvas = Canvas(image)
    canvas.label((0, 0, 0, canvas.size_wh[1] - 1), note, WHITE, below=True)
    return canvas.finished()


def scaled(boxes: np.ndarray, from_wh: Optional[SizeWH], to_wh: SizeWH) -> np.ndarray:
    """Boxes (N, 4) of an image of `from_wh` (None: of `to_wh` already) in pixels of the same image at `to_wh`."""
    if from_wh is None or tuple(from_wh) == tuple(to_wh):
        return boxes
    across, down = to_wh[0] / from_wh[0], to_wh[1] / from_wh[1]
    return boxes * np.array([across, down, across, down], dtype=np.float32)


def size_of(image: np.ndarray) -> SizeWH:
    """(width, height) of a picture (H, W, 3)."""
    return image.shape[1], image.shape[0]


def fitted(image: np.ndarray, room_wh: SizeWH, enlarge: float = 1.0) -> np.ndarray:
    """The picture, in its own proportions, as large as `room_wh` allows; enlarged at most by the factor `enlarge`."""
    picture = as_picture(image)
    factor = min(enlarge, room_wh[0] / picture.width, room_wh[1] / picture.height)
    if factor == 1.0:
        return np.asarray(picture)
    size_wh = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return np.asarray(picture.resize(size_wh, Image.Resampling.LANCZOS, reducing_gap=3.0))


def cell_room(cell_wh: SizeWH) -> SizeWH:
    """(width, height) that a picture has in a cell of a contact sheet, below its title and inside the margins."""
    margin, size = _cell_margin(cell_wh), _title_size(cell_wh)
    return cell_wh[0] - 2 * margin, cell_wh[1] - 3 * margin - fonts.text_wh("Ag", size)[1]


def contact_sheet(images: Sequence[np.ndarray], titles: Sequence[str], columns: int, cell_wh: SizeWH) -> np.ndarray:
    """Pictures in rows of `columns`, each fitted into a cell of `cell_wh` pixels with its title above, on white.

    The last row may be short: its cells stay white. No picture at all gives one empty row.
    """
    if len(images) != len(titles) or columns < 1 or min(cell_wh) < 16:
        raise DataError(
            f"contact sheet: found {len(images)} pictures, {len(titles)} titles, {columns} columns, cells {cell_wh}, "
            "expected as many titles as pictures, at least 1 column and 16 px"
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
    """One picture, as large as fits and centred below its title."""
    image, title = content
    margin, size = _cell_margin(cell_wh), _title_size(cell_wh)
    room = cell_room(cell_wh)
    line = fonts.shortened(" ".join(title.split()), size, room[0])
    pen = ImageDraw.Draw(sheet)
    pen.text((origin[0] + cell_wh[0] // 2, origin[1] + margin), line, DARK, fonts.any_font(line, size), anchor="ma")
    picture = Image.fromarray(fitted(image, room, enlarge=float("inf")))
    left = origin[0] + (cell_wh[0] - picture.width) // 2
    sheet.paste(picture, (left, origin[1] + cell_wh[1] - margin - room[1] + (room[1] - picture.height) // 2))
