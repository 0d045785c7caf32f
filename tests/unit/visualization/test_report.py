"""The report is complete, self-contained and escaped, and renders with missing data."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers.services import CHROMIUM, Browser

from ssd_train.data.structures import ClassNames, Detections, LabeledImage
from ssd_train.visualization.report import CASES_SHOWN, IMAGE_WH, IMAGES_SHOWN, render, write_report
from ssd_train.visualization.report_data import Reason, ReportData, Sample, SubsetSummary

SECTIONS = ["scores", "training", "precision", "pictures", "worst", "data", "settings"]
VOID = {"meta", "img", "br"}
NASTY = '<script>alert("x")</script>'
NAN = float("nan")


class Page(HTMLParser):
    """Tags with attributes and the text of a page; `fault` is the first tag that does not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.text, self.open, self.fault = [], "", [], None
        self.feed(text)
        self.close()
        self.fault = self.fault or (self.open[-1] if self.open else None)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.fault is None and (not self.open or self.open.pop() != tag):
            self.fault = tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data + " "

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_render_sections_are_ordered_and_linked(make_report):
    page = Page(render(make_report()))
    assert page.fault is None
    assert [section["id"] for section in page.all("section")] == SECTIONS
    assert [link["href"] for link in page.all("a")] == [f"#{name}" for name in SECTIONS]


def test_render_is_self_contained_without_scripts(make_report):
    text = render(make_report())
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base"}
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "poster", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/jpeg;base64,", "#")), (tag, name, value)
    assert "url(" not in text and "@import" not in text and "http://" not in text and "https://" not in text
    policy = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_render_contains_scores_curves_and_settings(make_report):
    text = " ".join(Page(render(make_report())).text.split())
    for expected in (
        "mAP@0.5 0.873",
        "mAP 0.512",
        "mAP@0.75 0.604",
        "VOC07 mAP 0.851",
        "Precision 0.902",
        "Recall 0.848",
    ):
        assert expected in text
    assert "False positives 0.08" in text and "Images 61" in text and "best epoch 22" in text
    assert "apple 0.950 0.600 0.700 0.900 140" in text
    assert "box loss, validation: 1.3649 at epoch 24" in text and "COCO mAP: 0.5031 at epoch 24" in text
    assert "labelling failed 4 train.manifest:3 train.manifest:17 train.manifest:40 and 1 more" in text
    assert "lr_scheduler_step 16, 20" in text and "mxnet 1.9.1" in text and "pretrained none" in text


def test_render_images_are_few_and_small(make_report):
    text = render(make_report(pictures=40))
    images = Page(text).all("img")
    assert IMAGES_SHOWN < len(images) <= IMAGES_SHOWN + 2 * CASES_SHOWN
    assert all(int(image["width"]) <= IMAGE_WH[0] and int(image["height"]) <= IMAGE_WH[1] for image in images)
    assert len(text) < 3_000_000


def test_render_escapes_untrusted_text():
    """Check every text that comes from a file, a label or a setting."""
    image = np.zeros((40, 60, 3), np.uint8)
    truth, detections = LabeledImage(NASTY, [[1, 1, 20, 20]], [0]), Detections([[30, 1, 50, 20]], [0.9], [0], (60, 40))
    subset = SubsetSummary(NASTY, 1, 0, (1,), skipped=(Reason(NASTY, 1, (NASTY,)),), repaired=(Reason(NASTY, 2),))
    data = ReportData(
        title=NASTY,
        class_names=ClassNames((NASTY,)),
        started=NASTY,
        settings={NASTY: NASTY},
        versions={NASTY: [NASTY]},
        history=[{"epoch": 1, "CrossEntropy": NASTY}, {"epoch": NASTY, "SmoothL1": 1.0}],
        scores={"mAP": NASTY, "per_class": {NASTY: {"AP": NASTY}}},
        curves={NASTY: {"recall": [0.0, 1.0], "precision": [1.0, 0.5], "score": [0.9, 0.1]}},
        data=(subset,),
        samples=(Sample(NASTY, image, truth, detections),),
        best_epoch=1,
        notes=(NASTY,),
    )
    text = render(data)
    page = Page(text)
    assert "<script" not in text and page.fault is None and not page.all("script")
    # the texts are escaped, not dropped
    assert page.text.count(NASTY) >= 15


def bare(**more) -> ReportData:
    return ReportData("t", ClassNames(("only",)), **more)


@pytest.mark.parametrize(
    "data, expected",
    [
        pytest.param(bare(), "Scores The model was not scored", id="nothing at all"),
        pytest.param(bare(scores={}), "mAP@0.5 n/a", id="no figures"),
        pytest.param(bare(scores={"mAP@0.5": NAN, "best_f1": None, "per_class": {}}), "mAP@0.5 n/a", id="NaN"),
        pytest.param(
            bare(scores={"per_class": {"only": {"AP@0.5": None, "boxes": 0}}}),
            "only n/a n/a n/a n/a 0",
            id="unseen class",
        ),
        pytest.param(
            bare(history=[{"epoch": 1, "CrossEntropy": 2.0, "SmoothL1": NAN}]), "No values to draw", id="no validation"
        ),
        pytest.param(bare(history=[{}]), "No values to draw", id="empty epoch"),
        pytest.param(
            bare(curves={"only": {"recall": [], "precision": [], "score": []}}), "No values to draw", id="no curve"
        ),
        pytest.param(bare(data=(SubsetSummary("train", 0, 0, ()),)), "train 0 0 0 n/a 0 0 n/a", id="no pictures"),
    ],
)
def test_render_missing_data_is_marked(data, expected):
    page = Page(render(data))
    assert page.fault is None and [section["id"] for section in page.all("section")] == SECTIONS
    text = " ".join(page.text.split())
    assert expected in text and not re.search(r"\bnan\b|\binf\b", text, re.IGNORECASE)


