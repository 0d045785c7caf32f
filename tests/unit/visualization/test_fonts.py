"""Fonts are chosen by glyphs, and texts are shortened to a width."""

from __future__ import annotations

import pytest

from ssd_train.visualization import draw


@pytest.mark.parametrize(
    "text, expected",
    [
        pytest.param("apple", "apple", id="plain"),
        pytest.param("  two\n words ", "two words", id="white space becomes one space"),
        pytest.param("\U0010fffd", "#3", id="no glyph"),
        pytest.param("bell\x07", "#3", id="control character"),
        pytest.param("", "#3", id="empty"),
    ],
)
def test_drawable_falls_back_without_glyphs(text, expected):
    assert draw.drawable(text, "#3") == expected


@pytest.mark.parametrize("max_width", [0, 5, 30, 80, 500])
def test_shortened_fits_into_width(max_width):
    text = "a rather long class name"
    short = draw.shortened(text, 14, max_width)
    assert draw.text_wh(short, 14)[0] <= max_width or short == ""
    if max_width == 500:
        assert short == text
    if max_width == 80:
        assert short.endswith("…") and text.startswith(short[:-1]) and len(short) > 4
