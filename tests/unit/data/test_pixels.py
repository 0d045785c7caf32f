"""Pillow and NumPy in OpenCV's place: the same pixels, and a program that runs without OpenCV."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys

import cv2
import numpy as np
import pytest
from helpers.data import picture
from helpers.images import GOOD, encoded, noise
from PIL import Image

from ssd_train.data import opencv_pixels, pillow_pixels, pixels
from ssd_train.data.image_io import EncodedImage, decode, sniff_format
from ssd_train.data.pixels import resize, shrink
from ssd_train.errors import DataError

SMOOTH = cv2.resize(picture((11, 9)), (123, 87), interpolation=cv2.INTER_CUBIC)
DEEP = np.random.RandomState(0).randint(0, 65536, (40, 60, 4)).astype(np.uint16)


def by_opencv(ending, image):
    return cv2.imencode(ending, image)[1].tobytes()


def by_pillow(image, **options):
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def whatever_can_be_saved():
    for mode, format in itertools.product(("RGB", "L", "1", "LA", "P", "RGBA", "CMYK"), pillow_pixels.READERS):
        try:
            yield f"{mode} {format}", encoded(SMOOTH, format, mode=mode)
        except OSError:  # the format has no such mode
            continue


PALETTE = Image.fromarray(SMOOTH).quantize(16)
ENCODED = {
    **{name: data for name, (data, _) in GOOD.items()},
    **dict(whatever_can_be_saved()),
    "16 bit gray png": by_opencv(".png", DEEP[..., 0]),
    "16 bit rgb png": by_opencv(".png", DEEP[..., :3]),
    "16 bit rgba png": by_opencv(".png", DEEP),
    "16 bit gray tiff": by_opencv(".tiff", DEEP[..., 0]),
    "16 bit rgb tiff": by_opencv(".tiff", DEEP[..., :3]),
    "rgba tiff": by_opencv(".tiff", (DEEP >> 8).astype(np.uint8)),
    "palette of 2 bits": by_pillow(Image.fromarray(SMOOTH).quantize(4), bits=2),
    "palette with alpha": by_pillow(PALETTE, transparency=bytes([0, 128, 255] * 5)),
    "palette with a transparent entry": by_pillow(PALETTE, transparency=3),
    "rgb with a transparent colour": by_pillow(Image.fromarray(SMOOTH), transparency=tuple(SMOOTH[0, 0].tolist())),
    "gray with a transparent level": by_pillow(Image.fromarray(SMOOTH[..., 0]), transparency=int(SMOOTH[0, 0, 0])),
    **{f"jpeg {s} {q}": encoded(SMOOTH, "JPEG", subsampling=s, quality=q) for s in (0, 1, 2) for q in (50, 95)},
    "noise jpeg": encoded(noise(), "JPEG"),
}


def difference(one, other):
    assert one.shape == other.shape and one.dtype == other.dtype == np.uint8
    return int(np.abs(one.astype(int) - other).max())


@pytest.mark.parametrize("data", ENCODED.values(), ids=ENCODED)
def test_decode_by_pillow_gives_the_pixels_of_opencv(data, recwarn):
    format = sniff_format(data)
    for scale in (1, 2, 4, 8) if format == "JPEG" else (1,):
        expected = opencv_pixels.decode(data, format, "x", scale)
        assert difference(pillow_pixels.decode(data, format, "x", scale), expected) <= (2 if format == "JPEG" else 1)
    assert not recwarn.list


@pytest.mark.parametrize("name", ["bccd", "fruit", "raccoon"])
def test_pixels_photographs_are_decoded_equally(shared_data, name, monkeypatch):
    """Pictures of cameras and of the web, whole and as a network of 96 px sees them: a file, and its pixels."""
    paths = sorted(path for path in (shared_data / "data" / name / "images").rglob("*") if path.is_file())[:40]
    assert len(paths) == 40
    off = []
    for path in paths:
        data = path.read_bytes()
        seen = []
        for library in (opencv_pixels, pillow_pixels):
            monkeypatch.setattr(pixels, "operations", library)
            seen += [decode(data, str(path)), resize(EncodedImage(data, str(path)).decode_downscaled(96), (96, 96))]
        assert difference(seen[0], seen[2]) <= 2 and difference(seen[1], seen[3]) <= 2, path
        off.append(np.abs(resize(seen[0], (96, 96)).astype(int) - seen[1]).mean())
    assert np.mean(off) < 1 and max(off) < 4


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_decode_of_32_bit_values_is_refused_by_both(dtype):
    data = encoded(np.arange(2400).reshape(40, 60).astype(dtype), "TIFF")
    for library in (opencv_pixels, pillow_pixels):
        with pytest.raises(DataError, match="^x: found a .*TIFF"):
            library.decode(data, "TIFF", "x")


@pytest.mark.parametrize("size_wh", [(640, 480), (641, 479), (50, 90), (1000, 20), (300, 300), (301, 299), (1, 1)])
@pytest.mark.parametrize("to", [(300, 300), (100, 77), (512, 512), (320, 240), (1, 1)])
def test_resize_linear_without_opencv_is_within_a_level(size_wh, to):
    image = picture(size_wh)
    assert difference(pillow_pixels.resize_linear(image, to), opencv_pixels.resize_linear(image, to)) <= 1


@pytest.mark.parametrize(
    "name, arguments",
    [
        *(("rotate", (turns,)) for turns in (1, 2, 3)),
        *(("flip", flips) for flips in ((True, False), (False, True), (True, True))),
        ("transform_colour", (np.array([[1.2, -0.3, 0, 9], [0, 3, 0, -90], [0.1, 0.2, 0.3, 0]], np.float32),)),
        ("pad", ((1, 2, 3, 4), (124, 116, 104))),
        ("to_gray", ()),
    ],
)
def test_operation_without_opencv_is_within_a_level(name, arguments):
    image = picture((90, 70))
    found = getattr(pillow_pixels, name)(image, *arguments)
    assert difference(found, getattr(opencv_pixels, name)(image, *arguments)) <= 1
    assert found.flags.c_contiguous


@pytest.mark.parametrize("format", list(pillow_pixels.READERS))
def test_encode_without_opencv_is_decoded_equally(format):
    one, other = (library.encode(SMOOTH, format, 90) for library in (opencv_pixels, pillow_pixels))
    assert sniff_format(one) == sniff_format(other) == format
    decoded = [opencv_pixels.decode(data, format, "x").astype(int) for data in (one, other)]
    assert np.abs(decoded[0] - decoded[1]).mean() <= (1 if format in ("JPEG", "WEBP") else 0)


@pytest.mark.usefixtures("pixel_library")
@pytest.mark.parametrize("size_wh", [(2400, 600), (1203, 1201), (640, 4801)])
@pytest.mark.parametrize("side, factor", [(300, 2), (150, 4), (75, 8)])
def test_shrink_before_resize_changes_no_pixel(size_wh, side, factor):
    image = picture(size_wh)
    smaller = shrink(image, factor)
    assert smaller.shape[1::-1] == tuple(-(-length // factor) for length in size_wh)
    np.testing.assert_array_equal(resize(smaller, (side, side)), resize(image, (side, side)))


WITHOUT = "import sys; sys.modules['cv2'] = None\n"  # what makes `import cv2` raise ImportError


def python(program, *arguments):
    command = [sys.executable, "-c", WITHOUT + program, *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)


def test_pixels_without_opencv_use_pillow_and_warn_once(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(SMOOTH))
    found = python(
        "from ssd_train.data import image_io, pixels\n"
        "from pathlib import Path\n"
        "image = image_io.decode(Path(sys.argv[1]).read_bytes(), 'a')\n"
        "print(pixels.operations.NAME, image.shape, int(image.sum()))",
        tmp_path / "a.png",
    )
    assert found.stdout.split(" ", 1) == ["Pillow", f"{SMOOTH.shape} {SMOOTH.sum()}\n"], found.stderr
    assert len(found.stderr.splitlines()) == 1


def test_demo_without_opencv_is_one_error(tmp_path):
    found = python(
        "from ssd_train.cli.main import main\nsys.exit(main(['demo', '--folder', sys.argv[1]]))", tmp_path / "demo"
    )
    assert found.returncode == 2 and "pip install opencv-python-headless" in found.stderr.splitlines()[-1]
    assert "Traceback" not in found.stderr
