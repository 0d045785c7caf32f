"""Find duplicate images: identical bytes, or nearly the same picture.

Near duplicates are edited copies or neighbouring frames of a video.

Candidates have similar difference hashes along rows and columns (is a patch brighter than its neighbour? N. Krawetz,
"Kind of Like That", 2013). They are confirmed by the correlation of small grayscale images. Measured on 864
photographs: all copies (resized, recompressed, slightly cropped) differ in at most 7 of 128 bits and correlate by 0.96
or more; no other pair that differs in at most 12 bits correlates by more than 0.89.
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
_PAIRS = 4096  # per block: 32 MB
_BITS_SET = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Return a grayscale thumbnail uint8 (32, 32) of an RGB image (H, W, 3).

    It averages the green channel, as an approximation of brightness, on a regular grid of about 80 points per side.
    That takes a tenth of the time of averaging all pixels.
    """
    rows, columns = (max(side // _SAMPLED, 1) for side in image.shape[:2])
    points = np.ascontiguousarray(image[rows // 2 :: rows, columns // 2 :: columns, 1])
    return pixels.operations.resize_area(points, (_SIDE, _SIDE))


def same_bytes(digests: Sequence[bytes]) -> Iterator[Tuple[int, int]]:
    """Yield pairs (first, later) of indices with equal digests; skips empty digests."""
    first: Dict[bytes, int] = {}
    for index, digest in enumerate(digests):
        if digest and first.setdefault(digest, index) != index:
            yield first[digest], index


def near_duplicates(thumbnails: np.ndarray, split_of: np.ndarray) -> List[Tuple[int, int]]:
    """Return pairs (earlier, later) of indices of images that look alike.

    An image occurs as the later one at most once for its own split and once for the other split. Not all pairs are
    compared: only pairs whose hashes agree in two consecutive bytes, as all pairs do that differ in fewer than 8 bits.

    Args:
        thumbnails: Uint8 (N, 32, 32).
        split_of: (N,), 0 for training and 1 for validation.
    """
    hashes = difference_hashes(thumbnails)
    partner = np.full((2, len(hashes)), -1)
    for a, b in _candidates(hashes):
        across = (split_of[a] != split_of[b]).astype(np.int64)
        unknown = partner[across, b] < 0
        a, b, across = a[unknown], b[unknown], across[unknown]
        alike = _correlation(thumbnails[a], thumbnails[b]) >= MIN_CORRELATION
        partner[across[alike], b[alike]] = a[alike]
    across, later = np.nonzero(partner >= 0)
    return sorted(zip(partner[across, later].tolist(), later.tolist()), key=lambda pair: pair[::-1])


def difference_hashes(thumbnails: np.ndarray) -> np.ndarray:
    """Return the difference hashes uint8 (N, 16) of thumbnails (N, 32, 32).

    The first 64 bits compare the 9 patches in each of 8 rows: a bit is set if a patch is brighter than the one before
    it by more than 1 of 255. The other 64 bits compare patches in columns.
    """
    few, more = _patches(_GRID), _patches(_GRID + 1)
    level = few[0].sum() * more[0].sum()  # sum of a patch of value 1; sums below 2**24 are exact in float32
    hashes = [np.zeros((0, 2 * _GRID), np.uint8)]
    for start in range(0, len(thumbnails), _PAIRS):
        images = thumbnails[start : start + _PAIRS].astype(np.float32)
        wide, high = few @ images @ more.T, more @ images @ few.T  # (N, 8, 9), (N, 9, 8)
        bits = np.stack([wide[:, :, 1:] > wide[:, :, :-1] + level, high[:, 1:] > high[:, :-1] + level], axis=1)
        hashes.append(np.packbits(bits.reshape(len(images), -1), axis=1))
    return np.concatenate(hashes)


def _patches(count: int) -> np.ndarray:
    """Return the fraction (count, 32) of each point in each patch, times `count`.

    32 points in a row are divided into `count` equal patches.
    """
    edges, points = np.arange(count + 1) * _SIDE, np.arange(_SIDE) * count
    inside = np.minimum(edges[1:, None], points + count) - np.maximum(edges[:-1, None], points)
    return np.maximum(inside, 0).astype(np.float32)


def _candidates(hashes: np.ndarray) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
    """Yield index arrays (a, b), a < b, of pairs whose hashes differ in few bits.

    Only pairs with two equal consecutive bytes are compared, and each hash only with the next few in sorted order,
    since a static camera yields thousands of equal ones.
    """
    for first in range(hashes.shape[1]):
        # sort by the two bytes that must be equal and by two more, so that similar hashes are neighbours
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
    """Return the Pearson correlation (M,) of pairs (M, 32, 32); 0 for uniform images."""
    a, b = (images.reshape(-1, _SIDE * _SIDE).astype(np.float32) for images in (a, b))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    norms = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.divide((a * b).sum(axis=1), norms, out=np.zeros_like(norms), where=norms > 0)
