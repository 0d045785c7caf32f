"""Drawn data sets whose boxes are known exactly: the demo's pictures and the tests'.

The same seed gives the same bytes (on the same OpenCV), and picture `i` does not depend on how many are drawn. The
demo's set is made to be no easy one: the logo spans a 4 to 1 range of sizes and is turned by up to 30 degrees, dark on
light or light on dark, on textures, beside other shapes and marks that differ from it in one part only, under shadows,
blur and sensor noise; the kinds of background held out for validation never occur in training.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ssd_train.data.artwork import BACKGROUNDS, LOGO, LOOK_ALIKES, SHAPES, Mark, Texture, render, smooth_noise
from ssd_train.data.boxes import SizeWH, as_boxes
from ssd_train.data.formats.box_label import box_label
from ssd_train.data.formats.jsonl import dump_json
from ssd_train.data.images import encode_like
from ssd_train.data.pixels import opencv
from ssd_train.data.records import ClassNames, Record
from ssd_train.errors import DataError
from ssd_train.storage import open_atomic

# the longer side of a logo as a share of the picture's width: 36 to 147 px at 320
LOGO_SIDES = (0.115, 0.46)
MAX_TURN = 30.0

SHAPE_SIDES = (0.15, 0.45)
SHAPE_CLASSES = ClassNames(("disc", "square", "triangle"))
_SHAPE_COLORS = ((210, 60, 50), (60, 170, 80), (60, 90, 210))

Ink = Callable[[np.ndarray], np.ndarray]

_FORMATS = {"jpg": "JPEG", "png": "PNG"}
_CREATED = "2024-01-01T00:00:00.000000"


class DrawnSample(NamedTuple):
    """One drawn picture and its labels.

    name        without a suffix, unlike any other of the set
    image       RGB uint8 (H, W, 3)
    boxes       float32 (N, 4) xyxy, whole pixels: the hull of the pixels that the object covers by a quarter or more
    class_ids   int64 (N,)
    """

    name: str
    image: np.ndarray
    boxes: np.ndarray
    class_ids: np.ndarray


def draw_logo_set(
    count: int,
    seed: int,
    size_wh: SizeWH = (320, 240),
    backgrounds: str = "train",
    empty_fraction: float = 0.12,
) -> List[DrawnSample]:
    """`count` grey-scale pictures with 1 to 3 logos each, and an `empty_fraction` of them without.

    `backgrounds` is "train" or "validation": two families of textures with no kind in common, and other seeds.
    """
    if backgrounds not in BACKGROUNDS:
        raise DataError(f"backgrounds: found {backgrounds!r}, expected one of {', '.join(map(repr, BACKGROUNDS))}")
    stream = list(BACKGROUNDS).index(backgrounds)
    samples = []
    for index, empty in enumerate(_spread(count, empty_fraction)):
        random = np.random.RandomState([seed, stream, index])
        canvas = Canvas(_background(random, size_wh, BACKGROUNDS[backgrounds])[..., None], random)
        samples.append(_draw_logos(f"{backgrounds}-{index:04d}", canvas, random, empty))
    return samples


def _spread(count: int, fraction: float) -> np.ndarray:
    """Flags (count,) of which `fraction` are true, spread evenly whatever the count."""
    steps = np.floor(np.arange(count + 1) * fraction + 0.5)
    return np.diff(steps) > 0


def _draw_logos(name: str, canvas: Canvas, random: np.random.RandomState, empty: bool) -> DrawnSample:
    def ink(under: np.ndarray) -> np.ndarray:
        """A grey level that can be seen on the pixels `under` a mark."""
        return _standing_out(float(under.mean()), random)

    logos = 0 if empty else int(random.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))
    boxes = [canvas.place(LOGO, LOGO_SIDES, ink) for _ in range(logos)]
    for mark in _distractors(random):
        canvas.place(mark, LOGO_SIDES, ink)
    found = as_boxes([box for box in boxes if box is not None])
    image = np.repeat(_photograph(canvas.pixels, random), 3, axis=2)
    return DrawnSample(name, image, found, np.zeros(len(found), np.int64))


def _distractors(random: np.random.RandomState) -> List[Mark]:
    """Up to two look-alikes of the logo, in half of the pictures none, and up to three other shapes."""
    alikes, shapes = list(LOOK_ALIKES.values()), list(SHAPES.values())
    chosen = [alikes[i] for i in random.randint(0, len(alikes), random.choice([0, 1, 2], p=[0.5, 0.35, 0.15]))]
    return chosen + [shapes[i] for i in random.randint(0, len(shapes), random.randint(0, 4))]


def _background(random: np.random.RandomState, size_wh: SizeWH, family: Mapping[str, Texture]) -> np.ndarray:
    """Grey levels float32 (H, W) of a texture of one kind of `family`, with a little unevenness."""
    texture = family[list(family)[random.randint(len(family))]](random, size_wh)
    texture = texture + 0.3 * smooth_noise(random, size_wh, 3)
    return (random.uniform(60, 195) + random.uniform(6, 26) * texture).astype(np.float32)


def _standing_out(level: float, random: np.random.RandomState) -> np.ndarray:
    """A grey (1,) darker or lighter than `level` by chance, as far as there is room."""
    contrast = random.uniform(65, 140) * random.choice([-1, 1])
    if not 5 <= level + contrast <= 250:
        contrast = -contrast
    return np.clip([level + contrast], 5, 250)


def _photograph(pixels: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Levels (H, W, C) as a camera sees them, in shadow, blurred, noisy: uint8 of the same shape."""
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
    """Levels float32 (H, W, C) on which marks are placed side by side, never one over another."""

    def __init__(self, pixels: np.ndarray, random: np.random.RandomState) -> None:
        self.pixels = pixels
        self._random = random
        self._taken = np.zeros(pixels.shape[:2], bool)

    def place(self, mark: Mark, sides: Tuple[float, float], ink: Ink) -> Optional[Tuple[int, int, int, int]]:
        """Draw `mark` at a free place, turned and sized by chance (log-uniform in `sides`, shares of the width), in the
        colour that `ink` chooses for the pixels under it. Its box, or None when no place was found in twenty tries."""
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
    """`count` easy coloured pictures of reddish discs, greenish squares and bluish triangles (SHAPE_CLASSES), for tests
    and measurements: 1 to `max_objects` in each, `sides` of the picture's width long (least and most), and an
    `empty_fraction` of them without."""
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
    """The same colour whatever is under it."""
    return lambda under: color


