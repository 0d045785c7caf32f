"""Tiles: they cover the image and overlap; their detections are merged to one for each object, whole."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.data import picture

from ssd_train.data.image_io import encode_png
from ssd_train.data.structures import ClassNames, Detections
from ssd_train.deploy.detector import Detector, ImageRef, Tiling
from ssd_train.deploy.tiling import merge_tiles, tile_rects
from ssd_train.errors import ConfigError


@pytest.mark.parametrize(
    "size_wh, tile, overlap, count",
    [
        pytest.param((640, 640), 640, 0.2, 1, id="one tile"),
        pytest.param((500, 300), 640, 0.2, 1, id="smaller than a tile"),
        pytest.param((641, 640), 640, 0.2, 2, id="a pixel more"),
        pytest.param((2000, 2000), 640, 0.2, 16, id="square"),
        pytest.param((2000, 300), 640, 0.0, 4, id="strip"),
        pytest.param((1000, 900), 100, 0.9, 91 * 81, id="much overlap"),
    ],
)
def test_tile_rects_cover_the_image_and_overlap(size_wh, tile, overlap, count):
    rects = tile_rects(size_wh, tile, overlap)
    tiles = rects[:-1] if count > 1 else rects
    assert len(tiles) == count and (count == 1 or rects[-1] == (0, 0, *size_wh))
    covered = np.zeros((size_wh[1], size_wh[0]), bool)
    for x1, y1, x2, y2 in tiles:
        assert 0 <= x1 < x2 <= size_wh[0] and 0 <= y1 < y2 <= size_wh[1]
        assert (x2 - x1, y2 - y1) == (min(tile, size_wh[0]), min(tile, size_wh[1]))
        covered[y1:y2, x1:x2] = True
    assert covered.all()
    for axis in (0, 1):
        starts = sorted({rect[axis] for rect in tiles})
        assert all(tile - (b - a) >= overlap * tile - 1e-6 for a, b in zip(starts, starts[1:]))


class Blobs:
    """Detects each connected white area that it sees, with the area's exact box and a score of its size.

    Its input is as large as a tile, so that nothing is resized in a tile. Areas of fewer than `least` input pixels are
    not seen, as objects that are too small for a network.
    """

    name, class_names, grayscale = "blobs", ClassNames(("blob",)), False
    score_threshold, nms_threshold = None, 0.45

    def __init__(self, side, least=1):
        self.side, self.least, self.batches = side, least, []

    def run(self, images):
        from scipy.ndimage import find_objects, label

        self.batches.append(len(images))
        rows = np.full((len(images), 60, 6), -1, np.float32)
        for row, pixels in zip(rows, images):
            places = find_objects(label(pixels.min(axis=2) > 200)[0])
            seen = [(y.start, y.stop, x.start, x.stop) for y, x in places]
            seen = [p for p in seen if min(p[1] - p[0], p[3] - p[2]) >= self.least]
            for index, (y1, y2, x1, x2) in enumerate(seen):
                row[index] = [0, 0.5 + min((x2 - x1) * (y2 - y1), 4000) / 10000, x1, y1, x2, y2]
        return rows


def scene(size_wh, boxes):
    image = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = 255
    return image


def sorted_boxes(detections):
    return sorted(tuple(int(round(v)) for v in box) for box in detections.boxes.tolist())


def test_small_objects_are_found_once_each_and_whole_with_tiles_alone():
    """Objects of 20 px on a grid that crosses all edges of tiles, in an image that is scaled by 5 if seen whole."""
    boxes = [(x, y, x + 20, y + 20) for x in range(3, 970, 57) for y in range(5, 970, 61)]
    image, engine = scene((1000, 1000), boxes), Blobs(200, least=8)
    assert len(Detector(engine)(image)) == 0, "too small in the whole image"
    result = Detector(engine)(image, tile=200, tile_overlap=0.2)
    assert sorted_boxes(result) == sorted(boxes)
    assert result.size_wh == (1000, 1000) and (np.diff(result.scores) <= 0).all()


def test_an_object_larger_than_a_tile_is_found_once():
    boxes = [(100, 100, 700, 600), (820, 40, 840, 60)]
    result = Detector(Blobs(200))(scene((1000, 1000), boxes), tile=200, tile_overlap=0.2)
    assert len(result) == 2
    np.testing.assert_allclose(sorted_boxes(result), boxes, atol=5)  # the large one is seen at a fifth


def test_tiling_one_tile_equals_the_whole_image():
    image = scene((150, 120), [(10, 10, 40, 40)])
    engine = Blobs(200)
    np.testing.assert_array_equal(Detector(engine)(image, tile=200).boxes, Detector(engine)(image).boxes)


def test_tiles_are_run_in_batches_and_files_are_decoded_at_full_size():
    boxes = [(x, 31, x + 20, 51) for x in range(11, 1500, 90)]
    engine = Blobs(100)
    data = encode_png(scene((1600, 100), boxes))
    refs = [ImageRef("a", lambda: data, "a"), ImageRef("bad", lambda: b"text", "bad"), ImageRef("c", lambda: data, "c")]
    a, bad, c = Detector(engine).predict_iter(refs, batch_size=8, tiling=Tiling(100, 0.25))
    assert sorted_boxes(a.detections) == sorted_boxes(c.detections) == boxes and bad.detections is None
    assert max(engine.batches) == 8 and sum(engine.batches) == 2 * len(tile_rects((1600, 100), 100, 0.25))


def detections(boxes, scores, class_ids, size_wh=(100, 100)):
    return Detections(np.array(boxes, np.float32), np.array(scores), np.array(class_ids), size_wh)


@pytest.mark.parametrize(
    "left, right, expected",
    [
        pytest.param(([80, 10, 100, 30], 0.9, 0), ([10, 10, 40, 30], 0.6, 0), [1], id="whole object before its part"),
        pytest.param(([80, 10, 100, 30], 0.9, 0), ([10, 10, 40, 30], 0.6, 1), [0, 1], id="other classes"),
        pytest.param(([80, 10, 100, 30], 0.9, 0), ([10, 10, 40, 30], 0.02, 0), [0], id="not before a weak candidate"),
        pytest.param(([60, 10, 90, 30], 0.9, 0), ([60, 60, 90, 80], 0.6, 0), [0, 1], id="apart"),
    ],
)
def test_merge_of_two_tiles_keeps(left, right, expected):
    """Tiles (0, 0, 100, 100) and (70, 0, 170, 100); each has one box, of whose places [0, 1] are kept."""
    rects = [(0, 0, 100, 100), (70, 0, 170, 100)]
    parts = [detections([box], [score], [class_id]) for box, score, class_id in (left, right)]
    parts, rects = [*parts, detections(np.zeros((0, 4)), [], [])], [*rects, (0, 0, 170, 100)]
    merged = merge_tiles(parts, rects, (170, 100), 30, 0.45)
    all_scores = [left[1], right[1]]
    np.testing.assert_allclose(merged.scores, [all_scores[index] for index in expected], rtol=1e-6)
    if 1 in expected:
        x1, y1, x2, y2 = right[0]
        assert [x1 + 70, y1, x2 + 70, y2] in merged.boxes.tolist()


def test_merge_takes_only_large_boxes_of_the_whole_image():
    """Smaller objects are whole in a tile, so that the whole image adds nothing but false alarms."""
    empty = detections(np.zeros((0, 4)), [], [])
    whole = detections([[5, 5, 34, 34], [40, 5, 70, 20], [80, 5, 160, 90]], [0.9, 0.8, 0.7], [0, 0, 0], (170, 100))
    rects = [(0, 0, 100, 100), (70, 0, 170, 100), (0, 0, 170, 100)]
    merged = merge_tiles([empty, empty, whole], rects, (170, 100), 30, 0.45)
    assert merged.boxes.tolist() == [[40, 5, 70, 20], [80, 5, 160, 90]]
    assert len(merge_tiles([empty, empty, empty], rects, (170, 100), 30, 0.45)) == 0


@pytest.mark.parametrize("tile, overlap", [(10, 0.2), (-1, 0.2), (640, 1.0), (640, -0.1)])
def test_call_tile_out_of_range_raises(tile, overlap):
    with pytest.raises(ConfigError, match=r"^tile(_overlap)?: found"):
        Detector(Blobs(64))(picture(), tile=tile, tile_overlap=overlap)
