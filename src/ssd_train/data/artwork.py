"""Elements of synthetic images: background textures and marks.

Marks are the demo's logo, its look-alikes and other shapes. A mark is a list of (fill, outline): outlines are (K, 2)
points, x to the right and y down, painted in order with fill 1 (ink) or 0 (hole). A background is a float32 texture
(H, W) in about -1..1. All randomness comes from the given `RandomState`, whose streams are the same in all NumPy
versions.
"""

from __future__ import annotations

from typing import Callable, Dict, List, Tuple

import numpy as np

from ssd_train.data.boxes import SizeWH
from ssd_train.data.pixels import opencv

Mark = List[Tuple[int, np.ndarray]]
Texture = Callable[[np.random.RandomState, SizeWH], np.ndarray]

# marks are painted this much larger without antialiasing, then averaged: coverage in steps of 1/64
_OVERSAMPLING = 8
# a pixel belongs to a mark if the mark covers at least this fraction of it
VISIBLE_COVERAGE = 0.25


def render(mark: Mark, angle: float, long_side: int) -> np.ndarray:
    """Rasterise a mark, rotated clockwise by `angle` degrees.

    Args:
        mark: Outlines of the mark.
        angle: Clockwise rotation in degrees.
        long_side: Longer side of the rotated mark in pixels, before cropping.

    Returns:
        Coverage float32 (h, w) in 0..1, cropped so that each border row and column has a pixel of at least
        VISIBLE_COVERAGE.
    """
    turn = np.deg2rad(angle)
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    outlines = [(fill, points @ matrix) for fill, points in mark]
    inked = np.concatenate([points for fill, points in outlines if fill])
    low, extent = inked.min(axis=0), np.ptp(inked, axis=0)
    scale = long_side / extent.max()
    width, height = np.ceil(extent * scale).astype(int)
    cv2 = opencv()
    canvas = np.zeros((height * _OVERSAMPLING, width * _OVERSAMPLING), np.uint8)
    for fill, points in outlines:
        corners = np.round((points - low) * scale * _OVERSAMPLING).astype(np.int32)
        cv2.fillPoly(canvas, [corners], (255 * fill,))
    return _tight(cv2.resize(canvas, (int(width), int(height)), interpolation=cv2.INTER_AREA).astype(np.float32) / 255)


def _tight(coverage: np.ndarray) -> np.ndarray:
    visible = coverage >= VISIBLE_COVERAGE
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    return coverage[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def polygon(corners: int, radius: float, phase: float = -90.0) -> np.ndarray:
    """Return a regular polygon (corners, 2) around the origin.

    Args:
        corners: Number of corners.
        radius: Distance of the corners from the origin.
        phase: Angle of the first corner in degrees; -90 is up.
    """
    angles = np.deg2rad(phase + 360.0 * np.arange(corners) / corners)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def disc(radius: float) -> np.ndarray:
    """Return a circle around the origin as a polygon (64, 2)."""
    return polygon(64, radius)


def bar(left: float, top: float, width: float, height: float) -> np.ndarray:
    """Return an axis-aligned rectangle (4, 2)."""
    return np.array([[left, top], [left + width, top], [left + width, top + height], [left, top + height]])


def star(points: int, radius: float, inner: float) -> np.ndarray:
    """Return a star (2 * points, 2) with tips at `radius` and notches at `inner`."""
    outlines = np.stack([polygon(points, radius), polygon(points, inner, -90.0 + 180.0 / points)], axis=1)
    return outlines.reshape(-1, 2)


_RING: Mark = [(1, disc(1.0)), (0, disc(0.76))]
_FRAME: Mark = [(1, bar(-0.92, -0.92, 1.84, 1.84)), (0, bar(-0.69, -0.69, 1.38, 1.38))]
# taller than wide: an equilateral triangle rotated by 30 degrees looks like its mirror image rotated by -30 degrees
_PEAK = np.array([[0.0, -0.62], [0.46, 0.42], [-0.46, 0.42]])
_TRIANGLE: Mark = [(1, _PEAK)]
# two feathers per side, left and right alike, so that a mirrored logo is still the logo
_WINGS: Mark = [
    (1, bar(side * reach - (reach - 0.9 if side > 0 else 0), top, reach - 0.9, 0.24))
    for side in (-1, 1)
    for top, reach in ((-0.34, 1.5), (0.1, 1.3))
]

LOGO: Mark = _WINGS + _RING + _TRIANGLE

LOOK_ALIKES: Dict[str, Mark] = {
    "without triangle": _WINGS + _RING,
    "without wings": _RING + _TRIANGLE,
    "square": _WINGS + _FRAME + _TRIANGLE,
    "full": _WINGS + [(1, disc(1.0)), (0, bar(-0.5, -0.12, 1.0, 0.24))],
    "without ring": _WINGS + _TRIANGLE,
}

SHAPES: Dict[str, Mark] = {
    "triangle": [(1, polygon(3, 1.0))],
    "disc": [(1, disc(1.0))],
    "ring": [(1, disc(1.0)), (0, disc(0.6))],
    "square": [(1, bar(-1, -1, 2, 2))],
    "cross": [(1, bar(-1, -0.25, 2, 0.5)), (1, bar(-0.25, -1, 0.5, 2))],
    "star": [(1, star(5, 1.0, 0.42))],
    "hexagon": [(1, polygon(6, 1.0)), (0, polygon(6, 0.62))],
    "bars": [(1, bar(-1, y, 2, 0.3)) for y in (-0.8, -0.15, 0.5)],
    "arrow": [(1, bar(-1, -0.2, 1.3, 0.4)), (1, np.array([[0.2, -0.6], [1.0, 0.0], [0.2, 0.6]]))],
}


def _grid(size_wh: SizeWH, random: np.random.RandomState) -> Tuple[np.ndarray, np.ndarray]:
    """Return pixel coordinates (H, W) along two orthogonal axes, rotated at random."""
    width, height = size_wh
    y, x = np.mgrid[:height, :width].astype(np.float32)
    turn = random.uniform(0, 2 * np.pi)
    return x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)


