"""grayscale: honest bytes, labels that fit as before, work that is taken up again."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.data import HeardProgress, picture, write_files
from helpers.images import with_exif

from ssd_train.data.image_io import decode, encode, read_header
from ssd_train.data.transforms import to_gray
from ssd_train.prepare.images import WriteOptions, grayscale


def run(tmp_path, **writing):
    return grayscale(tmp_path / "in", tmp_path / "out", WriteOptions(**writing), HeardProgress())


def put(tmp_path, name, data):
    return write_files(tmp_path / "in", {name: data}) / name


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_hold_the_gray_of_the_decoder(tmp_path, format):
    put(tmp_path, f"a/b.c.{format.lower()}", encode(picture(), format))

    run(tmp_path)

    data = (tmp_path / "out" / f"a/b.c.{format.lower()}").read_bytes()
    assert read_header(data, "out").format == format
    np.testing.assert_array_equal(decode(data, "out"), to_gray(picture()))


@pytest.mark.parametrize("format, name", [("JPEG", "a.JPG"), ("WEBP", "a.webp")])
def test_grayscale_keeps_lossy_formats(tmp_path, format, name):
    smooth = np.repeat(np.linspace(0, 255, 40).astype(np.uint8)[None, :, None], 30, axis=0) * np.ones(3, np.uint8)
    put(tmp_path, name, encode(smooth, format, 100))

    run(tmp_path)

    data = (tmp_path / "out" / name).read_bytes()
    image = decode(data, "out").astype(int)
    assert read_header(data, "out").format == format
    assert np.abs(image - smooth).max() <= 6
    assert (image.max(axis=2) - image.min(axis=2)).max() <= 1


@pytest.mark.parametrize("format, name", [("JPEG", "a.jpg"), ("PNG", "a.png"), ("WEBP", "a.webp")])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_stays(tmp_path, format, name, orientation):
    image = np.zeros((32, 64, 3), np.uint8)
    image[:16, :32] = 255  # a white corner tells all eight orientations apart
    image[:8, 32:] = (255, 0, 0)
    source = with_exif(image, orientation, format)
    put(tmp_path, name, source)

    run(tmp_path)

    data = (tmp_path / "out" / name).read_bytes()
    assert read_header(data, "out") == read_header(source, "in")
    upright, stored = decode(data, "out"), decode(data, "out", (64, 32))
    np.testing.assert_allclose(upright.astype(int), to_gray(decode(source, "in")), atol=12)
    np.testing.assert_allclose(stored.astype(int), to_gray(decode(source, "in", (64, 32))), atol=12)


def test_grayscale_skips_finished_images_unless_their_source_is_newer(tmp_path):
    sources = [put(tmp_path, f"{i}.png", encode(picture(seed=i), "PNG")) for i in range(3)]
    run(tmp_path)
    out = tmp_path / "out"
    (out / "1.png").unlink()
    (out / "0.png").write_bytes(b"mine")
    sources[2].write_bytes(encode(picture(seed=9), "PNG"))

    done = run(tmp_path)

    assert (done.written, done.skipped) == (2, 1)
    assert (out / "0.png").read_bytes() == b"mine"
    np.testing.assert_array_equal(decode((out / "2.png").read_bytes(), ""), to_gray(picture(seed=9)))
    assert run(tmp_path, overwrite=True).written == 3
    assert (out / "0.png").read_bytes() != b"mine"