def write_drawn_set(
    folder: "str | os.PathLike[str]",
    samples: Sequence[DrawnSample],
    class_names: ClassNames,
    label_attribute: str,
    image_format: str = "jpg",
) -> Tuple[Path, Path]:
    """Write ``images/NAME.<image_format>`` ("jpg" or "png") and ``output.manifest`` below `folder`, as a labelling job
    leaves them. Returns both paths."""
    if image_format not in _FORMATS:
        raise DataError(f"image format: found {image_format!r}, expected one of {', '.join(map(repr, _FORMATS))}")
    images, manifest = Path(folder) / "images", Path(folder) / "output.manifest"
    images.mkdir(parents=True, exist_ok=True)
    with open_atomic(manifest) as lines:
        for sample in samples:
            file_name = f"{sample.name}.{image_format}"
            (images / file_name).write_bytes(encode_like(sample.image, _FORMATS[image_format], quality=92))
            lines.write(dump_json(_manifest_line(file_name, sample, class_names, label_attribute)) + b"\n")
    return images, manifest


def _manifest_line(file_name: str, sample: DrawnSample, class_names: ClassNames, attribute: str) -> Dict[str, Any]:
    """One line as Ground Truth writes it: the class-map lists only the classes that occur in the image."""
    name = f"s3://drawn-pictures/images/{file_name}"
    record = Record(name, sample.boxes, sample.class_ids, (sample.image.shape[1], sample.image.shape[0]))
    metadata = {
        "job-name": f"labeling-job/{attribute}",
        "class-map": {str(class_id): class_names[class_id] for class_id in sorted(set(sample.class_ids.tolist()))},
        "human-annotated": "yes",
        "objects": [{"confidence": 0.09}] * len(sample.boxes),  # what one worker's boxes get
        "creation-date": _CREATED,
        "type": "groundtruth/object-detection",
    }
    return {"source-ref": name, attribute: box_label(record), f"{attribute}-metadata": metadata}
