from __future__ import annotations

import io
import resource
import struct

import numpy as np
import pytest
from helpers.data import tries
from helpers.images import BAD, BLUE, GOOD, GREEN, RED, WHITE, encoded, noise, png_claiming, quadrants, with_exif
from PIL import Image

from ssd_train.data import image_io
from ssd_train.data.image_io import EncodedImage, ImageLimits, decode, exif_orientation, read_header
from ssd_train.errors import DataError

pytestmark = pytest.mark.usefixtures("pixel_library")


def corner_colors(image):
    """The main channel of three corners, as a colour's name by brightness order."""
    height, width, _ = image.shape
    spots = image[[5, 5, height - 5, height - 5], [5, width - 5, 5, width - 5]]
    return [tuple(int(v) for v in np.where(spot > 128, 255, 0)) for spot in spots]


@pytest.mark.parametrize("data, message", BAD.values(), ids=BAD.keys())
def test_bad_images_are_named(data, message):
    with pytest.raises(DataError, match=message) as raised:
        decode(data, "train.manifest:17")
    assert str(raised.value).startswith("train.manifest:17: ")
    assert "\n" not in str(raised.value)


def test_a_huge_claim_uses_no_memory():
    data = png_claiming(20000, 20000)  # would be 1.2 GB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="400.0 Mpx"):
        decode(data, "x")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_limits_are_settings():
    data = encoded(noise(120, 80))
    with pytest.raises(DataError, match="at most 0.009 Mpx"):
        EncodedImage(data, "x", ImageLimits(max_pixels=9000)).decode()
    assert EncodedImage(encoded(noise(5, 5)), "x", ImageLimits(min_side=5)).decode().shape == (5, 5, 3)


def test_decode_verified_limits_hold_for_the_second_decoding_too():
    tiff = encoded(noise(5, 5), "TIFF")  # a TIFF is always decoded again, to find damage
    assert EncodedImage(tiff, "x", ImageLimits(min_side=5)).decode_verified(5)[1] == (5, 5)


@pytest.mark.parametrize("data, format", GOOD.values(), ids=GOOD.keys())
def test_good_images_come_out_rgb(data, format):
    assert read_header(data, "x") == image_io.ImageHeader(format, 60, 40)
    image = decode(data, "x")  # the format is told by the bytes: a PNG called .jpg is a PNG
    assert image.shape == (40, 60, 3) and image.dtype == np.uint8 and image.flags.c_contiguous
    assert corner_colors(image) == [RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_gray_becomes_three_equal_channels(mode):
    image = decode(encoded(quadrants(), mode=mode), "x")
    assert image.shape == (40, 60, 3)
    assert (image == image[..., :1]).all() and image.max() > image.min()


def test_transparency_is_dropped_not_blended():
    rgba = np.dstack([quadrants(), np.zeros((40, 60), np.uint8)])
    assert (decode(encoded(rgba), "x") == quadrants()).all()


def test_16_bit_gray_is_scaled_not_saturated():
    values = np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)
    image = decode(encoded(values), "x")
    assert image.shape == (40, 60, 3)
    np.testing.assert_allclose(image[..., 0], values / 257, atol=1.1)


