"""Synthetic datasets with exactly known boxes, for the demo and for tests.

The same seed gives the same bytes (with the same OpenCV version), and image `i` does not depend on the number of
images. The demo's dataset is not trivial: logos vary in size by a factor of 4 and are rotated by up to 30 degrees, dark
on light or light on dark, on textures, next to other shapes and to marks that differ from the logo in one part, with
shadows, blur and sensor noise. Background kinds of the validation split never occur in training.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ssd_train.boxes import SizeWH, as_boxes
from ssd_train.data.formats.ground_truth import box_label
from ssd_train.data.formats.json_lines import dump_json
from ssd_train.data.image_io import encode
from ssd_train.data.pixels import opencv
from ssd_train.data.structures import ClassNames, LabeledImage
from ssd_train.storage.atomic import open_atomic

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
        origin = (random.randint(-20, 20), baseline)
        cv2 = opencv()
        cv2.putText(texture, line, origin, cv2.FONT_HERSHEY_SIMPLEX, step / 40, (1.0,), 1, cv2.LINE_AA)
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


# longer side of a logo as a fraction of the image width: 36 to 147 px at 320
LOGO_SIDES = (0.115, 0.46)
IMAGE_WH, EMPTY_FRACTION = (320, 240), 0.12  # of sets with logos
MAX_TURN = 30.0

SHAPE_SIDES = (0.15, 0.45)
SHAPE_CLASSES = ClassNames(("disc", "square", "triangle"))
_SHAPE_COLORS = ((210, 60, 50), (60, 170, 80), (60, 90, 210))

Ink = Callable[[np.ndarray], np.ndarray]

_FORMATS = {"jpg": "JPEG", "png": "PNG"}
_CREATED = "2024-01-01T00:00:00.000000"


class DrawnSample(NamedTuple):
    """A synthetic image and its labels.

    Attributes:
        name: Unique in the dataset, without a file extension.
        image: RGB uint8 (H, W, 3).
        boxes: Float32 (N, 4) xyxy, whole pixels: the bounding box of pixels of which the object covers a quarter or
            more.
        class_ids: Int64 (N,).
    """

    name: str
    image: np.ndarray
    boxes: np.ndarray
    class_ids: np.ndarray


def draw_logo_set(count: int, seed: int, backgrounds: str = "train") -> List[DrawnSample]:
    """Draw `count` grayscale images of 320x240 pixels with 1 to 3 logos each; 12 % of them are without a logo.

    Args:
        count: Number of images.
        seed: Seed of the dataset.
        backgrounds: "train" or "validation": two disjoint families of textures, with different random streams.
    """
    stream = list(BACKGROUNDS).index(backgrounds)
    samples = []
    for index, empty in enumerate(_spread(count, EMPTY_FRACTION)):
        random = np.random.RandomState([seed, stream, index])
        canvas = Canvas(_background(random, IMAGE_WH, BACKGROUNDS[backgrounds])[..., None], random)
        samples.append(_draw_logos(f"{backgrounds}-{index:04d}", canvas, random, empty))
    return samples


def _spread(count: int, fraction: float) -> np.ndarray:
    """Return flags (count,); a `fraction` of them is true, evenly spread."""
    steps = np.floor(np.arange(count + 1) * fraction + 0.5)
    return np.diff(steps) > 0


def _draw_logos(name: str, canvas: Canvas, random: np.random.RandomState, empty: bool) -> DrawnSample:
    def ink(under: np.ndarray) -> np.ndarray:
        """Return a gray level that contrasts with the pixels `under` a mark."""
        return _standing_out(float(under.mean()), random)

    logos = 0 if empty else int(random.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))
    boxes = [canvas.place(LOGO, LOGO_SIDES, ink) for _ in range(logos)]
    for mark in _distractors(random):
        canvas.place(mark, LOGO_SIDES, ink)
    logo_boxes = as_boxes([box for box in boxes if box is not None])
    image = np.repeat(_photograph(canvas.pixels, random), 3, axis=2)
    return DrawnSample(name, image, logo_boxes, np.zeros(len(logo_boxes), np.int64))


def _distractors(random: np.random.RandomState) -> List[Mark]:
    """Draw up to two look-alikes of the logo and up to three other shapes.

    With probability 0.5 there is no look-alike.
    """
    alikes, shapes = list(LOOK_ALIKES.values()), list(SHAPES.values())
    chosen = [alikes[i] for i in random.randint(0, len(alikes), random.choice([0, 1, 2], p=[0.5, 0.35, 0.15]))]
    return chosen + [shapes[i] for i in random.randint(0, len(shapes), random.randint(0, 4))]


def _background(random: np.random.RandomState, size_wh: SizeWH, family: Mapping[str, Texture]) -> np.ndarray:
    """Return gray levels float32 (H, W) of a random, uneven texture of `family`."""
    texture = family[list(family)[random.randint(len(family))]](random, size_wh)
    texture = texture + 0.3 * smooth_noise(random, size_wh, 3)
    return (random.uniform(60, 195) + random.uniform(6, 26) * texture).astype(np.float32)


def _standing_out(level: float, random: np.random.RandomState) -> np.ndarray:
    """Return a gray level (1,) that is darker or lighter than `level`.

    The direction is random where both are possible.
    """
    contrast = random.uniform(65, 140) * random.choice([-1, 1])
    if not 5 <= level + contrast <= 250:
        contrast = -contrast
    return np.clip([level + contrast], 5, 250)


def _photograph(pixels: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Add shadow, blur and sensor noise to levels (H, W, C); returns uint8."""
    height, width, _ = pixels.shape
    if random.rand() < 0.5:
        edge = smooth_noise(random, (width, height), 2)
        shadow = 1 / (1 + np.exp(-random.uniform(6, 40) * (edge - random.uniform(-0.3, 0.3))))
        pixels = pixels * (1 - random.uniform(0.15, 0.45) * shadow[..., None])
    sigma = random.uniform(0, 1.0)
    if sigma > 0.3:
        pixels = opencv().GaussianBlur(pixels, (0, 0), sigma).reshape(pixels.shape)
    noisy = pixels + random.normal(0, random.uniform(1, 9), pixels.shape)
    return np.clip(np.round(noisy), 0, 255).astype(np.uint8)


