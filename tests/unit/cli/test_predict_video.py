"""predict of videos: lines by frame, the drawn video, and the flags that do not apply."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from helpers.data import read_predictions
from helpers.engines import WhiteBox

from ssd_train.cli import predict as command
from ssd_train.cli.main import main
from ssd_train.deploy.detector import Detector
from ssd_train.deploy.evaluate import match_names

SIZE_WH, RATE, COUNT = (160, 120), 5, 12
CODECS = {"mp4": "mp4v", "avi": "MJPG", "mov": "mp4v", "mkv": "mp4v", "webm": "VP80"}


def box_of(index):
    """The white box of a frame: it moves to the right."""
    return 10 * index, 40, 10 * index + 30, 80


def write_video(path, count=COUNT):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*CODECS[path.suffix[1:].lower()]), RATE, SIZE_WH)
    assert writer.isOpened()
    for index in range(count):
        image = np.zeros((SIZE_WH[1], SIZE_WH[0], 3), np.uint8)
        x1, y1, x2, y2 = box_of(index)
        image[y1:y2, x1:x2] = 255
        writer.write(image)
    writer.release()
    return path


@pytest.fixture
def predict(monkeypatch):
    """Run predict with the engine above."""
    monkeypatch.setattr(
        command.Detector, "load", lambda *_: Detector(WhiteBox(80, (60, 60, 80, 80), score_threshold=0.5))
    )
    return lambda *arguments: main(["predict", *map(str, arguments), "--model", "none"])


def frames_of(path):
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        ok, frame = capture.read()
        if not ok:
            return frames, capture.get(cv2.CAP_PROP_FPS)
        frames.append(frame)


@pytest.mark.parametrize("suffix", [*CODECS, "MP4"])
def test_each_frame_has_a_line_and_is_drawn(tmp_path, predict, capsys, suffix):
    video = write_video(tmp_path / f"clip.{suffix}")
    assert predict(video, "--output", tmp_path / "a.jsonl", "--overlays", tmp_path / "seen") == 0
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(COUNT))
    assert [line["seconds"] for line in lines] == pytest.approx([index / RATE for index in range(COUNT)], abs=0.01)
    assert [line["image"] for line in lines] == [f"clip_{index:06d}" for index in range(COUNT)]
    for index, line in enumerate(lines):
        white, dark = line["prediction"]
        assert (white[:2], dark[:2]) == ([1, pytest.approx(0.9)], [0, pytest.approx(0.2)])
        assert line["classes"] == {"0": "dark", "1": "white"}
        np.testing.assert_allclose(np.array(white[2:]) * [*SIZE_WH, *SIZE_WH], box_of(index), atol=3)
    assert len(read_predictions(tmp_path / "a.jsonl")) == COUNT, "evaluate reads them"
    frames, rate = frames_of(tmp_path / "seen" / "clip.mp4")
    assert len(frames) == COUNT and rate == pytest.approx(RATE) and frames[0].shape == (120, 160, 3)
    original, _ = frames_of(video)
    for drawn, plain, index in zip(frames, original, range(COUNT)):
        changed = np.abs(drawn.astype(int) - plain).max(axis=2) > 90
        x1, y1, x2, y2 = box_of(index)
        assert changed[y1 + 5 : y2 - 5, x1 : x1 + 3].any(), "the left edge of the white box has a line"
        assert not changed[95:, 125:].any(), "the box below the model's threshold is not drawn"
    assert f"{COUNT} frames, boxes that score 0.5 or more: {COUNT}" in capsys.readouterr().out


def test_predict_video_every_keeps_frame_numbers_and_length(tmp_path, predict):
    video = write_video(tmp_path / "clip.avi")
    assert predict(video, "--output", tmp_path / "a.jsonl", "--overlays", tmp_path / "seen", "--every", 5) == 0
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [(line["frame"], line["seconds"]) for line in lines] == [(0, 0.0), (5, 1.0), (10, 2.0)]
    for line in lines:
        left = line["prediction"][0][2] * SIZE_WH[0]
        assert left == pytest.approx(box_of(line["frame"])[0], abs=3), "the line is of its own frame"
    frames, rate = frames_of(tmp_path / "seen" / "clip.mp4")
    assert len(frames) == 3 and rate == pytest.approx(1)


def test_tiles_of_frames(tmp_path, predict):
    video = write_video(tmp_path / "clip.avi", 2)
    assert predict(video, "--output", tmp_path / "a.jsonl", "--tile", 120) == 0
    (first, _) = (json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines())
    assert first["prediction"][0][1] == pytest.approx(0.9) and len(first["prediction"]) > 2, "a dark box of each tile"


def test_lines_are_matched_with_labels_of_extracted_frames(tmp_path, predict):
    video = write_video(tmp_path / "clip.avi")
    assert predict(video, "--output", tmp_path / "a.jsonl", "--every", 4) == 0
    assert main(["prepare", "frames", str(video), "--output", str(tmp_path / "frames"), "--every", "4"]) == 0
    images = [path.name for path in sorted((tmp_path / "frames").iterdir())]
    lines = list(read_predictions(tmp_path / "a.jsonl"))
    assert len(images) == len(lines) == 3 and match_names(images, lines) == dict(zip(images, lines))


def test_two_videos_in_one_file_of_lines(tmp_path, predict):
    videos = [write_video(tmp_path / f"{name}.avi", 3) for name in "ab"]
    assert predict(*videos, "--output", tmp_path / "a.jsonl") == 0
    names = [json.loads(line)["image"] for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert names == [f"{name}_{index:06d}" for name in "ab" for index in range(3)]


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["clip.avi", "a.png"], "found clip.avi, a video, and other paths"),
        (["clip.avi", "--pdf", "a.pdf"], "pdf: found a video, clip.avi"),
        (["clip.avi", "--labels", "a.manifest", "--overlays", "seen"], "labels: found a video, clip.avi"),
        (["clip.avi", "--transform_output", "out"], "transform_output: found a video, clip.avi"),
        (["clip.avi", "--format", "csv"], "format: found csv and a video, clip.avi"),
        (["clip.avi", "deep/clip.mp4"], "found two videos called 'clip'"),
        (["a.png", "--every", "2"], "every: found images"),
        (["clip.avi", "--every", "0"], "argument --every: found 0"),
        (["text.mp4"], "text.mp4: found"),
        (["none.mp4"], "none.mp4: cannot be read"),
        (["clip.mp4", "--overlays", "."], "overlays: found clip.mp4, an input video"),
    ],
)
def test_flags_and_files_that_do_not_fit(tmp_path, predict, monkeypatch, capsys, arguments, expected):
    monkeypatch.chdir(tmp_path)
    for name in ("clip.avi", "clip.mp4"):
        write_video(tmp_path / name, 2)
    (tmp_path / "text.mp4").write_bytes(b"no video")
    before = sorted(path.name for path in tmp_path.iterdir())
    assert predict(*arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {expected}"), error
    assert sorted(path.name for path in tmp_path.iterdir()) == before, "nothing is written"


def test_predict_video_truncated_warns_and_keeps_its_frames(tmp_path, predict, capsys):
    video = write_video(tmp_path / "clip.avi")
    data = video.read_bytes()
    video.write_bytes(data[: len(data) * 2 // 3])
    code = predict(video, "--output", tmp_path / "a.jsonl")
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert code == 0 and 0 < len(lines) < COUNT
    assert "the video may be truncated" in capsys.readouterr().out
