"""Pictures that are there twice: the same bytes, or so alike that they are copies or neighbouring frames of a video.

Alike is what agrees in a difference hash (which of two neighbouring patches is brighter: N. Krawetz, "Kind of Like
That", 2013), along rows and along columns, and then in the correlation of small gray pictures. Among 864 photographs
that this was tried with, all copies (of other sizes and qualities, slightly cut) differ in at most 7 of 128 bits and
correlate by 0.96 or more; of all other pairs none that differs in at most 12 bits correlates by more than 0.89.
"""

from __future__ import annotations

from typing import Dict, Iterator, List, Sequence, Tuple

import numpy as np

from ssd_train.data import pixels

MAX_BITS = 12
MIN_CORRELATION = 0.93
_SIDE = 32
_GRID = 8
_SAMPLED = 80
_NEIGHBOURS = 32
_PAIRS = 4096  # worked on at once: 32 MB
_BITS_SET = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


def thumbnail(image: np.ndarray) -> np.ndarray:
    """uint8 (32, 32) of RGB (H, W, 3): its green channel, which stands for the brightness, averaged from an even grid
    of about 80 points a side, in a tenth of the time that all points take."""
    rows, columns = (max(side // _SAMPLED, 1) for side in image.shape[:2])
    points = np.ascontiguousarray(image[rows // 2 :: rows, columns // 2 :: columns, 1])
    return pixels.operations.resize_area(points, (_SIDE, _SIDE))


def same_bytes(digests: Sequence[bytes]) -> Iterator[Tuple[int, int]]:
    """Pairs (earlier, later) of equal digests, each later one with the first; an empty digest is equal to none."""
    first: Dict[bytes, int] = {}
    for index, digest in enumerate(digests):
        if digest and first.setdefault(digest, index) != index:
            yield first[digest], index


def near_duplicates(thumbnails: np.ndarray, sides: np.ndarray) -> List[Tuple[int, int]]:
    """Pairs (earlier, later) of pictures that look alike, for `thumbnails` uint8 (N, 32, 32) and `sides` (N,), 0 for
    training and 1 for validation. Each picture is named as the later one at most once for its own side and once for the
    other. Not all pairs are compared: two pictures meet when their hashes agree in two bytes in a row, as all do that
    differ in fewer than 8 bits."""
    hashes = difference_hashes(thumbnails)
    partner = np.full((2, len(hashes)), -1)
    for a, b in _candidates(hashes):
        across = (sides[a] != sides[b]).astype(np.int64)
        unknown = partner[across, b] < 0
        a, b, across = a[unknown], b[unknown], across[unknown]
        alike = _correlation(thumbnails[a], thumbnails[b]) >= MIN_CORRELATION
        partner[across[alike], b[alike]] = a[alike]
    across, later = np.nonzero(partner >= 0)
    return sorted(zip(partner[across, later].tolist(), later.tolist()), key=lambda pair: pair[::-1])


def difference_hashes(thumbnails: np.ndarray) -> np.ndarray:
    """uint8 (N, 16), 128 bits each, of thumbnails (N, 32, 32): whether a patch is brighter, by more than 1 of 255, than
    the one before it in its row, for 8 rows of 9; then the same for columns."""
    few, more = _patches(_GRID), _patches(_GRID + 1)
    level = few[0].sum() * more[0].sum()  # what a patch of value 1 sums up to; all sums are whole numbers below 2**24
    hashes = [np.zeros((0, 2 * _GRID), np.uint8)]
    for start in range(0, len(thumbnails), _PAIRS):
        pictures = thumbnails[start : start + _PAIRS].astype(np.float32)
        wide, high = few @ pictures @ more.T, more @ pictures @ few.T  # (N, 8, 9), (N, 9, 8)
        bits = np.stack([wide[:, :, 1:] > wide[:, :, :-1] + level, high[:, 1:] > high[:, :-1] + level], axis=1)
        hashes.append(np.packbits(bits.reshape(len(pictures), -1), axis=1))
    return np.concatenate(hashes)


def _patches(count: int) -> np.ndarray:
    """(count, 32): how much of each of 32 points in a row lies in each of `count` equal patches, times count."""
    edges, points = np.arange(count + 1) * _SIDE, np.arange(_SIDE) * count
    inside = np.minimum(edges[1:, None], points + count) - np.maximum(edges[:-1, None], points)
    return np.maximum(inside, 0).astype(np.float32)


def _candidates(hashes: np.ndarray) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
    """Index arrays (a, b), a < b, of pairs whose hashes differ in few bits, among those equal in two bytes in a row.
    Of many equal ones each is compared with the next few only: a still camera makes thousands."""
    for first in range(hashes.shape[1]):
        # the two bytes that must be equal, and two more, so that those most alike are neighbours
        turned = np.roll(hashes, -first, axis=1)[:, :4].astype(np.int64)
        key = turned @ (1 << np.array([24, 16, 8, 0]))
        order = np.argsort(key, kind="stable")
        for offset in range(1, min(_NEIGHBOURS, len(order) - 1) + 1):
            low, high = order[:-offset], order[offset:]
            equal = key[low] >> 16 == key[high] >> 16
            if not equal.any():
                break
            low, high = low[equal], high[equal]
            close = _BITS_SET[hashes[low] ^ hashes[high]].sum(axis=1) <= MAX_BITS
            a, b = np.minimum(low[close], high[close]), np.maximum(low[close], high[close])
            for start in range(0, len(a), _PAIRS):
                yield a[start : start + _PAIRS], b[start : start + _PAIRS]


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson correlation (M,) of pairs of pictures (M, 32, 32); 0 where one has a single colour."""
    a, b = (pictures.reshape(-1, _SIDE * _SIDE).astype(np.float32) for pictures in (a, b))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    norms = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.divide((a * b).sum(axis=1), norms, out=np.zeros_like(norms), where=norms > 0)