class Canvas:
    """Levels float32 (H, W, C) on which marks are placed without overlap."""

    def __init__(self, pixels: np.ndarray, random: np.random.RandomState) -> None:
        self.pixels = pixels
        self._random = random
        self._taken = np.zeros(pixels.shape[:2], bool)

    def place(self, mark: Mark, sides: Tuple[float, float], ink: Ink) -> Optional[Tuple[int, int, int, int]]:
        """Draw `mark` at a random free position, rotation and size.

        Args:
            mark: The mark.
            sides: Minimum and maximum length of its longer side as fractions of the canvas width; the length is
                log-uniform.
            ink: Function that returns the colour for the pixels under the mark.

        Returns:
            The box xyxy in pixels, or None if twenty attempts found no free position.
        """
        height, width = self._taken.shape
        for _ in range(20):
            side = width * np.exp(self._random.uniform(*np.log(sides)))
            coverage = render(mark, self._random.uniform(-MAX_TURN, MAX_TURN), int(round(side)))
            h, w = coverage.shape
            if h + 4 > height or w + 4 > width:
                continue
            x, y = self._random.randint(2, width - w - 1), self._random.randint(2, height - h - 1)
            if not self._taken[y - 2 : y + h + 2, x - 2 : x + w + 2].any():
                under = self.pixels[y : y + h, x : x + w]
                under += (ink(under) - under) * coverage[..., None]
                self._taken[y : y + h, x : x + w] = True
                return x, y, x + w, y + h
        return None


