"""Boxes on a picture, and pictures on a sheet.

Pictures are RGB uint8 (H, W, 3) arrays; every function returns a new one and leaves its argument as it was. Detections
are solid lines in the colour of their class, name and score above; ground truth is a dashed white line, its name below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

import numpy as np
from PIL import Image, ImageDraw

from ssd_train.data.boxes import SizeWH
from ssd_train.data.records import ClassNames, Detections, Record
from ssd_train.errors import DataError
from ssd_train.view import fonts
from ssd_train.view.palette import DARK, RGB, WHITE, class_colour, ink_on

_HALO = (*DARK, 110)
_GAP = (*DARK, 170)
Area = Tuple[int, int, int, int]


@dataclass(frozen=True)
class BoxStyle:
    """How a box is drawn: `dashed` or solid; its label below the lower edge (`below`) or above the upper one."""

    dashed: bool = False
    below: bool = False


DETECTED = BoxStyle()
TRUE = BoxStyle(dashed=True, below=True)


def line_width(size_wh: SizeWH) -> int:
    """Thickness of a box in pixels for a picture of `size_wh`: 1 on a thumbnail, 2 at 480 px, 6 on a 2000 px photo."""
    return int(np.clip(round(max(size_wh) / 400 + 0.75), 1, 16))


def text_size(size_wh: SizeWH) -> int:
    """Height of the letters in pixels for a picture of `size_wh`."""
    return int(np.clip(round(max(size_wh) / 48 + 5), 9, 96))


def as_picture(image: np.ndarray) -> Image.Image:
    """`image` for Pillow, which copies before it draws; a DataError when it is no RGB uint8 (H, W, 3)."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise DataError(f"picture: found {image.dtype} {image.shape}, expected RGB uint8 (H, W, 3) with H, W > 0")
    return Image.fromarray(np.ascontiguousarray(image))


def class_label(class_names: ClassNames, class_id: int) -> str:
    """The name of a class, or ``#3`` where no font here can draw it or the class is unknown; a legend tells names."""
    number = f"#{class_id}"
    return fonts.drawable(class_names[class_id], number) if 0 <= class_id < len(class_names) else number


def draw_boxes(
    image: np.ndarray, boxes: np.ndarray, labels: Sequence[str], colours: Sequence[RGB], style: BoxStyle = DETECTED
) -> np.ndarray:
    """A new picture with `boxes` (N, 4) xyxy pixels of `image`, each with its label ("" for none) and colour.

    Labels stay inside the picture and, where there is room, off each other; the first boxes choose first.
    """
    if not len(boxes) == len(labels) == len(colours):
        raise DataError(
            f"draw: found {len(boxes)} boxes, {len(labels)} labels, {len(colours)} colours, expected as many"
        )
    canvas = _Canvas(as_picture(image))
    areas = [_pixel_edges(box, canvas.size_wh) for box in boxes]
    # last first, so that the first boxes (of the highest scores) lie on top
    for area, colour in reversed(list(zip(areas, colours))):
        canvas.frame(area, colour, style.dashed)
    for area, label, colour in zip(areas, labels, colours):
        if label:
            canvas.label(area, label, colour, style.below)
    return np.asarray(canvas.picture)


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
    canvas = _Canvas(as_picture(image))
    canvas.label((0, 0, 0, canvas.size_wh[1] - 1), note, WHITE, below=True)
    return np.asarray(canvas.picture)


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


def _pixel_edges(box: np.ndarray, size_wh: SizeWH) -> Area:
    """First and last pixel of a box, inside the picture; never less than one pixel."""
    (x1, y1, x2, y2), (width, height) = (round(float(v)) for v in box), size_wh
    left, top = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
    return left, top, max(left, min(x2, width) - 1), max(top, min(y2, height) - 1)


def _dashes(area: Area, width: int) -> List[Area]:
    """Dashes along the four sides of `area`, each starting at a corner so that corners are always drawn."""
    left, top, right, bottom = area
    dash, found = 4 * width + 2, []
    for start in range(left, right + 1, 2 * dash):
        end = min(start + dash - 1, right)
        found.append((start, top, end, min(top + width - 1, bottom)))
        found.append((right - (end - left), max(bottom - width + 1, top), right - (start - left), bottom))
    for start in range(top, bottom + 1, 2 * dash):
        end = min(start + dash - 1, bottom)
        found.append((left, bottom - (end - top), min(left + width - 1, right), bottom - (start - top)))
        found.append((max(right - width + 1, left), start, right, end))
    return found


def _overlap(a: Area, b: Area) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


class _Canvas:
    """A picture being drawn on, and the places its labels have taken."""

    def __init__(self, picture: Image.Image) -> None:
        self.picture = picture
        self.size_wh: SizeWH = picture.size
        self.pen = ImageDraw.Draw(picture, "RGBA")
        self.taken: List[Area] = []

    def frame(self, area: Area, colour: RGB, dashed: bool) -> None:
        """A frame inside `area` between two thin dark ones, so that it shows on light and dark ground alike."""
        width = line_width(self.size_wh)
        left, top, right, bottom = area
        self.pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=_HALO)
        inner = (left + width, top + width, right - width, bottom - width)
        if inner[0] < inner[2] and inner[1] < inner[3]:
            self.pen.rectangle(inner, outline=_HALO)
        # dark between white dashes: one of the two shows on any ground
        self.pen.rectangle(area, outline=_GAP if dashed else colour, width=width)
        for dash in _dashes(area, width) if dashed else ():
            self.pen.rectangle(dash, fill=colour)

    def label(self, area: Area, text: str, colour: RGB, below: bool) -> None:
        """The label of a box at the best free place inside the picture."""
        size = text_size(self.size_wh)
        padding = max(1, size // 6)
        text = fonts.shortened(text, size, self.size_wh[0] - 2 * padding)
        width, height = fonts.text_wh(text, size)
        place = self._place(area, (width + 2 * padding, height), below)
        self.pen.rectangle(place, fill=(*colour, 225))
        self.pen.text((place[0] + padding, place[1]), text, ink_on(colour), fonts.any_font(text, size), anchor="la")
        self.taken.append(place)

    def _place(self, area: Area, label_wh: SizeWH, below: bool) -> Area:
        """Outside the edge, inside it, or at the opposite edge: the first free place, else the first in the picture."""
        width, height = self.size_wh
        left = max(0, min(area[0], width - label_wh[0]))
        tops = [area[1] - label_wh[1], area[1], area[3] + 1, area[3] + 1 - label_wh[1]]
        tops = tops[2:] + tops[:2] if below else tops
        inside = [top for top in tops if 0 <= top <= height - label_wh[1]]
        # a picture lower than a line of text: the label begins at its top
        places = [(left, top, left + label_wh[0] - 1, top + label_wh[1] - 1) for top in inside or [0]]
        free = [place for place in places if not any(_overlap(place, other) for other in self.taken)]
        return (free or places)[0]
