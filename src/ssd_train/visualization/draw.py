"""Draw boxes on images, and images on a contact sheet.

Images are RGB uint8 (H, W, 3) arrays; every function returns a new one and does not modify its arguments. Detections
are solid lines in the colour of their class with name and score above; false positives, where labels tell them, are
dotted and their names stand on black behind a cross; labels are dashed white lines with the name below.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from PIL import Image, ImageDraw

from ssd_train.boxes import SizeWH
from ssd_train.data.structures import ClassNames, Detections, LabeledImage
from ssd_train.errors import DataError
from ssd_train.visualization import fonts

RGB = Tuple[int, int, int]

WHITE: RGB = (255, 255, 255)
DARK: RGB = (17, 24, 32)

# neighbours in the list differ most; without Okabe and Ito's black, which is invisible on dark images
CLASS_COLOURS: Tuple[RGB, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (204, 121, 167),
    (240, 228, 66),
    (213, 94, 0),
    (0, 114, 178),
)


def class_colour(class_id: int) -> RGB:
    """Return the colour of a class; colours repeat after seven classes."""
    return CLASS_COLOURS[class_id % len(CLASS_COLOURS)]


def text_colour_on(colour: RGB) -> RGB:
    """Return DARK or WHITE, whichever contrasts more with `colour` (luma of ITU-R BT.601)."""
    red, green, blue = colour
    return DARK if 0.299 * red + 0.587 * green + 0.114 * blue > 120 else WHITE


_HALO = (*DARK, 110)
_GAP = (*DARK, 170)
_TINT = 50  # opacity of marked boxes, of 255
Area = Tuple[int, int, int, int]  # pixels, inclusive: left, top, right, bottom


def line_width(size_wh: SizeWH) -> int:
    """Return the line width of boxes in pixels: 1 on a thumbnail, 2 at 480 px, 6 at 2000 px."""
    return int(np.clip(round(max(size_wh) / 400 + 0.75), 1, 16))


def text_size(size_wh: SizeWH) -> int:
    """Return the font size in pixels for an image of `size_wh`."""
    return int(np.clip(round(max(size_wh) / 42 + 6), 9, 96))


def to_pil(image: np.ndarray) -> Image.Image:
    """Convert an RGB uint8 (H, W, 3) array to a Pillow image; raise a DataError for any other array."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise DataError(f"picture: found {image.dtype} {image.shape}, expected RGB uint8 (H, W, 3) with H, W > 0")
    return Image.fromarray(np.ascontiguousarray(image))


def pixel_edges(box: np.ndarray, size_wh: SizeWH) -> Area:
    """Return the pixels of an xyxy box, clipped to the image and at least one pixel in size."""
    (x1, y1, x2, y2), (width, height) = (round(float(v)) for v in box), size_wh
    left, top = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
    return left, top, max(left, min(x2, width) - 1), max(top, min(y2, height) - 1)


def _dashes(area: Area, width: int, dash: int) -> List[Area]:
    """Return dashes of length `dash` along the sides of `area`, starting at corners so that these are always drawn."""
    left, top, right, bottom = area
    dashes = []
    for start in range(left, right + 1, 2 * dash):
        end = min(start + dash - 1, right)
        dashes.append((start, top, end, min(top + width - 1, bottom)))
        dashes.append((right - (end - left), max(bottom - width + 1, top), right - (start - left), bottom))
    for start in range(top, bottom + 1, 2 * dash):
        end = min(start + dash - 1, bottom)
        dashes.append((left, bottom - (end - top), min(left + width - 1, right), bottom - (start - top)))
        dashes.append((max(right - width + 1, left), start, right, end))
    return dashes


def _overlap(a: Area, b: Area) -> int:
    """Return the number of pixels that two areas share."""
    across, down = min(a[2], b[2]) - max(a[0], b[0]) + 1, min(a[3], b[3]) - max(a[1], b[1]) + 1
    return max(across, 0) * max(down, 0)


class BoxStyle(enum.Enum):
    """Line of a box and place of its label."""

    DETECTION = "a solid line, the label above the upper edge"
    FALSE = "a dotted line, the label on black above the upper edge: a false positive"
    TRUTH = "a line of long dashes, the label below the lower edge"


DETECTION_STYLE, FALSE_STYLE, TRUTH_STYLE = BoxStyle


