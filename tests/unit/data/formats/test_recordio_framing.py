"""RecordIO framing: bytes as dmlc-core lays them out, round trips with MAGIC inside, pipes, and damaged streams."""

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd_train.data.formats.recordio import MAGIC, MAX_LENGTH, read_record, read_records, write_record
from ssd_train.errors import DataError


def framed(*records):
    file = io.BytesIO()
    for record in records:
        write_record(file, record)
    return file.getvalue()


def part(flag, data, length=None):
    length = len(data) if length is None else length
    return struct.pack("<II", 0xCED7230A, flag << 29 | length) + data + bytes(-len(data) % 4)


def read_all(data, **limits):
    return [record for _, record in read_records(io.BytesIO(data), "x.rec", **limits)]


LAYOUTS = {
    "empty record": (b"", part(0, b"")),
    "padded to four": (b"abcde", part(0, b"abcde")),
    "not padded": (b"abcd", part(0, b"abcd")),
    "magic inside": (b"abcd" + MAGIC + b"ef", part(1, b"abcd") + part(3, b"ef")),
    "magic alone": (MAGIC, part(1, b"") + part(3, b"")),
    "magic twice": (MAGIC + b"wxyz" + MAGIC, part(1, b"") + part(2, b"wxyz") + part(3, b"")),
    "magic off the grid": (b"a" + MAGIC + b"bcd", part(0, b"a" + MAGIC + b"bcd")),
    "magic off and on the grid": (b"a" + MAGIC + b"bcd" + MAGIC, part(1, b"a" + MAGIC + b"bcd") + part(3, b"")),
}


@pytest.mark.parametrize("record, expected", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_layout_is_that_of_dmlc(record, expected):
    assert framed(record) == expected
    assert read_all(expected) == [record]


@given(st.lists(st.lists(st.sampled_from([MAGIC, b"a", b"\0", b"wxyz"])).map(b"".join)))
def test_records_read_back(records):
    data = framed(*records)
    found = list(read_records(io.BytesIO(data), "x.rec"))
    assert [record for _, record in found] == records
    for offset, record in found:
        file = io.BytesIO(data)
        file.seek(offset)
        assert read_record(file, "x.rec") == record


GOOD = framed(b"first!")
DAMAGED = {
    "text": (GOOD + b"hello world", r"^x\.rec:2: at byte 16 found bytes 68656c6c, expected 0a23d7ce: RecordIO framing"),
    "cut in the data": (GOOD + GOOD[:12], r"^x\.rec:2: at byte 16 found the end after 4 of 8 bytes"),
    "cut in the padding": (GOOD[:-1], r"^x\.rec:1: at byte 0 found the end after 7 of 8 bytes"),
    "half a gigabyte claimed": (part(0, b"abcd", MAX_LENGTH), r"found the end after 4 of 536870912 bytes"),
    "cut between parts": (part(1, b"abcd"), r"^x\.rec:1: at byte 12 found the end after 0 of 8 bytes"),
    "starts in the middle": (part(2, b"abcd"), r"found part flag 2, expected 0 or 1"),
    "whole after a start": (part(1, b"abcd") + GOOD, r"at byte 12 found part flag 0, expected 2 or 3"),
    "unknown flag": (part(5, b"abcd"), r"found part flag 5, expected 0 or 1"),
}


@pytest.mark.parametrize("data, message", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_stream_is_an_error_with_its_place(data, message):
    with pytest.raises(DataError, match=message):
        read_all(data)


def test_records_before_the_damage_are_given_first():
    stream = read_records(io.BytesIO(GOOD + b"hello world"), "x.rec")
    assert next(stream) == (0, b"first!")


def test_length_is_limited_over_all_parts():
    data = framed(b"abcd" + MAGIC + b"efgh")
    assert read_all(data, max_length=12) == [b"abcd" + MAGIC + b"efgh"]
    with pytest.raises(DataError, match="found a record of 12 bytes, expected at most 11"):
        read_all(data, max_length=11)


def test_no_record_at_the_end():
    with pytest.raises(DataError, match="^x.rec:7: found the end of the file"):
        read_record(io.BytesIO(b""), "x.rec:7")


def test_framing_equals_mxnet(tmp_path, mxnet):
    recordio = mxnet.recordio
    records = [record for record, _ in LAYOUTS.values() if record]
    ours, theirs = tmp_path / "ours.rec", tmp_path / "theirs.rec"
    ours.write_bytes(framed(*records))
    reader = recordio.MXRecordIO(str(ours), "r")
    assert [reader.read() for _ in records] == records
    writer = recordio.MXRecordIO(str(theirs), "w")
    for record in records:
        writer.write(record)
    writer.close()
    assert theirs.read_bytes() == ours.read_bytes()
