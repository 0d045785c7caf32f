"""Images of every kind: those that are read, and those that are refused and why."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quadrants(width=60, height=40):
    """A picture whose four corners tell how it is turned."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = RED
    image[: height // 2, width // 2 :] = GREEN
    image[height // 2 :, : width // 2] = BLUE
    image[height // 2 :, width // 2 :] = WHITE
    return image


def noise(width=120, height=80):
    return np.random.RandomState(0).randint(0, 256, (height, width, 3)).astype(np.uint8)


def encoded(image, format="PNG", mode=None, **options):
    stream = io.BytesIO()
    picture = Image.fromarray(image)
    (picture.convert(mode) if mode else picture).save(stream, format, **options)
    return stream.getvalue()


def with_exif(image, orientation, format="JPEG"):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if format == "JPEG" else {}
    return encoded(image, format, exif=exif, **options)


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_claiming(width, height):
    """A small file whose header claims a large picture."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def half_with_thumbnail():
    thumbnail = encoded(noise(32, 24), "JPEG")
    block = b"Exif\0\0" + b"II*\0\x08\0\0\0" + struct.pack("<HI", 0, 0) + thumbnail
    whole = encoded(noise(), "JPEG")
    assert thumbnail.endswith(b"\xff\xd9")
    return (whole[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + whole[2:])[: len(block) + 3000]


GIF = encoded(noise(), "GIF", mode="P")
TRUNCATED = r"(cut off|damaged)"

BAD = {
    "empty": (b"", "found an empty file"),
    "html": (b"<!DOCTYPE html><html><body>404</body></html>", "found an HTML page"),
    "text": (b"no image here, only words and more words", "found text beginning b'no image"),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "found a Git LFS pointer"),
    "random bytes": (bytes(range(200, 256)), "found unknown bytes beginning c8c9"),
    "gif": (GIF, "found a GIF image, expected an image .JPEG, PNG"),
    "heic": (b"\0\0\0\x20ftypheic" + bytes(40), "found a HEIC image"),
    "jpeg header only": (encoded(noise(), "JPEG")[:20], "found a damaged JPEG header"),
    "jpeg half": (encoded(noise(), "JPEG")[:3000], TRUNCATED),
    "jpeg without its last byte": (encoded(noise(), "JPEG")[:-1], "JPEG cut off after"),
    "jpeg half with a thumbnail": (half_with_thumbnail(), "JPEG cut off after"),
    "png half": (encoded(noise())[:3000], "PNG cut off after"),
    "png without its end": (encoded(noise())[:-12], "PNG cut off after"),
    "png with a hole": (encoded(noise())[:3000] + encoded(noise())[-12:], "PNG cut off"),
    "png with a wrong byte": (encoded(noise())[:3000] + b"??" + encoded(noise())[3002:], "PNG that cannot be decoded"),
    "png with an endless chunk": (encoded(noise())[:33] + b"\xd0" + encoded(noise())[34:], "PNG cut off"),
    "bmp half": (encoded(noise(), "BMP")[:3000], TRUNCATED),
    "tiff half": (encoded(noise(), "TIFF", compression="tiff_lzw")[:3000], TRUNCATED),
    "webp half": (encoded(noise(), "WEBP")[:1000], TRUNCATED),
    "1x1": (encoded(noise(1, 1)), "found 1x1, expected sides of at least 10 px"),
    "20000x20": (encoded(np.zeros((20, 20000, 3), np.uint8)), "found 20000x20, expected an aspect ratio of at most 50"),
    "animated png": (
        encoded(noise(), save_all=True, append_images=[Image.fromarray(255 - noise())]),
        "found PNG with 2 frames, expected one picture",
    ),
    "animated webp": (
        encoded(noise(), "WEBP", save_all=True, duration=100, append_images=[Image.fromarray(255 - noise())]),
        "found WEBP with 2 frames",
    ),
    "tiff on its side": (encoded(noise(), "TIFF", tiffinfo={274: 6}), "TIFF with orientation 6, expected 1"),
    "claims 40000x40000": (png_claiming(40000, 40000), "found 40000x40000 = 1600.0 Mpx"),
}

GOOD = {
    "jpeg": (encoded(quadrants(), "JPEG", quality=95), "JPEG"),
    "progressive jpeg": (encoded(quadrants(), "JPEG", quality=95, progressive=True), "JPEG"),
    "cmyk jpeg": (encoded(quadrants(), "JPEG", mode="CMYK", quality=95), "JPEG"),
    "png": (encoded(quadrants()), "PNG"),
    "palette png": (encoded(quadrants(), mode="P"), "PNG"),
    "rgba png": (encoded(quadrants(), mode="RGBA"), "PNG"),
    "bmp": (encoded(quadrants(), "BMP"), "BMP"),
    "tiff": (encoded(quadrants(), "TIFF"), "TIFF"),
    "webp": (encoded(quadrants(), "WEBP", lossless=True), "WEBP"),
    "motion photo": (encoded(quadrants(), "JPEG", quality=95) + b"\0ftyp\xff\xd9 \xff\xda trailing video", "JPEG"),
}
