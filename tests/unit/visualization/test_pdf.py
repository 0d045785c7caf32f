"""The PDF: as many pages as it takes, each picture in its own cell on the last page too, nothing left on failure."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.data import cell_of, pdf_pages
from PIL import Image
from pypdf import PdfReader

from ssd_train.data.structures import ClassNames, Detections, LabeledImage
from ssd_train.errors import DataError
from ssd_train.visualization.draw import CLASS_COLOURS, WHITE
from ssd_train.visualization.pdf import (
    PAGE_WH,
    Page,
    TitlePage,
    images_page,
    title_page,
    write_pdf,
)

NAMES = ClassNames(("apple", "设备"))
FRONT = TitlePage("Detections", ["model: out/model", "2024-03-08"], NAMES, 0.3)
NOTHING = Detections(np.zeros((0, 4)), [], [], (80, 60))


def shade(index: int) -> int:
    return 20 + 10 * index


def pages(count: int):
    """Pictures of one grey each, told apart by it."""
    for index in range(count):
        yield Page(f"frames/picture_{index}.jpg", np.full((60, 80, 3), shade(index % 15), np.uint8), NOTHING)


@pytest.mark.parametrize("count, expected", [(0, 1), (1, 2), (15, 2), (16, 3), (31, 4)])
def test_page_count(tmp_path, count, expected):
    path = tmp_path / "o.pdf"
    write_pdf(path, pages(count), FRONT)
    found = pdf_pages(path)
    assert len(found) == expected and all(page.shape == (PAGE_WH[1], PAGE_WH[0], 3) for page in found)
    assert [p.name for p in tmp_path.iterdir()] == ["o.pdf"]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 15, 16])
def test_write_pdf_each_image_has_its_own_cell_on_the_last_page_too(tmp_path, count):
    write_pdf(tmp_path / "o.pdf", pages(count), FRONT)
    last = pdf_pages(tmp_path / "o.pdf")[-1]
    on_it = (count - 1) % 15 + 1
    for index in range(15):
        x1, y1, x2, y2 = cell_of(index)
        # a little below the middle: the title takes the top
        centre = last[(y1 + y2) // 2 + 10, (x1 + x2) // 2].astype(int)
        assert np.abs(centre - (shade(index) if index < on_it else 255)).max() <= 2, index


def test_detections_from_the_threshold_on_and_truth_are_drawn():
    spoken = Detections([[20, 20, 80, 100], [80, 20, 140, 100]], [0.5, 0.2], [0, 1], (160, 120))
    truth = LabeledImage("a", [[30, 30, 120, 90]], [1], (160, 120))
    image = np.full((120, 160, 3), 128, np.uint8)

    def colours(threshold, record):
        page = images_page([Page("a", image, spoken, record)], NAMES, threshold, 1)
        x1, y1, x2, y2 = cell_of(0)
        cell = page[y1 + 40 : y2 - 15, x1 + 20 : x2 - 20]
        return [bool((cell == colour).all(axis=2).sum() > 50) for colour in (CLASS_COLOURS[0], CLASS_COLOURS[1], WHITE)]

    assert colours(0.3, None) == [True, False, False]
    assert colours(0.1, None) == [True, True, False]
    assert colours(0.3, truth) == [True, False, True]


def test_write_pdf_title_page_differs_by_its_text():
    base = title_page(FRONT)
    assert base.shape == (PAGE_WH[1], PAGE_WH[0], 3) and base.min() < 50
    others = [
        TitlePage("Other", FRONT.lines, NAMES, 0.3),
        TitlePage("Detections", ["model: other"], NAMES, 0.3),
        TitlePage("Detections", FRONT.lines, ClassNames(("apple",)), 0.3),
        TitlePage("Detections", FRONT.lines, NAMES, 0.7),
    ]
    assert all((title_page(other) != base).any() for other in others)


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "o.pdf"
    path.write_bytes(b"old")

    def broken():
        yield from pages(16)
        raise DataError("frames/16.jpg: found a truncated JPEG")

    with pytest.raises(DataError, match="truncated"):
        write_pdf(path, broken(), FRONT)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["o.pdf"]


def test_write_pdf_many_images_are_read_page_by_page(tmp_path, monkeypatch):
    """All that is ever held is one page of them."""
    asked, written = [], []
    save = Image.Image.save
    monkeypatch.setattr(Image.Image, "save", lambda *args, **more: (written.append(len(asked)), save(*args, **more)))
    write_pdf(tmp_path / "o.pdf", (asked.append(1) or page for page in pages(40)), FRONT)
    assert written == [0, 15, 30, 40]


def test_write_pdf_gives_the_file_its_title_and_a4_pages(tmp_path):
    write_pdf(tmp_path / "o.pdf", pages(16), TitlePage("设备 (1)", [], NAMES, 0.3))
    reader = PdfReader(tmp_path / "o.pdf", strict=True)
    assert reader.metadata.title == "设备 (1)"
    for page in reader.pages:
        np.testing.assert_allclose([float(page.mediabox.width), float(page.mediabox.height)], [595.3, 841.9], atol=0.2)
