"""Write a PDF: a title page, then pages of 15 images with their boxes and names."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Dict, Iterable, Optional, Sequence

import numpy as np
from PIL import Image, ImageDraw

from ssd_train.boxes import SizeWH
from ssd_train.data.structures import ClassNames, Detections, LabeledImage
from ssd_train.storage.atomic import open_atomic
from ssd_train.visualization import draw
from ssd_train.visualization.error_analysis import draw_scene, match
from ssd_train.visualization.report_data import Sample

COLUMNS, ROWS = 3, 5
# A4 at 160 dots per inch: letters of 6 points are 13 pixels high
DPI, PAGE_WH = 160.0, (1323, 1871)
CELL_WH: SizeWH = (424, 354)
_MARGIN = ((PAGE_WH[0] - COLUMNS * CELL_WH[0]) // 2, 36)
_SOFT: draw.RGB = (90, 102, 117)
_TEXT, _LINE = 25, 36


@dataclass(frozen=True)
class Page:
    """One image to show.

    Attributes:
        name: image name.
        image: draw.RGB uint8 (H, W, 3).
        detections: the detections.
        truth: the labels; None if unknown.
        note: text for the lower left corner.
    """

    name: str
    image: np.ndarray
    detections: Detections
    truth: Optional[LabeledImage] = None
    note: str = ""


@dataclass(frozen=True)
class TitlePage:
    """Content of the title page.

    Attributes:
        title: title.
        lines: lines below it, such as model and date.
        class_names: classes.
        threshold: lowest score of a box.
        has_truth: True if the images show labels.
    """

    title: str
    lines: Sequence[str]
    class_names: ClassNames
    threshold: float
    has_truth: bool = False


def write_pdf(path: Path, pages_of: Iterable[Page], front: TitlePage) -> None:
    """Write a PDF atomically, consuming `pages_of` page by page."""
    # in a temporary file, because Pillow reads the file to append a page, and `path` may be a pipe
    with open_atomic(path) as file, tempfile.NamedTemporaryFile(suffix=".pdf") as pdf:

        def add(page: np.ndarray, **options: Any) -> None:
            """Write a page.

            Each page has its own call, because Pillow holds all pages of a call in memory.
            """
            dates: Dict[str, Any] = {"creationDate": None, "modDate": None}  # equal pages give equal files
            Image.fromarray(page).save(pdf.name, "PDF", resolution=DPI, quality=86, subsampling=0, **dates, **options)

        add(title_page(front), title=front.title)
        remaining = iter(pages_of)
        groups = iter(lambda: list(islice(remaining, COLUMNS * ROWS)), [])
        for number, group in enumerate(groups, start=1):
            add(images_page(group, front.class_names, front.threshold, number), append=True)
        shutil.copyfileobj(pdf, file)


def images_page(group: Sequence[Page], class_names: ClassNames, threshold: float, number: int) -> np.ndarray:
    """Draw up to 15 images in rows from the top left.

    Cells have the same size on every page.

    Returns:
        draw.RGB of PAGE_WH.
    """
    # resized before drawing, so that lines and letters have the same size on all images
    drawn = [draw_page(page, class_names, threshold, draw.cell_content_size(CELL_WH)) for page in group]
    sheet = draw.contact_sheet(drawn, [_stem(page.name) for page in group], COLUMNS, CELL_WH)
    page = Image.new("RGB", PAGE_WH, draw.WHITE)
    page.paste(Image.fromarray(sheet), _MARGIN)
    pen = ImageDraw.Draw(page)
    pen.text((PAGE_WH[0] // 2, PAGE_WH[1] - 32), str(number), _SOFT, draw.any_font(str(number), 20), anchor="mm")
    return np.asarray(page)


def title_page(front: TitlePage) -> np.ndarray:
    """Draw title, lines, a legend of the boxes, and the classes with their colours.

    Returns:
        draw.RGB of PAGE_WH.
    """
    page = _TitleCanvas()
    page.write(front.title, 50, draw.DARK, after=20)
    for line in front.lines:
        page.write(line, _TEXT, _SOFT)
    page.skip(40)
    page.write(f"Solid boxes are detections that score {front.threshold:.3g} or more.", _TEXT, draw.DARK)
    if front.has_truth:
        page.write("Dashed white boxes are labels; missed objects carry their name.", _TEXT, draw.DARK)
    page.skip(40)
    page.write("Classes" if len(front.class_names) > 1 else "Class", 32, draw.DARK, after=12)
    shown = page.lines_left()
    names = list(front.class_names)
    for index, _ in enumerate(names[: shown if len(names) <= shown else shown - 1]):
        page.key(_class_line(front.class_names, index), draw.class_colour(index))
    if len(names) > shown:
        page.write(f"and {len(names) - shown + 1} more", _TEXT, _SOFT)
    return np.asarray(page.image)


class _TitleCanvas:
    """Page filled with lines of text from top to bottom."""

    _LEFT = 130

    def __init__(self) -> None:
        self.image = Image.new("RGB", PAGE_WH, draw.WHITE)
        self._pen = ImageDraw.Draw(self.image)
        self._y = 210

    def write(self, text: str, size: int, colour: draw.RGB, after: int = 0, indent: int = 0) -> None:
        """Write a line of text, truncated to the page.

        Args:
            text: the text.
            size: font size in pixels.
            colour: colour of the text.
            after: pixels to leave free below.
            indent: pixels from the left margin.
        """
        line = draw.shortened(" ".join(text.split()), size, PAGE_WH[0] - 2 * self._LEFT - indent)
        self._pen.text((self._LEFT + indent, self._y), line, colour, draw.any_font(line, size), anchor="la")
        self._y += round(size * _LINE / _TEXT) + after

    def key(self, text: str, colour: draw.RGB) -> None:
        """Write a line after a square of `colour`."""
        self._pen.rectangle((self._LEFT, self._y + 4, self._LEFT + 21, self._y + 25), fill=colour)
        self.write(text, _TEXT, draw.DARK, indent=38)

    def skip(self, height: int) -> None:
        """Leave `height` pixels free."""
        self._y += height

    def lines_left(self) -> int:
        """Return how many more lines of text fit."""
        return (PAGE_WH[1] - 120 - self._y) // _LINE


def _class_line(class_names: ClassNames, index: int) -> str:
    """Return the class name.

    If no font can draw it, return its number, as on the images, and its code points.
    """
    label, name = draw.class_label(class_names, index), class_names[index]
    return label if label != f"#{index}" else f"{label}  {name.encode('unicode_escape').decode('ascii')}"


def draw_page(page: Page, class_names: ClassNames, threshold: float, max_wh: SizeWH) -> np.ndarray:
    """Draw detections, labels and note on the image, resized to fit `max_wh`."""
    # enlarge small images before drawing, because letters that are enlarged later are illegible
    image = draw.fit_within(page.image, max_wh, enlarge=float("inf"))
    if page.truth is None:
        drawn = draw.draw_detections(image, page.detections, class_names, threshold)
    else:
        sample = Sample(page.name, image, page.truth, page.detections)
        drawn = draw_scene(sample, match(sample, threshold), class_names, max_wh)
    return draw.draw_note(drawn, page.note) if page.note else drawn


def _stem(name: str) -> str:
    """Return the file name without folders and suffix; `name` if that is empty."""
    return Path(name.rsplit("/", 1)[-1]).stem or name