def smooth_noise(random: np.random.RandomState, size_wh: SizeWH, cells: int) -> np.ndarray:
    """Return smooth random noise (H, W) in about -1..1.

    Args:
        random: Source of randomness.
        size_wh: (width, height) of the result.
        cells: Number of random values across the width, plus one.
    """
    width, height = size_wh
    coarse = random.uniform(-1, 1, (max(2, cells * height // width + 1), cells + 1)).astype(np.float32)
    cv2 = opencv()
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _gradient(random: np.random.RandomState, size_wh: SizeWH) -> np.ndarray:
    u, _ = _grid(size_wh, random)
    ramp = (u - u.min()) / np.ptp(u) * 2 - 1
    return np.abs(ramp) * 2 - 1 if random.rand() < 0.4 else ramp


def _stripes(random: np.random.RandomState, size_wh: SizeWH) -> np.ndarray:
    u, _ = _grid(size_wh, random)
    wave = np.sin(u * 2 * np.pi / random.uniform(10, 60))
    return np.clip(wave * random.choice([1.0, 6.0]), -1, 1)


def _clouds(random: np.random.RandomState, size_wh: SizeWH) -> np.ndarray:
    octaves = [smooth_noise(random, size_wh, 4 * 2**octave) * 0.62**octave for octave in range(5)]
    return np.sum(octaves, axis=0)


def _panels(random: np.random.RandomState, size_wh: SizeWH) -> np.ndarray:
    texture = np.full(size_wh[::-1], random.uniform(-1, 1), np.float32)
    for _ in range(random.randint(8, 20)):
        corners = polygon(random.randint(3, 7), random.uniform(0.08, 0.4) * size_wh[0], random.uniform(0, 360))
        centre = random.uniform(0, 1, 2) * size_wh
        opencv().fillPoly(texture, [np.round(corners + centre).astype(np.int32)], (random.uniform(-1, 1),))
    return opencv().GaussianBlur(texture, (0, 0), random.uniform(0.6, 5))


def _print(random: np.random.RandomState, size_wh: SizeWH) -> np.ndarray:
    texture = np.full(size_wh[::-1], -0.6, np.float32)
    step, letters = random.randint(14, 30), "abcdefghiklmnoprstuvwy     AEHKMNST0123456789"
    for baseline in range(step, size_wh[1] + step, step):
        line = "".join(letters[i] for i in random.randint(0, len(letters), 60))
        place = (random.randint(-20, 20), baseline)
        cv2 = opencv()
        cv2.putText(texture, line, place, cv2.FONT_HERSHEY_SIMPLEX, step / 40, (1.0,), 1, cv2.LINE_AA)
    return texture


def _checkers(random: np.random.RandomState, size_wh: SizeWH) -> np.ndarray:
    u, v = _grid(size_wh, random)
    side = random.uniform(12, 40)
    return ((np.floor(u / side) + np.floor(v / side)) % 2 * 2 - 1).astype(np.float32)


def _bricks(random: np.random.RandomState, size_wh: SizeWH) -> np.ndarray:
    u, v = _grid(size_wh, random)
    length, course = random.uniform(30, 60), random.uniform(12, 22)
    row = np.floor(v / course)
    along = u / length + 0.5 * (row % 2)
    joint = (v / course % 1 < 0.12) | (along % 1 < 0.06)
    tone = np.sin(np.floor(along) * 12.9 + row * 78.2)  # a simple hash gives each brick its own tone
    return np.where(joint, 1.0, tone * 0.6 - 0.4).astype(np.float32)


def _dots(random: np.random.RandomState, size_wh: SizeWH) -> np.ndarray:
    u, v = _grid(size_wh, random)
    pitch = random.uniform(8, 22)
    wave = np.sin(u * 2 * np.pi / pitch) * np.sin(v * 2 * np.pi / pitch)
    return np.clip(4 * (wave - random.uniform(-0.1, 0.5)), -1, 1)


def _grain(random: np.random.RandomState, size_wh: SizeWH) -> np.ndarray:
    u, v = _grid(size_wh, random)
    bend = smooth_noise(random, size_wh, 3) * random.uniform(10, 30)
    return np.sin((u + bend) * 2 * np.pi / random.uniform(8, 24)) * 0.7 + np.sin(v / 90) * 0.3


def _facets(random: np.random.RandomState, size_wh: SizeWH) -> np.ndarray:
    u, v = _grid(size_wh, random)
    seeds = random.randint(0, u.size, random.randint(15, 50))
    distances = [np.hypot(u - u.flat[seed], v - v.flat[seed]) for seed in seeds]
    tones = random.uniform(-1, 1, len(seeds)).astype(np.float32)
    return tones[np.argmin(distances, axis=0)]


BACKGROUNDS: Dict[str, Dict[str, Texture]] = {
    "train": {"gradient": _gradient, "stripes": _stripes, "clouds": _clouds, "panels": _panels, "print": _print},
    "validation": {"checkers": _checkers, "bricks": _bricks, "dots": _dots, "grain": _grain, "facets": _facets},
}