def draw_shapes_set(
    count: int,
    seed: int,
    size_wh: SizeWH = (160, 120),
    max_objects: int = 3,
    empty_fraction: float = 0.1,
    sides: Tuple[float, float] = SHAPE_SIDES,
) -> List[DrawnSample]:
    """Draw `count` simple colour images, for tests and measurements.

    They show reddish discs, greenish squares and bluish triangles (SHAPE_CLASSES).

    Args:
        count: Number of images.
        seed: Seed of the dataset.
        size_wh: (width, height) of the images in pixels.
        max_objects: Maximum number of objects per image; the minimum is 1.
        empty_fraction: Fraction of images without objects.
        sides: Minimum and maximum length of an object as fractions of the image width.
    """
    objects = np.where(_spread(count, empty_fraction), 0, max_objects)
    return [
        _draw_shapes(f"shapes-{index:04d}", np.random.RandomState([seed, index]), size_wh, objects[index], sides)
        for index in range(count)
    ]


def _draw_shapes(
    name: str, random: np.random.RandomState, size_wh: SizeWH, max_objects: int, sides: Tuple[float, float]
) -> DrawnSample:
    texture = np.stack([smooth_noise(random, size_wh, 5) for _ in range(3)], axis=2)
    canvas = Canvas((random.uniform(90, 200) + 25 * texture).astype(np.float32), random)
    placed = []
    for class_id in random.randint(0, len(SHAPE_CLASSES), random.randint(1, max_objects + 1) if max_objects else 0):
        color = np.add(_SHAPE_COLORS[class_id], random.uniform(-25, 25, 3))
        box = canvas.place(SHAPES[SHAPE_CLASSES[class_id]], sides, _plain(color))
        if box is not None:
            placed.append((box, class_id))
    image = np.clip(np.round(canvas.pixels + random.normal(0, 3, canvas.pixels.shape)), 0, 255).astype(np.uint8)
    return DrawnSample(name, image, as_boxes([b for b, _ in placed]), np.array([c for _, c in placed], np.int64))


def _plain(color: np.ndarray) -> Ink:
    """Return an ink of one colour."""
    return lambda under: color


def write_drawn_set(
    folder: "str | os.PathLike[str]",
    samples: Sequence[DrawnSample],
    class_names: ClassNames,
    label_attribute: str,
    image_format: str = "jpg",
) -> Tuple[Path, Path]:
    """Write a dataset as a labelling job would.

    Writes ``images/NAME.<image_format>`` and ``output.manifest`` below `folder`.

    Args:
        folder: Output folder; created if missing.
        samples: Images and labels.
        class_names: Names of the class ids.
        label_attribute: Label attribute of the manifest.
        image_format: "jpg" or "png".

    Returns:
        Paths of the image folder and the manifest.
    """
    images, manifest = Path(folder) / "images", Path(folder) / "output.manifest"
    images.mkdir(parents=True, exist_ok=True)
    with open_atomic(manifest) as lines:
        for sample in samples:
            file_name = f"{sample.name}.{image_format}"
            (images / file_name).write_bytes(encode(sample.image, _FORMATS[image_format], quality=92))
            lines.write(dump_json(_manifest_line(file_name, sample, class_names, label_attribute)) + b"\n")
    return images, manifest


def _manifest_line(file_name: str, sample: DrawnSample, class_names: ClassNames, attribute: str) -> Dict[str, Any]:
    """Return one line in Ground Truth's form.

    Its class-map contains only the classes that occur in the image.
    """
    name = f"s3://drawn-pictures/images/{file_name}"
    record = LabeledImage(name, sample.boxes, sample.class_ids, (sample.image.shape[1], sample.image.shape[0]))
    metadata = {
        "job-name": f"labeling-job/{attribute}",
        "class-map": {str(class_id): class_names[class_id] for class_id in sorted(set(sample.class_ids.tolist()))},
        "human-annotated": "yes",
        "objects": [{"confidence": 0.09}] * len(sample.boxes),  # Ground Truth's value for boxes of one worker
        "creation-date": _CREATED,
        "type": "groundtruth/object-detection",
    }
    return {"source-ref": name, attribute: box_label(record), f"{attribute}-metadata": metadata}
