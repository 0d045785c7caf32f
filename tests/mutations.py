"""Files damaged as hand edits, broken tools, cut-off copies and attackers leave them, for tests of what reads them."""

from __future__ import annotations

import os
import random

TOKENS = [
    *[b"", b"0", b"-1", b"1e999", b"9" * 30, b"NaN", b"nan", b"inf", b"null", b"true"],
    *[b'"', b"{", b"}", b"[", b"]", b",", b":", b"<", b"</", b"&", b"\\ud800"],
    *[b"\n", b"\r", b"\t", b"\0", b"\xff", b"\xc3", b"\x80" * 4, b"\xff" * 4],
]


def tries(usual: int) -> int:
    """How many mutations to try: SSD_TRAIN_FUZZ, or without it the `usual` number."""
    return int(os.environ.get("SSD_TRAIN_FUZZ", usual))


def mutated(data: bytes, rng: random.Random, most: int = 5) -> bytes:
    """`data` with one to `most` changes: bytes lost, repeated, or replaced by tokens or noise. Now and then it is cut
    off."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, most)):
        start = rng.randrange(len(changed) + 1)
        end = start + rng.choice([0, 0, 1, 1, 2, 5, 20])
        noise = bytes(rng.randrange(256) for _ in range(rng.choice([1, 4, 8])))
        changed[start:end] = rng.choice([*TOKENS, bytes(changed[end : end + 30]), noise])
    return bytes(changed[: rng.randrange(len(changed) + 1)] if rng.random() < 0.05 else changed)
