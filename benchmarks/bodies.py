"""What a server on the open net is sent: bodies that are broken, huge or meant to harm, and how each is answered."""

from __future__ import annotations

import json
import struct
import zlib
from typing import List, NamedTuple

import numpy as np

from ssd_train.data.image_io import encode_jpeg


class Sent(NamedTuple):
    """A request, and the status that it has to get."""

    name: str
    body: bytes
    content_type: str
    status: int


def bad_bodies(picture: np.ndarray, max_bytes: int = 6 << 20) -> List[Sent]:
    """One of each kind; `picture` is RGB uint8 (H, W, 3)."""
    jpeg = encode_jpeg(picture)
    noise = np.random.RandomState(0).bytes(20_000)
    return [
        Sent("empty", b"", "image/jpeg", 400),
        Sent("noise", noise, "application/x-image", 400),
        Sent("noise behind a JPEG's first bytes", jpeg[:200] + noise, "image/jpeg", 400),
        Sent("a JPEG cut off", jpeg[: len(jpeg) // 2], "image/jpeg", 400),
        Sent("a page", b"<!doctype html><html></html>", "image/png", 400),
        Sent("a PNG that says 60000 x 60000", claimed_png(60_000, 60_000), "image/png", 413),
        Sent("one colour, 49 Mpx in 150 kB", flat_png(7_000), "image/png", 200),
        Sent("too many bytes", bytes(max_bytes + 1), "image/jpeg", 413),
        Sent("lists nested without end", b"[" * 500_000, "application/json", 400),
        Sent("many small lists", json.dumps([[[1, 2], [3]]] * 100_000).encode(), "application/json", 400),
        Sent("an .npy that says 24 TB", claimed_npy((10**6, 10**6, 3)), "application/x-npy", 400),
        Sent("an .npy of nested brackets", npy_header("(" * 9_000), "application/x-npy", 400),
        Sent("an unknown type", jpeg, "video/mp4", 415),
    ]


def claimed_png(width: int, height: int, pixels: bytes = b"\0" * 10) -> bytes:
    """Return a PNG whose header claims this size, whatever its pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(pixels, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def flat_png(side: int) -> bytes:
    """Return a PNG of a square of one colour."""
    return claimed_png(side, side, bytes((1 + 3 * side) * side))


def npy_header(text: str, data: bytes = b"") -> bytes:
    """Return an .npy file with the header `text`."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + data


def claimed_npy(shape: "tuple[int, ...]") -> bytes:
    """Return an .npy file without data whose header claims this shape."""
    return npy_header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}")