class _Label(NamedTuple):
    area: Area
    text: str
    colour: RGB
    style: BoxStyle


class Canvas:
    """A copy of an image to draw on. Labels are drawn last, so that no box line crosses a label."""

    def __init__(self, image: np.ndarray) -> None:
        self._image = to_pil(image)
        self.size_wh: SizeWH = self._image.size
        self._draw = ImageDraw.Draw(self._image, "RGBA")
        self._text_size = text_size(self.size_wh)
        self._padding = max(1, self._text_size // 6)
        self._labels: List[_Label] = []

    def frame(self, area: Area, colour: RGB, style: BoxStyle, marked: bool = False) -> None:
        """Draw a box line inside `area` between two thin dark lines, visible on light and dark backgrounds.

        The inside of a marked box is tinted, and its line is twice as wide.
        """
        width = line_width(self.size_wh) * (2 if marked else 1)
        left, top, right, bottom = area
        if marked:
            self._draw.rectangle(area, fill=(*colour, _TINT))
        self._draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=_HALO)
        inner = (left + width, top + width, right - width, bottom - width)
        if inner[0] < inner[2] and inner[1] < inner[3]:
            self._draw.rectangle(inner, outline=_HALO)
        # dark between white dashes: one of the two is visible on any background
        broken = style is not DETECTION_STYLE
        self._draw.rectangle(area, outline=_GAP if broken else colour, width=width)
        for dash in _dashes(area, width, 4 * width + 2 if style is TRUTH_STYLE else 2 * width) if broken else ():
            self._draw.rectangle(dash, fill=colour)

    def label(self, area: Area, text: str, colour: RGB, style: BoxStyle = DETECTION_STYLE) -> None:
        """Place the label of the box `area` where it covers the least of earlier labels; `render` draws it."""
        text = fonts.shortened(text, self._text_size, self.size_wh[0] - 2 * self._padding)
        width, height = fonts.text_wh(text, self._text_size)
        position = self._position(area, (width + 2 * self._padding, height), style is TRUTH_STYLE)
        self._labels.append(_Label(position, text, colour, style))

    def render(self) -> np.ndarray:
        """Draw the labels and return the image, RGB uint8 (H, W, 3)."""
        for area, text, colour, style in reversed(self._labels):  # of overlapping labels, the first is on top
            back = DARK if style is FALSE_STYLE else colour
            self._draw.rectangle(area, fill=(*back, 225), outline=colour if style is FALSE_STYLE else None)
            font = fonts.any_font(text, self._text_size)
            self._draw.text((area[0] + self._padding, area[1]), text, text_colour_on(back), font, anchor="la")
        return np.asarray(self._image)

    def _position(self, area: Area, label_wh: SizeWH, below: bool) -> Area:
        """Return the first candidate area inside the image that covers the least of other labels.

        Candidates lie outside and inside the box's upper and lower edge, aligned to its left or right side.
        """
        max_left, max_top = self.size_wh[0] - label_wh[0], self.size_wh[1] - label_wh[1]
        tops = [area[1] - label_wh[1], area[1], area[3] + 1, area[3] + 1 - label_wh[1]]
        tops = tops[2:] + tops[:2] if below else tops
        # an image lower than a line of text: the label begins at its top
        inside = [top for top in tops if 0 <= top <= max_top] or [0]
        lefts = [max(0, min(left, max_left)) for left in (area[0], area[2] + 1 - label_wh[0])]
        corners = [(left, top) for left in lefts for top in inside]
        candidates = [(left, top, left + label_wh[0] - 1, top + label_wh[1] - 1) for left, top in corners]
        return min(candidates, key=lambda area: sum(_overlap(area, other.area) for other in self._labels))


def class_label(class_names: ClassNames, class_id: int) -> str:
    """Return the class name, or e.g. ``#3`` if no installed font can draw it or the class id has no name."""
    number = f"#{class_id}"
    return fonts.drawable(class_names[class_id], number) if 0 <= class_id < len(class_names) else number


@dataclass(frozen=True)
class BoxLabels:
    """Boxes to draw in one style, the most important first.

    Attributes:
        boxes: (N, 4) xyxy pixels of the image.
        labels: text of each box, "" for none.
        colours: colour of each box.
        style: line and label position.
        marked: boxes to emphasise, bool (N,); None: none.
    """

    boxes: np.ndarray
    labels: Sequence[str]
    colours: Sequence[RGB]
    style: BoxStyle = DETECTION_STYLE
    marked: Optional[np.ndarray] = None


