"""frames: pictures out of videos."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from helpers.data import HeardProgress, picture

from ssd_train.data.image_io import decode, encode_png
from ssd_train.errors import ConfigError, DataError
from ssd_train.prepare.frames import Choice, extract_frames
from ssd_train.prepare.images import WriteOptions

LEVELS = 20  # gray levels between two frames: enough to tell them apart after compression


def video(path, count=10):
    """Motion JPEG whose frame i has the gray level LEVELS * i."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))
    assert writer.isOpened()
    for index in range(count):
        writer.write(np.full((48, 64, 3), LEVELS * index, np.uint8))
    writer.release()
    return path


def run(videos, output, choice=Choice(), **writing):  # noqa: B008 a constant
    return extract_frames(videos, output, choice, WriteOptions(**writing), HeardProgress())


@pytest.mark.parametrize(
    "every, expected", [(1, list(range(10))), (3, [0, 3, 6, 9]), (10, [0]), (99, [0])], ids=["all", "3", "10", "99"]
)
def test_every_nth_frame_is_the_right_one(tmp_path, every, expected):
    (done,) = run([video(tmp_path / "a.b.avi")], tmp_path / "out", Choice(every, "png"))

    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == [f"a.b_{index:06d}.png" for index in expected]
    for file, index in zip(files, expected):
        assert abs(decode(file.read_bytes(), file.name).mean() - LEVELS * index) < LEVELS / 4
    assert (done.read, done.written, done.skipped, done.promised) == (10, len(expected), 0, 10)


def test_colours_are_in_order(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))
    writer.write(np.full((48, 64, 3), (255, 0, 0), np.uint8))  # blue, in OpenCV's order
    writer.release()

    run([tmp_path / "a.avi"], tmp_path / "out")

    red, _, blue = decode((tmp_path / "out" / "a_000000.jpg").read_bytes(), "a").mean(axis=(0, 1))
    assert blue > 200 and red < 50


def test_frames_are_taken_up_again(tmp_path):
    path, out = video(tmp_path / "a.avi"), tmp_path / "out"
    run([path], out)
    (out / "a_000004.jpg").unlink()
    (out / "a_000005.jpg").write_bytes(b"mine")

    (done,) = run([path], out)

    assert (done.written, done.skipped) == (1, 9)
    assert (out / "a_000005.jpg").read_bytes() == b"mine"
    assert run([path], out, overwrite=True)[0].written == 10


def test_extract_frames_truncated_video_reads_fewer_than_promised(tmp_path):
    path = video(tmp_path / "a.avi", 40)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])

    (done,) = run([path], tmp_path / "out")

    assert 0 < done.read == done.written < 40


@pytest.mark.parametrize(
    "data, expected",
    [
        pytest.param(None, "cannot be read .No such file", id="missing"),
        pytest.param(b"", "found an empty file", id="empty"),
        pytest.param(b"hello", "found text beginning", id="text"),
        pytest.param(encode_png(picture()), "found PNG, expected a video", id="picture"),
    ],
)
def test_extract_frames_other_files_are_an_error(tmp_path, data, expected):
    path = tmp_path / "a_001.avi"
    if data is not None:
        path.write_bytes(data)

    with pytest.raises(DataError, match=expected):
        run([path], tmp_path / "out")


@pytest.mark.parametrize(
    "names, choice, expected",
    [
        pytest.param(["a.avi"], Choice(0), "every: found 0", id="every"),
        pytest.param(["x/a.avi", "y/a.mp4"], Choice(), "several videos called 'a'", id="same-name"),
        pytest.param(["s3://b/a.avi"], Choice(), "expected a local file", id="address"),
    ],
)
def test_extract_frames_invalid_choice_is_an_error(tmp_path, names, choice, expected):
    with pytest.raises(ConfigError, match=expected):
        run(names, tmp_path / "out", choice)
