"""A font for each text, and texts that fit."""

from __future__ import annotations

import pytest

from ssd_train.errors import DependencyError
from ssd_train.view import fonts


@pytest.mark.parametrize(
    "text, expected",
    [
        pytest.param("apple", "apple", id="plain"),
        pytest.param("  two\n words ", "two words", id="white space becomes one space"),
        pytest.param("\U0010fffd", "#3", id="no font has it"),
        pytest.param("bell\x07", "#3", id="control character"),
        pytest.param("", "#3", id="nothing"),
    ],
)
def test_drawable(text, expected):
    assert fonts.drawable(text, "#3") == expected


def test_the_font_chosen_has_the_glyphs():
    assert fonts.font_for("Ag0.", 14) is not None
    assert fonts.font_for("A\U0010fffd", 14) is None


@pytest.mark.parametrize("room", [0, 5, 30, 80, 500])
def test_shortened_text_fits(room):
    text = "a rather long class name"
    short = fonts.shortened(text, 14, room)
    assert fonts.text_wh(short, 14)[0] <= room or short == ""
    if room == 500:
        assert short == text
    if room == 80:
        assert short.endswith("…") and text.startswith(short[:-1]) and len(short) > 4


@pytest.mark.parametrize("loaded", [TypeError("no size"), object()], ids=["Pillow 9", "without FreeType"])
def test_a_machine_without_any_font_is_told_what_to_do(no_font_files, monkeypatch, loaded):
    def load_default(size):
        if isinstance(loaded, Exception):
            raise loaded
        return loaded

    monkeypatch.setattr(fonts.ImageFont, "load_default", load_default)
    with pytest.raises(DependencyError, match="found no font .*expected no such font.ttf.* or Pillow 10.1"):
        fonts.text_wh("a", 12)