def test_render_prefers_samples_with_objects():
    image = np.zeros((40, 60, 3), np.uint8)
    nothing = Detections(np.zeros((0, 4)), [], [], (60, 40))
    empty = [Sample(f"empty {index}", image, LabeledImage("e", [], []), nothing) for index in range(30)]
    full = Sample("full", image, LabeledImage("f", [[1, 1, 20, 20]], [0]), nothing)
    text = Page(render(bare(samples=[*empty, full]))).text
    assert "full" in text and "empty 3" not in text
    assert "empty 3" not in text and "empty 0" in Page(render(bare(samples=empty))).text


def test_write_report_is_utf8(tmp_path, make_report):
    path = tmp_path / "report.html"
    write_report(path, make_report(pictures=2))
    text = path.read_text("utf-8")
    assert (
        text.startswith("<!DOCTYPE html>")
        and "设备" in text
        and [p.name for p in tmp_path.iterdir()] == ["report.html"]
    )


def test_render_head_has_verdict_command_duration_and_steps(make_report):
    report = dataclasses.replace(make_report(), command="ssd-train train --train 'my set'", seconds=754)
    page = Page(render(report))
    text = " ".join(page.text.split())
    head = text[: text.index("Scores Training")]
    for expected in ("Finds 8 of 10 objects", "ssd-train train --train 'my set'", "trained for 13 min", "Next steps"):
        assert expected in head
    assert "mobilenet1.0 at 300 px" in head


def test_render_intervals_sizes_and_confusion(make_report):
    report = make_report()
    details = {
        "intervals": {"mAP": [0.47, 0.55], "mAP@0.5": None},
        "by_size": {"small": {"AP": 0.125, "boxes": 17}, "medium": {"AP": None, "boxes": 0}},
        "confusion": [[101, 7, 0, 31], [0, 52, 0, 3], [0, 0, 44, 2], [9, 0, 1, 0]],
    }
    text = " ".join(Page(render(dataclasses.replace(report, scores={**report.scores, **details}))).text.split())
    assert "mAP 0.512 95 % interval 0.470 to 0.550" in text
    assert "mAP@0.5 0.873 COCO" in text
    assert "small below 32 x 32 px 0.125 17 medium 32 x 32 to 96 x 96 px n/a 0" in text
    assert "apple 101 7 0 31 pear 0 52 0 3 设备 0 0 44 2 background 9 0 1" in text


def test_render_many_classes_list_the_most_frequent_confusions(make_report):
    names = [f"class {index}" for index in range(40)]
    matrix = np.zeros((41, 41), int)
    np.fill_diagonal(matrix, 50)
    matrix[3, 7], matrix[40, 5] = 12, 30
    report = make_report(names, epochs=4, pictures=2)
    report = dataclasses.replace(report, scores={**report.scores, "confusion": matrix.tolist()})
    text = " ".join(Page(render(report)).text.split())
    assert "Labelled Detected Boxes background class 5 30 class 3 class 7 12" in text


def test_render_score_curve_marks_the_chosen_score():
    score = np.linspace(0.9, 0.1, 500)
    curve = {"score": score, "recall": 1 - score, "precision": score}
    text = render(bare(score_curve=curve, threshold=0.5))
    assert "chosen score 0.50" in text
    # 2 * 0.5 * 0.5 / 1
    assert re.search(r"F1: 0\.5000 at score 0\.(499|5)", text)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_image_enlarges_on_click_and_on_enter_in_a_browser(tmp_path, make_report):
    write_report(tmp_path / "report.html", make_report(pictures=4))
    with Browser(tmp_path / "profile") as browser:
        browser.open((tmp_path / "report.html").as_uri())
        size = "(() => { const r = document.querySelector('.zoom img').getBoundingClientRect(); return r.width; })()"
        before = browser.value(size)
        browser.value("document.querySelector('.zoom summary').click()")
        enlarged = browser.value(size)
        assert enlarged > 2 * before and enlarged > 0.9 * browser.value("innerWidth")
        browser.value("document.querySelector('.zoom summary').click()")
        assert browser.value(size) == before
        browser.value("document.querySelector('.zoom summary').focus()")
        for kind in ("keyDown", "keyUp"):
            browser.call(
                "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13
            )
        assert browser.value(size) == enlarged
        fetched = [address for address in browser.addresses() if not address.startswith("data:")]
        assert browser.complaints() == [] and len(fetched) == 1
