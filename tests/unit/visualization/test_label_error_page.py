"""The page of likely label errors."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.data import picture

from ssd_train.data.structures import ClassNames, Detections, LabeledImage
from ssd_train.evaluation.label_errors import KINDS, LabelError
from ssd_train.visualization.label_error_page import DESCRIPTIONS, error_panels, render_label_errors

NAMES = ClassNames(("cat", "<b>dog</b>"))
SIZE = (400, 300)
RECORD = LabeledImage("<i>one</i>.png", [[20, 20, 80, 80], [25, 20, 85, 80]], [0, 1], SIZE, "a.manifest:1")
DETECTIONS = Detections([[300, 200, 380, 280]], [0.8], [1], SIZE)
BLACK = np.zeros((300, 400, 3), np.uint8)


def page(errors, counts=None):
    shown = []

    def read(record):
        """Return the image, and remember that it was read."""
        shown.append(record.name)
        return picture(SIZE)

    arguments = ("Likely label errors", "ssd-train audit", "the model <m>", counts or {"missing": len(errors)})
    return render_label_errors(*arguments, errors, [(RECORD, DETECTIONS)], NAMES, read, list), shown


def test_page_has_three_images_and_the_reason_of_each_error_and_escapes_names():
    errors = [
        LabelError("missing", 0.8, "<b>dog</b> detected", 0, detection=0),
        LabelError("duplicate", 0.6, "labelled twice", 0, label=0, other=1),
    ]
    text, read = page(errors)
    assert text.count("<img ") == 6 and len(read) == 2
    assert "&lt;b&gt;dog&lt;/b&gt; detected" in text and "labelled twice" in text
    assert "<b>dog" not in text and "<i>one" not in text
    assert all(kind in text and DESCRIPTIONS[kind] in text for kind in KINDS)
    assert "by detections of the model &lt;m&gt;." in text
    assert "Content-Security-Policy" in text and "<script" not in text


def test_page_states_the_number_of_errors_left_out():
    text, _ = page([LabelError("missing", 0.8, "dog", 0, detection=0)], {"missing": 7, "location": 5})
    assert "12 likely label errors in 1 images; the first 1 are shown" in text
    assert "0 likely label errors in 1 images" in page([], {})[0] and page([], {})[0].count("<img ") == 0


@pytest.mark.parametrize(
    "error, drawn",
    [
        (LabelError("missing", 0.8, "", 0, detection=0), (False, True)),
        (LabelError("spurious", 0.8, "", 0, label=0), (True, False)),
        (LabelError("duplicate", 0.8, "", 0, label=0, other=1), (True, False)),
        (LabelError("swapped_images", 0.8, "", 0, other=0), (True, True)),
    ],
)
def test_panels_show_the_part_of_the_error_with_its_labels_and_its_detections(error, drawn):
    plain, *panels = error_panels(BLACK, RECORD, DETECTIONS, error, NAMES)
    assert not plain.any()
    assert tuple(bool(panel.any()) for panel in panels) == drawn
    assert all(panel.shape == plain.shape for panel in panels)
    whole = error.kind == "swapped_images"
    assert (abs(plain.shape[1] / plain.shape[0] - SIZE[0] / SIZE[1]) < 0.02) == whole


def test_weak_detection_that_an_error_is_about_is_drawn():
    weak = Detections([[300, 200, 380, 280]], [0.1], [1], SIZE)
    _, _, panel = error_panels(BLACK, RECORD, weak, LabelError("missing", 0.1, "", 0, detection=0), NAMES)
    assert panel.any()
    _, _, panel = error_panels(BLACK, RECORD, weak, LabelError("swapped_images", 0.1, "", 0, other=0), NAMES)
    assert not panel.any()
