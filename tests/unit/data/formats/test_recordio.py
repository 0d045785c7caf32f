"""Detection RecordIO: labels packed and unpacked, files read by us, GluonCV and MXNet, and what breaks in them."""

import struct

import numpy as np
import pytest
from helpers.images import encoded, with_exif
from hypothesis import given
from hypothesis import strategies as st

from ssd_train import mxnet_compat
from ssd_train.data.formats.builder import CLIPPED, DUPLICATE, NO_BOX_LEFT, OUTSIDE
from ssd_train.data.formats.recordio import MAGIC, pack_label, read_recordio, unpack_label, write_record, write_recordio
from ssd_train.data.image_io import decode
from ssd_train.data.image_sources import MemoryImages
from ssd_train.data.structures import ClassNames, LabeledImage
from ssd_train.errors import DataError

NAMES = ClassNames(("cat", "dog"))


def picture(width=80, height=40):
    """A black picture whose upper left quarter is red."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2, 0] = 255
    return pixels


PICTURE = encoded(picture())


def turned(orientation=6):
    return with_exif(picture(), orientation)


def payload(label, image=PICTURE, number=0):
    data = np.array(label, "<f4")
    return struct.pack("<IfQQ", data.size, 0, number, 0) + data.tobytes() + image


def rec_file(folder, *payloads, name="train.rec"):
    path = folder / name
    with open(path, "wb") as file:
        for record in payloads:
            write_record(file, record)
    return path


BOX = [0, 0.25, 0.5, 0.5, 1]
GOOD = payload([2, 5, *BOX])


def test_written_set_reads_back_with_its_images(tmp_path):
    records = [
        LabeledImage("s3://bucket/a/one.png", [[1, 2, 30, 40], [7.25, 0, 80, 13.5]], [1, 0], (80, 40), "m:1"),
        LabeledImage("two.jpg", [], [], (80, 40), "m:2"),
        LabeledImage("three.png", [[0, 0, 80, 40]], [0], None, "m:3"),
    ]
    # MAGIC at every remainder of 4: the framing must give back the same bytes
    tails = [PICTURE + bytes(i) + MAGIC for i in range(4)]
    images = {"s3://bucket/a/one.png": tails[0], "two.jpg": encoded(picture(), "JPEG"), "three.png": tails[2]}
    write_recordio(tmp_path / "set.rec", iter(records), MemoryImages(images))
    labels, source = read_recordio(tmp_path / "set.rec", NAMES)
    assert [record.name for record in labels.records] == ["a/one.png", "two.jpg", "three.png"]
    for found, record in zip(labels.records, records):
        np.testing.assert_allclose(found.boxes, record.boxes, atol=1e-5)
        assert found.class_ids.tolist() == record.class_ids.tolist() and found.size_wh == (80, 40)
        assert source.read(found) == images[record.name]
        assert source.locate(found) == found.where
    assert [record.where for record in labels.records] == [f"{tmp_path / 'set.rec'}:{n}" for n in (1, 2, 3)]
    assert labels.class_names == NAMES and not labels.repaired and not labels.skipped


def test_index_and_list_are_as_mxnet_writes_them(tmp_path):
    records = [LabeledImage("s3://b/a.png", [[20, 20, 40, 40]], [0]), LabeledImage("b c.png", [], [])]
    write_recordio(tmp_path / "x.rec", records, MemoryImages({"s3://b/a.png": PICTURE, "b c.png": PICTURE}))
    size = 8 + 24 + 7 * 4 + len(PICTURE)
    assert (tmp_path / "x.idx").read_text() == f"0\t0\n1\t{size + -size % 4}\n"
    assert (
        tmp_path / "x.lst"
    ).read_text() == "0\t2\t5\t0\t0.25\t0.5\t0.5\t1\ta.png\n1\t2\t5\t-1\t-1\t-1\t-1\t-1\tb c.png\n"


SIZES = st.tuples(st.integers(10, 8000), st.integers(10, 8000))


@given(SIZES, st.data())
def test_label_of_whole_pixels_is_exact(size_wh, data):
    width, height = size_wh
    x1, y1 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = [x1, y1, data.draw(st.integers(x1 + 1, width)), data.draw(st.integers(y1 + 1, height))]
    label = unpack_label(pack_label(LabeledImage("a", [box], [3]), size_wh), size_wh)
    assert label[:3] == ([tuple(box)], [3], size_wh)


ODD_LABELS = {
    "no box": ([2, 5], []),
    "padding only": ([2, 5, *[-1] * 10], []),
    "padding after a box": ([2, 5, *BOX, *[-1] * 5], [[20, 20, 40, 40]]),
    "longer header": ([4, 5, 80, 40, *BOX], [[20, 20, 40, 40]]),
    "wider objects": ([2, 6, *BOX, 7, *BOX[:1], 0, 0, 1, 1, 0], [[20, 20, 40, 40], [0, 0, 80, 40]]),
    "difficult": ([2, 6, *BOX, 1, *BOX[:1], 0, 0, 1, 1, 0], [[0, 0, 80, 40]]),
}


@pytest.mark.parametrize("label, boxes", ODD_LABELS.values(), ids=ODD_LABELS.keys())
def test_header_and_object_widths_are_as_declared(tmp_path, label, boxes):
    labels, _ = read_recordio(rec_file(tmp_path, payload(label)))
    assert labels.records[0].boxes.tolist() == boxes


def test_difficult_column_is_read_and_written(tmp_path):
    image = rec_file(tmp_path, payload([2, 6, *BOX, 1, *BOX[:1], 0, 0, 1, 1, 0]))
    labels, images = read_recordio(image)
    assert labels.records[0].ignored.boxes.tolist() == [[20, 20, 40, 40]]
    assert labels.records[0].ignored.crowds.tolist() == [False]
    write_recordio(tmp_path / "again.rec", labels.records, images, flagged=True)
    (again,) = read_recordio(tmp_path / "again.rec")[0].records
    assert again.boxes.tolist() == [[0, 0, 80, 40]] and again.ignored.boxes.tolist() == [[20, 20, 40, 40]]


def test_boxes_over_the_rim_are_clipped_and_counted(tmp_path):
    label = [2, 5, 0, -0.25, 0, 0.5, 1, 1, 1.25, 0, 1.5, 1]
    path = rec_file(tmp_path, payload(label), payload([2, 5, 1, 1.25, 0, 1.5, 1]))
    labels, _ = read_recordio(path)
    assert labels.records[0].boxes.tolist() == [[0, 0, 40, 40]]
    assert [line.reason for line in labels.repaired] == [CLIPPED, OUTSIDE, OUTSIDE]
    assert [line.reason for line in labels.skipped] == [NO_BOX_LEFT]


def test_classes_are_numbered_where_no_names_are_given(tmp_path):
    labels, _ = read_recordio(rec_file(tmp_path, payload([2, 5, 2, 0, 0, 1, 1])))
    assert labels.class_names.names == ("class_0", "class_1", "class_2")
    assert labels.records[0].name == "train/00000001"


def test_names_come_from_the_list_by_id(tmp_path):
    path = rec_file(tmp_path, payload([2, 5, *BOX], number=7), payload([2, 5, *BOX], number=3), GOOD)
    path.with_suffix(".lst").write_text("3\t2\t5\tthree.png\r\n\n7\t2\t5\t0\tdir/seven.png\n")
    labels, source = read_recordio(path)
    assert [record.name for record in labels.records] == ["dir/seven.png", "three.png", "train/00000003"]
    assert [source.read(record) for record in labels.records] == [PICTURE] * 3


def test_image_listed_twice_is_kept_once(tmp_path):
    path = rec_file(tmp_path, payload([2, 5, *BOX], number=1), payload([2, 5, *BOX], number=1))
    path.with_suffix(".lst").write_text("1\t2\t5\tone.png\n")
    labels, _ = read_recordio(path)
    assert len(labels) == 1 and [line.reason for line in labels.skipped] == [DUPLICATE]


BROKEN_LINES = ["x\t2\t5\ta.png", "1 2 5 a.png", "1", "1\t", "1\t2\t", "1\t2\t5\ta\0.png", "-1\t2\t5\ta.png"]


@pytest.mark.parametrize("line", BROKEN_LINES)
def test_broken_list_is_an_error_with_its_line(tmp_path, line):
    path = rec_file(tmp_path, GOOD)
    path.with_suffix(".lst").write_text(f"0\t2\t5\tok.png\n{line}\n")
    with pytest.raises(DataError, match=r"train\.lst:2: found .* expected an id, a label and a path"):
        read_recordio(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="none.rec: cannot be read"):
        read_recordio(tmp_path / "none.rec")


def test_images_of_a_changed_file_and_unknown_records_are_errors(tmp_path):
    path = rec_file(tmp_path, payload([2, 5, *BOX]), GOOD)
    labels, source = read_recordio(path)
    path.write_bytes(path.read_bytes()[4:])
    with pytest.raises(DataError, match=rf"{path}:2: .*RecordIO framing"):
        source.read(labels.records[1])
    path.unlink()
    with pytest.raises(DataError, match=rf"{path}:2: cannot be read"):
        source.read(labels.records[1])
    with pytest.raises(DataError, match="m:1: found no image 'other'"):
        source.read(LabeledImage("other", [], [], where="m:1"))


@pytest.mark.parametrize("orientation", range(2, 9))
def test_write_recordio_rotated_image_is_stored_upright(tmp_path, orientation):
    shown = (40, 80) if orientation >= 5 else (80, 40)
    record = LabeledImage("a.jpg", [[0, 0, 40, 20]], [0], shown)
    write_recordio(tmp_path / "x.rec", [record], MemoryImages({"a.jpg": turned(orientation)}))
    labels, source = read_recordio(tmp_path / "x.rec")
    assert labels.records[0].size_wh == shown and labels.records[0].boxes.tolist() == [[0, 0, 40, 20]]
    before, after = (decode(data, "a") for data in (turned(orientation), source.read(labels.records[0])))
    np.testing.assert_array_equal(after, before)


def test_labels_blind_to_the_orientation_keep_their_pixels(tmp_path):
    record = LabeledImage("a.jpg", [[0, 0, 40, 20]], [0], (80, 40))
    write_recordio(tmp_path / "x.rec", [record], MemoryImages({"a.jpg": turned(6)}))
    labels, source = read_recordio(tmp_path / "x.rec")
    found = decode(source.read(labels.records[0]), "a", labels.records[0].size_wh)
    assert labels.records[0].size_wh == (80, 40)
    np.testing.assert_array_equal(found, decode(turned(6), "a", (80, 40)))


REFUSED = {
    "size differs": (LabeledImage("a.png", [], [], (81, 40), "m:4"), "m:4: found 80x40, expected 81x40"),
    "no image": (LabeledImage("b.png", [], [], None, "m:4"), "m:4: image 'b.png' not found"),
    "tab in the name": (LabeledImage("a\tb.png", [], [], None, "m:4"), "m:4: found a tab"),
}


@pytest.mark.parametrize("record, message", REFUSED.values(), ids=REFUSED.keys())
def test_write_recordio_failure_leaves_no_file(tmp_path, record, message):
    images = MemoryImages({"a.png": PICTURE, "a\tb.png": PICTURE, "good.png": PICTURE})
    with pytest.raises(DataError, match=message):
        write_recordio(tmp_path / "x.rec", [LabeledImage("good.png", [], []), record], images)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def gluoncv_data(mxnet):
    return mxnet_compat.gluoncv("data")


def drawn_set(tmp_path):
    records = [
        LabeledImage("a.png", [[20, 20, 40, 40], [0, 0, 80, 40]], [1, 0], (80, 40)),
        LabeledImage("none.png", [], [], (80, 40)),
        LabeledImage("c.jpg", [[10, 20, 20, 40]], [1], (40, 80)),
    ]
    images = MemoryImages({"a.png": PICTURE, "none.png": PICTURE, "c.jpg": turned(6)})
    write_recordio(tmp_path / "x.rec", records, images)
    return records


def test_write_recordio_gluoncv_reads_the_file(tmp_path, gluoncv_data):
    records = drawn_set(tmp_path)
    for found, record in zip(gluoncv_data.RecordFileDetection(str(tmp_path / "x.rec")), records):
        image, label = found
        assert (
            image.shape[:2] == record.size_wh[::-1] and image[5, 30 if record.name == "c.jpg" else 5].asnumpy()[0] > 250
        )
        label = label[label[:, 4] >= 0]
        np.testing.assert_allclose(label[:, :4], record.boxes, atol=1e-4)
        assert label[:, 4].tolist() == record.class_ids.tolist()
    listed = gluoncv_data.LstDetection(str(tmp_path / "x.lst"), root=str(tmp_path))
    assert len(listed) == 3


def test_write_recordio_mxnet_iterator_reads_the_file(tmp_path, mxnet):
    records = drawn_set(tmp_path)
    shape = {"batch_size": 1, "data_shape": (3, 64, 64), "label_pad_width": 20, "shuffle": False}
    rows = mxnet.io.ImageDetRecordIter(path_imgrec=str(tmp_path / "x.rec"), preprocess_threads=1, **shape)
    for batch, record in zip(rows, records):
        label = batch.label[0].asnumpy()[0]
        objects = label[4 + 2 : 4 + int(label[3])].reshape(-1, 5)
        objects = objects[objects[:, 0] >= 0]
        np.testing.assert_allclose(objects[:, 1:] * np.tile(record.size_wh, 2), record.boxes, atol=1e-4)
        red = batch.data[0].asnumpy()[0, 0]
        assert red[5, 60 if record.name == "c.jpg" else 5] > 250


def test_set_written_by_mxnet_is_read(tmp_path, mxnet):
    mx = mxnet.recordio
    writer = mx.MXIndexedRecordIO(str(tmp_path / "m.idx"), str(tmp_path / "m.rec"), "w")
    writer.write_idx(5, mx.pack(mx.IRHeader(7, np.array([2, 5, *BOX], np.float32), 5, 0), PICTURE))
    writer.close()
    labels, source = read_recordio(tmp_path / "m.rec")
    assert labels.records[0].boxes.tolist() == [[20, 20, 40, 40]] and source.read(labels.records[0]) == PICTURE
