"""Samples of a stream; and what AttributeNames were, told from what arrives."""

from __future__ import annotations

import io
import json

import pytest
from helpers.data import framed, label_set, memory_images, metadata, picture
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_train.data.formats.recordio import write_recordio
from ssd_train.data.image_io import encode_png
from ssd_train.data.pipe.samples import read_samples
from ssd_train.errors import DataError, SsdTrainError

PNG = encode_png(picture())
LABEL = json.dumps({"annotations": [], "image_size": [{"width": 40, "height": 30, "depth": 3}]}).encode()
META = metadata(["cat"])


def read(*records, tail=b""):
    return list(read_samples(io.BytesIO(framed(*records) + tail), "train_0"))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_image_and_label_in_turn(count):
    found = read(*[PNG, LABEL] * count)

    assert [sample.where for sample in found] == [f"train_0:{1 + 2 * index}" for index in range(count)]
    assert all(sample[1:] == (PNG, LABEL, None) for sample in found)
    assert found[0].box_label((40, 30))[:3] == ([], [], (40, 30)) and found[0].class_map() == {}


@pytest.mark.parametrize("count", [1, 2, 5])
def test_metadata_as_third_attribute_has_the_class_map(count):
    found = read(*[PNG, LABEL, META] * count)

    assert len(found) == count and found[-1].class_map() == {"0": "cat"}
    assert found[-1].where == f"train_0:{3 * count - 2}"


@pytest.mark.parametrize(
    "records, message",
    [
        pytest.param([], "train_0: found no record", id="empty"),
        pytest.param([LABEL, PNG, LABEL, PNG], "train_0:1: found a label first, expected the image", id="label-first"),
        pytest.param([META, PNG, META], "train_0:1: found metadata first", id="metadata-first"),
        pytest.param([PNG, PNG, PNG], "train_0:1: found an image without a label after it", id="image-only"),
        pytest.param([PNG, META, PNG, META], "train_0:2: found metadata after the image", id="metadata-for-label"),
        pytest.param([PNG, LABEL, b'{"color": 1}', PNG], "train_0:3: found an object with color", id="other-third"),
        pytest.param([PNG, b"1", PNG, b"1"], "train_0:2: found text beginning b'1', expected a label", id="class-id"),
        pytest.param([PNG, b'{"a": 1, "b": 2}', PNG], "train_0:2: found an object with a, b", id="other-label"),
        pytest.param([PNG, LABEL, META, META, PNG], "train_0:1: found 4 records or more of one sample", id="four"),
    ],
)
def test_attribute_names_that_are_wrong_are_explained(records, message):
    with pytest.raises(DataError) as error:
        read(*records)

    assert str(error.value).startswith(message)
    assert 'expected AttributeNames ["source-ref", "<label attribute>"]' in str(error.value)


def test_a_rec_comes_as_it_is(tmp_path):
    labels = label_set([[[1, 2, 20, 12]], []])
    write_recordio(tmp_path / "x.rec", labels.records, memory_images(labels))
    with open(tmp_path / "x.rec", "rb") as file:
        one, other = read_samples(file, "train_0")

    assert (one.where, other.where) == ("train_0:1", "train_0:2")
    assert one.box_label((40, 30))[:3] == ([(1, 2, 20, 12)], [0], (40, 30)) and other.box_label((40, 30)).boxes == []
    assert one.image == encode_png(picture()) and one.class_map() == {}


@pytest.mark.parametrize(
    "records, message",
    [
        pytest.param([PNG, LABEL, PNG], "train_0:3: found the end after 1 of 2 records", id="end-after-image"),
        pytest.param([PNG, LABEL, META, PNG, LABEL], "train_0:4: found the end after 2 of 3", id="end-before-metadata"),
        pytest.param([PNG, LABEL, PNG, PNG], "train_0:4: found image and label out of step", id="two-images"),
        pytest.param([PNG, LABEL, LABEL, PNG], "train_0:3: found an object with annotations", id="two-labels-first"),
    ],
)
def test_streams_that_lose_their_step(records, message):
    with pytest.raises(DataError) as error:
        read(*records)

    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    "tail, message",
    [
        pytest.param(framed(PNG)[:-9], "train_0:3: at byte .* found the end after", id="inside-an-image"),
        pytest.param(b"\x0a\x23", "train_0:3: .*cut off", id="inside-a-head"),
        pytest.param(b"\0" * 8, "train_0:3: .*expected .*RecordWrapperType RecordIO", id="no-recordio"),
    ],
)
def test_writer_that_dies_is_an_error_with_its_record(tail, message):
    with pytest.raises(DataError, match=message):
        read(PNG, LABEL, tail=tail)


@settings(max_examples=100)
@given(st.lists(st.sampled_from([PNG, LABEL, META, b"", b"1", b"{", b"GIF89a"]), max_size=8), st.binary(max_size=12))
def test_any_order_of_records_gives_samples_or_our_error(records, tail):
    try:
        found = read(*records, tail=tail)
    except SsdTrainError:
        return

    assert sum(2 + (sample.metadata is not None) for sample in found) == len(records)
