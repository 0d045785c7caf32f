"""The server's page in a real browser."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest
from helpers.services import CHROMIUM, Browser

from ssd_train.boxes import iou_matrix
from ssd_train.data.image_io import encode_jpeg
from ssd_train.data.synthetic import draw_shapes_set

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on this machine: apt-get install chromium"),
]

WIDTH, HEIGHT = 320, 200
STATUS = "document.getElementById('status').textContent"
BOXES = "document.querySelectorAll('#boxes rect').length"
ROWS = "document.querySelectorAll('#rows tr').length"
NAMES = "Array.from(document.querySelectorAll('#rows td:first-child'), (e) => e.textContent)"
THRESHOLD = 0.46  # at which a dozen boxes or two are left
TAB, RIGHT = ("Tab", 9), ("ArrowRight", 39)


@pytest.fixture
def page(light, tmp_path):
    with Browser(tmp_path / "profile") as browser:
        browser.open(f"http://{light.address}/")
        yield browser


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for index, sample in enumerate(draw_shapes_set(2, 5, (WIDTH, HEIGHT))):
        (folder / f"picture-{index}.jpg").write_bytes(encode_jpeg(sample.image))
    (folder / "letter.jpg").write_bytes(b"Dear Sir or Madam")
    return folder


def set_threshold(page, value):
    page.value(
        f"(() => {{ const e = document.getElementById('threshold'); e.value = {value};"
        " e.dispatchEvent(new Event('input')); })()"
    )


def test_page_chosen_image_shows_its_boxes(page, files, tmp_path):
    page.choose("#file", files / "picture-0.jpg")
    page.wait(f"{STATUS}.includes('picture-0.jpg: answered in')")
    set_threshold(page, 0)
    count = page.value(BOXES)
    assert count > 0 and page.value(ROWS) == count
    # the boxes lie on the picture as it is shown, whatever its size there
    view = page.value("document.getElementById('boxes').getAttribute('viewBox')")
    assert view == f"0 0 {WIDTH} {HEIGHT}"
    places = page.value(
        "['picture', 'boxes'].map((id) => { const r = document.getElementById(id).getBoundingClientRect();"
        " return [r.x, r.y, r.width, r.height]; })"
    )
    np.testing.assert_allclose(places[0], places[1], atol=1)
    assert page.value("document.querySelector('#boxes text').textContent").split()[0] in ("cat", "dog", "cow")
    # no frame crosses a label, and two labels lie on each other only where they have to
    kinds = page.value("Array.from(document.querySelectorAll('#boxes rect, #boxes text'), (e) => e.tagName)")
    assert kinds == ["rect"] * count + ["text"] * count
    set_threshold(page, THRESHOLD)
    labels = np.array(
        page.value(
            "Array.from(document.querySelectorAll('#boxes path'),"
            " (e) => { const b = e.getBBox(); return [b.x, b.y, b.x + b.width, b.y + b.height]; })"
        )
    )
    assert len(labels) == page.value(ROWS) > 5
    assert labels.min() >= -0.01 and (labels.max(axis=0)[2:] <= [WIDTH + 0.01, HEIGHT + 0.01]).all()
    overlaps = np.triu(iou_matrix(labels, labels), 1)
    assert (overlaps > 0.001).sum() == 0
    set_threshold(page, 1)
    assert page.value(BOXES) == 0 and page.value(ROWS) == 0
    target = tmp_path / "page.png"
    page.screenshot(target)
    assert target.read_bytes()[:4] == b"\x89PNG"
    assert page.complaints() == []


def test_page_dropped_image_replaces_the_previous(page, files):
    page.choose("#file", files / "picture-0.jpg")
    page.wait(f"{STATUS}.includes('picture-0.jpg: answered in')")
    page.drop("#drop", files / "picture-1.jpg")
    page.wait(f"{STATUS}.includes('picture-1.jpg: answered in')")
    assert "picture-1.jpg" in page.value("document.getElementById('picture').alt")


def test_page_describes_the_model(page):
    facts = page.value("document.getElementById('facts').textContent")
    assert "3 classes: cat, dog, cow" in facts and "128 px" in facts and "onnxruntime" in facts
    name = page.value("document.getElementById('name').textContent")
    assert name != "Try the model" and page.value("document.title").startswith(name[len("Try ") :])


def test_page_class_filter_hides_its_boxes(page, files):
    page.choose("#file", files / "picture-0.jpg")
    page.wait(f"{STATUS}.includes('answered in')")
    set_threshold(page, 0)
    names = page.value(NAMES)
    assert len(set(names)) > 1
    page.value("document.querySelector('#classes input').click()")
    assert page.value(NAMES) == [name for name in names if name != "cat"] != names
    assert page.value(ROWS) == page.value(BOXES)
    page.value("document.querySelector('#classes input').click()")
    assert page.value(NAMES) == names


def test_page_several_images_can_be_gone_back_to(page, files):
    page.choose("#file", files / "picture-0.jpg", files / "letter.jpg", files / "picture-1.jpg")
    page.wait("document.querySelectorAll('#strip button').length === 3")
    page.wait(f"{STATUS}.includes('picture-0.jpg: answered in')")
    assert "picture-0.jpg" in page.value("document.getElementById('picture').alt")
    page.value("document.querySelectorAll('#strip button')[2].click()")
    page.wait(f"{STATUS}.includes('picture-1.jpg: answered in')")
    assert "picture-1.jpg" in page.value("document.getElementById('picture').alt")
    page.value("document.querySelectorAll('#strip button')[1].click()")
    page.wait(f"{STATUS}.includes('letter.jpg: ')")
    assert page.value("document.getElementById('result').hidden")
    pressed = page.value("Array.from(document.querySelectorAll('#strip button'), (e) => e.ariaPressed)")
    assert pressed == ["false", "true", "false"]


def test_page_without_an_image_offers_a_sample(page):
    assert not page.value("document.getElementById('sample').hidden")
    page.value("document.getElementById('sample').click()")
    page.wait(f"{STATUS}.includes('sample.jpg: answered in')")
    assert page.value("document.getElementById('sample').hidden")
    assert page.value("document.getElementById('picture').naturalWidth") > 100
    assert page.complaints() == []


@pytest.mark.parametrize("name", ["plain.jpg", "two words, 'quoted'; and \"more\".jpg"])
def test_page_copied_curl_command_gives_the_copied_json(page, light, files, tmp_path, name):
    (tmp_path / name).write_bytes((files / "picture-0.jpg").read_bytes())
    page.choose("#file", tmp_path / name)
    page.wait(f"{STATUS}.includes('answered in')")
    page.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    page.value("document.getElementById('curl').click()")
    page.wait(f"{STATUS} === 'Copied.'")
    command = page.value("navigator.clipboard.readText()")
    answered = json.loads(
        subprocess.run(["sh", "-c", command], cwd=tmp_path, stdout=subprocess.PIPE, check=True).stdout
    )

    page.value("document.getElementById('json').click()")
    page.wait("navigator.clipboard.readText().then((text) => text.startsWith('{'))")
    copied = json.loads(page.value("navigator.clipboard.readText()"))
    threshold = page.value("Number(document.getElementById('threshold').value)")
    expected = [one for one in answered["annotations"] if one["score"] >= threshold]
    assert copied["image"] == name and copied["annotations"] == expected and expected


def test_page_invalid_image_shows_the_servers_message(page, files):
    page.choose("#file", files / "letter.jpg")
    page.wait(f"{STATUS}.includes('expected an image')")
    assert page.value("document.getElementById('status').className") == "bad"
    assert page.value("document.getElementById('result').hidden")
    page.choose("#file", files / "picture-0.jpg")
    page.wait(f"{STATUS}.includes('answered in')")
    assert page.value("document.getElementById('status').className") == ""


def test_page_requests_only_this_server(page, light, files):
    page.choose("#file", files / "picture-0.jpg")
    page.wait(f"{STATUS}.includes('answered in')")
    asked = [address for address in page.addresses() if not address.startswith(("data:", "blob:"))]
    assert set(asked) == {f"http://{light.address}/", f"http://{light.address}/invocations"}


def test_page_works_by_keyboard(page, files):
    page.press(*TAB)
    assert page.value("document.activeElement.id") == "file"
    assert page.value("getComputedStyle(document.getElementById('drop')).outlineStyle") == "solid"
    page.choose("#file", files / "picture-0.jpg")  # what Enter leads to is the browser's own
    page.wait(f"{STATUS}.includes('answered in')")
    page.press(*TAB)
    assert page.value("document.activeElement.id") == "threshold"
    # the keys of the slider first, then those of the class filter, which lies between it and the rows
    before = page.value("document.getElementById('shown').textContent")
    page.press(*RIGHT)
    assert float(page.value("document.getElementById('shown').textContent")) == pytest.approx(float(before) + 0.01)
    set_threshold(page, 0)
    for _ in ("cat", "dog", "cow"):
        page.press(*TAB)
        assert page.value("document.activeElement.type") == "checkbox"
    page.press(*TAB)
    assert page.value("document.activeElement.tagName") == "TR"
    assert page.value("document.querySelectorAll('#boxes g.pointed').length") == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_text_has_contrast_in_both_themes(page, scheme):
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    colours = page.value(
        "(() => { const of = (e, p) => getComputedStyle(e)[p].match(/\\d+/g).slice(0, 3).map(Number);"
        " const body = document.body, p = document.querySelector('p'), drop = document.getElementById('drop');"
        " return [[of(body, 'color'), of(body, 'backgroundColor')], [of(p, 'color'), of(body, 'backgroundColor')],"
        " [of(drop.querySelector('strong'), 'color'), of(drop, 'backgroundColor')]]; })()"
    )
    assert all(contrast(*pair) >= 4.5 for pair in colours), colours  # WCAG 2.1, AA
    assert (sum(colours[0][1]) < 200) == (scheme == "dark")


def contrast(one, other):
    """The contrast ratio of two colours (WCAG 2.1)."""

    def luminance(colour):
        linear = [(v / 255 / 12.92) if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in colour]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)
