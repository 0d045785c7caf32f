from __future__ import annotations

import numpy as np
import pytest

from ssd_train.boxes import find_invalid_box, intersection_matrix
from ssd_train.data import synthetic
from ssd_train.data.formats.ground_truth import read_ground_truth
from ssd_train.data.image_io import decode
from ssd_train.data.image_sources import FolderImages
from ssd_train.data.structures import ClassNames

LOGO_NAMES = ClassNames(("logo",))
ALL_MARKS = {"logo": synthetic.LOGO, **synthetic.LOOK_ALIKES, **synthetic.SHAPES}


@pytest.fixture(scope="module")
def logos():
    return synthetic.draw_logo_set(100, seed=3)


def same(a, b):
    return all(
        x.name == y.name and (x.image == y.image).all() and np.array_equal(x.boxes, y.boxes) for x, y in zip(a, b)
    )


def test_draw_shapes_equal_seed_gives_equal_images(logos):
    before = np.random.get_state()[1].copy()
    assert same(synthetic.draw_logo_set(8, seed=3), logos[:8])  # whatever the count
    assert (np.random.get_state()[1] == before).all()  # the global generator is left alone
    assert not same(synthetic.draw_logo_set(8, seed=4), logos[:8])
    assert same(synthetic.draw_shapes_set(5, seed=1), synthetic.draw_shapes_set(9, seed=1))


def test_draw_logo_images_are_as_documented(logos):
    assert len({sample.name for sample in logos}) == 100
    for sample in logos:
        assert sample.image.shape == (240, 320, 3) and sample.image.dtype == np.uint8
        assert (sample.image == sample.image[..., :1]).all()  # grey-scale
        assert find_invalid_box(sample.boxes, (320, 240)) is None
        assert (sample.boxes == sample.boxes.round()).all() and (sample.class_ids == 0).all()
        apart = intersection_matrix(sample.boxes, sample.boxes)
        assert (apart[~np.eye(len(apart), dtype=bool)] == 0).all()
    counts = np.bincount([len(sample.boxes) for sample in logos], minlength=4)
    assert counts[0] == 12 and counts[1:].min() > 0 and len(counts) == 4


@pytest.mark.parametrize("mark", ALL_MARKS.values(), ids=ALL_MARKS.keys())
@pytest.mark.parametrize("angle", [-30, 0, 17])
def test_boxes_are_the_exact_hull_of_the_pixels(mark, angle, monkeypatch):
    monkeypatch.setattr(synthetic, "MAX_TURN", abs(angle))
    canvas = synthetic.Canvas(np.full((240, 320, 1), 100, np.float32), np.random.RandomState(angle + 90))
    box = canvas.place(mark, (0.1, 0.4), lambda under: np.array([200.0]))
    rows, columns = np.nonzero(canvas.pixels[..., 0] >= 125)  # covered by a quarter or more
    assert box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_no_place_gives_no_box():
    canvas = synthetic.Canvas(np.zeros((12, 320, 1), np.float32), np.random.RandomState(0))
    assert canvas.place(synthetic.LOGO, (0.2, 0.4), lambda under: np.array([9.0])) is None
    assert (canvas.pixels == 0).all()


def test_shapes_have_three_classes_of_their_own_colour():
    samples = synthetic.draw_shapes_set(60, seed=0, size_wh=(96, 64), max_objects=2)
    assert {sample.image.shape for sample in samples} == {(64, 96, 3)}
    assert {len(sample.boxes) for sample in samples} == {0, 1, 2}
    assert sum(len(sample.boxes) == 0 for sample in samples) == 6
    assert set(np.concatenate([sample.class_ids for sample in samples])) == {0, 1, 2}
    for sample in samples:
        for (x1, y1, x2, y2), class_id in zip(sample.boxes.astype(int), sample.class_ids):
            assert sample.image[(y1 + y2) // 2, (x1 + x2) // 2].argmax() == class_id  # red, green, blue


@pytest.mark.parametrize("image_format, tolerance", [("png", 0), ("jpg", 12)])
def test_written_sets_read_back(tmp_path, image_format, tolerance):
    samples = synthetic.draw_shapes_set(12, seed=2)
    images, manifest = synthetic.write_drawn_set(tmp_path, samples, synthetic.SHAPE_CLASSES, "shapes-job", image_format)
    labels, source = read_ground_truth(manifest), FolderImages(images)
    assert not labels.skipped and len(labels) == 12
    for sample, record in zip(samples, labels.records):
        names = [labels.class_names[class_id] for class_id in record.class_ids]
        assert names == [synthetic.SHAPE_CLASSES[class_id] for class_id in sample.class_ids]
        assert (record.boxes == sample.boxes).all() and record.size_wh == (160, 120)
        image = decode(source.read(record), record.where, record.size_wh)
        assert np.abs(image.astype(int) - sample.image).mean() <= tolerance
