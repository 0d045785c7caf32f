"""Draw boxes on images, and images on a contact sheet.

Images are RGB uint8 (H, W, 3) arrays; every function returns a new one and does not modify its arguments. Detections
are solid lines in the colour of their class with name and score above; false positives, where labels tell them, are
dotted and their names stand on black behind a cross; labels are dashed white lines with the name below.
"""

from __future__ import annotations

import enum
import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import PIL
from PIL import Image, ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont

from ssd_train.boxes import SizeWH
from ssd_train.data.image_io import EncodedImage
from ssd_train.data.structures import ClassNames, Detections, ImageSource, LabeledImage, Labels
from ssd_train.errors import ConfigError, DataError, DependencyError
from ssd_train.progress import Progress

# Pillow searches the system's font folders for these names. The first covers Latin, Greek and Cyrillic, the others
# Chinese, Japanese and Korean on Linux, Windows and macOS; none is required.
FONT_FILES: Tuple[str, ...] = (
    "DejaVuSans.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "NanumGothic.ttf",
    "msyh.ttc",
    "malgun.ttf",
    "Arial Unicode.ttf",
)
# an unassigned code point: fonts draw their "missing glyph" box for it
_UNASSIGNED = "\U0010fffd"


def _matplotlib_font(name: str) -> Optional[Path]:
    """Return the path of a font bundled with matplotlib, without importing it (half a second)."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / name
    return path if path.is_file() else None


@lru_cache(maxsize=None)
def _font_paths() -> Tuple[str, ...]:
    """Return the paths of those FONT_FILES that are installed."""
    paths = []
    for name in FONT_FILES:
        try:
            paths.append(str(ImageFont.truetype(name, 12).path))
        except OSError:
            bundled = _matplotlib_font(name)
            if bundled:
                paths.append(str(bundled))
    return tuple(paths)


@lru_cache(maxsize=64)
def _fonts(size: int) -> Tuple[FreeTypeFont, ...]:
    return tuple(ImageFont.truetype(path, size) for path in _font_paths()) or (_built_in(size),)


def _built_in(size: int) -> FreeTypeFont:
    """Return the font bundled with Pillow, which has little more than ASCII."""
    try:
        font = ImageFont.load_default(size)
    except TypeError:  # before Pillow 10.1 it had a fixed size
        font = None
    if not isinstance(font, FreeTypeFont):
        raise DependencyError(
            f"Pillow {PIL.__version__}: found no font for text on images, "
            f"expected {FONT_FILES[0]} or matplotlib to be installed, or Pillow 10.1 or newer with FreeType"
        )
    return font


@lru_cache(maxsize=4096)
def _has_glyph(font: FreeTypeFont, character: str) -> bool:
    return character.isspace() or bytes(font.getmask(character)) != bytes(font.getmask(_UNASSIGNED))


@lru_cache(maxsize=4096)
def font_for(text: str, size: int) -> Optional[FreeTypeFont]:
    """Return the first font of `size` pixels with every glyph of `text`; None if there is none."""
    for font in _fonts(size):
        if all(_has_glyph(font, character) for character in set(text)):
            return font
    return None


def drawable(text: str, fallback: str) -> str:
    """Return `text` on one line if an installed font has its glyphs, else `fallback` (ASCII, e.g. ``#3``)."""
    line = " ".join(text.split())
    return line if line and line.isprintable() and font_for(line, 12) else fallback


def any_font(text: str, size: int) -> FreeTypeFont:
    """Return the font for `text`, or the first font if none has all its glyphs (they are drawn as empty boxes)."""
    return font_for(text, size) or _fonts(size)[0]


def text_wh(text: str, size: int) -> Tuple[int, int]:
    """Return the width of `text` and the line height at `size`, in pixels."""
    font = any_font(text, size)
    ascent, descent = font.getmetrics()
    return int(font.getlength(text) + 0.999), ascent + descent


def shortened(text: str, size: int, max_width: int) -> str:
    """Return `text` cut with an ellipsis to at most `max_width` pixels; "" if not even one letter fits."""
    if text_wh(text, size)[0] <= max_width:
        return text
    # bisection for the longest prefix that fits: widths grow with the length
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        fits = text_wh(text[:middle].rstrip() + "…", size)[0] <= max_width
        low, high = (middle, high) if fits else (low, middle - 1)
    return text[:low].rstrip() + "…" if low else ""


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
        text = shortened(text, self._text_size, self.size_wh[0] - 2 * self._padding)
        width, height = text_wh(text, self._text_size)
        position = self._position(area, (width + 2 * self._padding, height), style is TRUTH_STYLE)
        self._labels.append(_Label(position, text, colour, style))

    def render(self) -> np.ndarray:
        """Draw the labels and return the image, RGB uint8 (H, W, 3)."""
        for area, text, colour, style in reversed(self._labels):  # of overlapping labels, the first is on top
            back = DARK if style is FALSE_STYLE else colour
            self._draw.rectangle(area, fill=(*back, 225), outline=colour if style is FALSE_STYLE else None)
            font = any_font(text, self._text_size)
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
    return drawable(class_names[class_id], number) if 0 <= class_id < len(class_names) else number


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
    return cell_wh[0] - 2 * margin, cell_wh[1] - 3 * margin - text_wh("Ag", size)[1]


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
    line = shortened(" ".join(title.split()), size, content_wh[0])
    draw = ImageDraw.Draw(sheet)
    draw.text((origin[0] + cell_wh[0] // 2, origin[1] + margin), line, DARK, any_font(line, size), anchor="ma")
    resized = Image.fromarray(fit_within(image, content_wh, enlarge=float("inf")))
    left = origin[0] + (cell_wh[0] - resized.width) // 2
    sheet.paste(
        resized, (left, origin[1] + cell_wh[1] - margin - content_wh[1] + (content_wh[1] - resized.height) // 2)
    )


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