def draw_marks(image: np.ndarray, *layers: BoxLabels) -> np.ndarray:
    """Return a copy with the boxes of all `layers`; the first layer, and in it the first box, is on top.

    Labels lie inside the image and above all box lines, and avoid each other if there is space. They are placed in the
    same order.
    """
    canvas = Canvas(image)
    marks = [
        (pixel_edges(box, canvas.size_wh), label, colour, layer.style, layer.marked is not None and layer.marked[index])
        for layer in layers
        for index, (box, label, colour) in enumerate(zip(layer.boxes, layer.labels, layer.colours))
    ]
    for area, _, colour, style, marked in reversed(marks):
        canvas.frame(area, colour, style, bool(marked))
    for area, label, colour, style, _ in sorted(marks, key=lambda mark: not mark[4]):  # marked boxes choose first
        if label:
            canvas.label(area, label, colour, style)
    return canvas.render()


def draw_detections(image: np.ndarray, detections: Detections, class_names: ClassNames, threshold: float) -> np.ndarray:
    """Return a copy with the detections of at least `threshold`, scaled to the size of `image`."""
    shown = detections.above(threshold)
    ids = [int(class_id) for class_id in shown.class_ids]
    labels = [f"{class_label(class_names, class_id)} {score:.2f}" for class_id, score in zip(ids, shown.scores)]
    boxes = scaled(shown.boxes, shown.size_wh, size_of(image))
    return draw_marks(image, BoxLabels(boxes, labels, [class_colour(class_id) for class_id in ids]))


def draw_labels(image: np.ndarray, record: LabeledImage, class_names: ClassNames) -> np.ndarray:
    """Return a copy with the labelled boxes and their names in the colours of their classes."""
    labels = [class_label(class_names, int(c)) for c in record.class_ids]
    boxes = scaled(record.boxes, record.size_wh, size_of(image))
    return draw_marks(image, BoxLabels(boxes, labels, [class_colour(int(c)) for c in record.class_ids]))


def draw_note(image: np.ndarray, note: str) -> np.ndarray:
    """Return a copy with a line of text in the lower left corner."""
    canvas = Canvas(image)
    canvas.label((0, 0, 0, canvas.size_wh[1] - 1), note, WHITE, TRUTH_STYLE)
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


def fit_within(image: np.ndarray, max_wh: SizeWH, enlarge: float = 1.0) -> np.ndarray:
    """Resize an image to fit into `max_wh`, keeping its aspect ratio and enlarging at most by `enlarge`."""
    resized = to_pil(image)
    factor = min(enlarge, max_wh[0] / resized.width, max_wh[1] / resized.height)
    if factor == 1.0:
        return np.asarray(resized)
    size_wh = (max(1, round(resized.width * factor)), max(1, round(resized.height * factor)))
    return np.asarray(resized.resize(size_wh, Image.Resampling.LANCZOS, reducing_gap=3.0))


def cell_content_size(cell_wh: SizeWH) -> SizeWH:
    """Return (width, height) of a contact sheet cell without title and margins."""
    margin, size = _cell_margin(cell_wh), _title_size(cell_wh)
    return cell_wh[0] - 2 * margin, cell_wh[1] - 3 * margin - fonts.text_wh("Ag", size)[1]


def contact_sheet(images: Sequence[np.ndarray], titles: Sequence[str], columns: int, cell_wh: SizeWH) -> np.ndarray:
    """Return a white sheet with the images in rows of `columns`, each in a cell of `cell_wh` pixels below its title.

    Without images the sheet is one empty row.
    """
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
    content_wh = cell_content_size(cell_wh)
    line = fonts.shortened(" ".join(title.split()), size, content_wh[0])
    draw = ImageDraw.Draw(sheet)
    draw.text((origin[0] + cell_wh[0] // 2, origin[1] + margin), line, DARK, fonts.any_font(line, size), anchor="ma")
    resized = Image.fromarray(fit_within(image, content_wh, enlarge=float("inf")))
    left = origin[0] + (cell_wh[0] - resized.width) // 2
    sheet.paste(
        resized, (left, origin[1] + cell_wh[1] - margin - content_wh[1] + (content_wh[1] - resized.height) // 2)
    )