TURNED = {
    1: [RED, GREEN, BLUE, WHITE],
    2: [GREEN, RED, WHITE, BLUE],
    3: [WHITE, BLUE, GREEN, RED],
    4: [BLUE, WHITE, RED, GREEN],
    5: [RED, BLUE, GREEN, WHITE],
    6: [BLUE, RED, WHITE, GREEN],
    7: [WHITE, GREEN, BLUE, RED],
    8: [GREEN, WHITE, RED, BLUE],
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_exif_is_applied(format, orientation):
    data = with_exif(quadrants(), orientation, format)
    image = decode(data, "x")
    assert image.shape[:2] == ((40, 60) if orientation < 5 else (60, 40))
    assert corner_colors(image) == TURNED[orientation]
    assert read_header(data, "x").display_wh == image.shape[1::-1]
    assert image.flags.c_contiguous


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("expected_wh", [(60, 40), (40, 60)], ids=["stored", "turned"])
def test_the_labels_size_decides(orientation, expected_wh):
    data = with_exif(quadrants(), orientation)
    if orientation < 5 and expected_wh == (40, 60):
        with pytest.raises(DataError, match="^m:3: found 60x40, expected 40x60 .the labels' image_size.$"):
            decode(data, "m:3", expected_wh)
        return
    image = decode(data, "m:3", expected_wh)
    assert image.shape[1::-1] == expected_wh
    unturned = orientation >= 5 and expected_wh == (60, 40)
    assert corner_colors(image) == TURNED[1 if unturned else orientation]


@pytest.mark.parametrize("reduce", [2, 4, 8])
def test_reduced_decoding(reduce):
    data = with_exif(quadrants(640, 480), 6)
    image = EncodedImage(data, "x").decode((480, 640), reduce)  # compared before the reduction
    assert image.shape == (640 // reduce, 480 // reduce, 3)
    assert corner_colors(image) == TURNED[6]
    with pytest.raises(DataError, match="found 480x640, expected 240x320"):
        EncodedImage(data, "x").decode((240, 320), reduce)


DAMAGED_EXIF = {
    "none": (b"", 1),
    "no tiff": (b"Exif\0\0garbage", 1),
    "ends early": (b"Exif\0\0II*\0\x08\0\0\0\x05\0", 1),
    "directory beyond the end": (b"Exif\0\0II*\0\xff\xff\0\0", 1),
    "out of range": (b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x0112, 3, 1, 9, 0), 1),
    "little endian": (b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0), 6),
    "big endian, bare": (b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x0112, 3, 1, 8, 0), 8),
}


@pytest.mark.parametrize("exif, orientation", DAMAGED_EXIF.values(), ids=DAMAGED_EXIF.keys())
def test_exif_orientation(exif, orientation):
    assert exif_orientation(exif) == orientation


def test_gluoncv_s_global_switch_does_not_let_damage_through(monkeypatch):
    for case in ("jpeg half", "png half", "jpeg header only", "png with a wrong byte", "bmp half", "tiff half"):
        monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
        with pytest.raises(DataError):
            decode(BAD[case][0], "x")


def test_mutated_images_raise_only_our_error():
    random = np.random.RandomState(1)
    seeds = [encoded(noise(40, 30), f) for f in image_io.FORMATS] + [with_exif(noise(40, 30), 6)]
    refused, count = 0, tries(600)
    for step in range(count):
        data = bytearray(seeds[step % len(seeds)])
        for place in random.randint(0, min(len(data), 400), 3):
            data[place] = random.randint(256)
        try:
            EncodedImage(bytes(data), "x", ImageLimits(max_pixels=100_000)).decode()
        except DataError:
            refused += 1
    assert refused > count / 6


def test_encode_png_is_lossless_and_jpeg_obeys_quality():
    assert (decode(image_io.encode_png(noise()), "x") == noise()).all()
    assert len(image_io.encode_jpeg(noise(), 30)) < len(image_io.encode_jpeg(noise(), 90))
    with pytest.raises(DataError, match="found 'GIF', expected one of JPEG"):
        image_io.encode(noise(), "GIF")


@pytest.mark.parametrize("mode, usual", [("RGB", True), ("L", True), ("CMYK", False)])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_header_agrees_with_pillow_or_leaves_it_to_pillow(mode, usual, progressive):
    for orientation in range(10):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stream = io.BytesIO()
        Image.new(mode, (37, 21)).save(
            stream, "JPEG", progressive=progressive, exif=exif.tobytes() if orientation else b""
        )
        data = stream.getvalue()
        expected = (37, 21, orientation if 1 <= orientation <= 8 else 1)
        assert image_io.jpeg_header(data) == (expected if usual else None)
        header = read_header(data, "a.jpg")
        assert (header.width, header.height, header.orientation) == expected
        assert all(image_io.jpeg_header(data[:size]) in (None, expected) for size in range(2, len(data)))
