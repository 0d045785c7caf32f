"""Tests of check_params_file: files of MXNet pass, damaged ones are refused."""

import numpy as np
import pytest

from ssd_train import mxnet_compat
from ssd_train.errors import WeightsError
from ssd_train.model.params_check import check_params_file

mx = mxnet_compat.mxnet()


@pytest.mark.parametrize(
    "arrays",
    [
        {"a": mx.nd.ones((2, 3)), "b": mx.nd.zeros((1,))},
        {
            f"{kind}": mx.nd.zeros((2, 2), dtype=kind)
            for kind in ("float16", "float64", "uint8", "int32", "int8", "int64")
        },
        [mx.nd.ones((1, 2, 3, 4, 5))],
        [],
    ],
    ids=["named", "types", "without-names", "none"],
)
def test_check_params_file_accepts_files_of_mxnet(tmp_path, arrays):
    mx.nd.save(str(tmp_path / "a.params"), arrays)
    check_params_file(tmp_path / "a.params")


def numbers(*parts):
    return b"".join(np.array(values, kind).tobytes() for kind, values in parts)


def a_file(shape=(2,), magic=0xF993FAC9, storage=0, kind=0, data=b"\0" * 8, names=b"", arrays=1, start=0x112):
    head = numbers(("<u8", [start, 0, arrays]), ("<u4", [magic]), ("<i4", [storage, len(shape)]), ("<i8", shape))
    return head + numbers(("<i4", [1, 0, kind])) + data + (names or numbers(("<u8", [0])))


NAMED = numbers(("<u8", [1, 3])) + b"abc"


def test_check_params_file_unaltered_base_file_is_valid(tmp_path):
    (tmp_path / "a.params").write_bytes(a_file(names=NAMED))
    check_params_file(tmp_path / "a.params")
    (found,) = mx.nd.load(str(tmp_path / "a.params")).values()
    assert found.shape == (2,)


@pytest.mark.parametrize(
    "data, values",
    [
        (b"", ""),
        (b"not arrays at all, but a long text", ""),
        (a_file(start=0x113), ""),
        (a_file(arrays=1 << 60), "1152921504606846976"),
        (a_file(arrays=2), ""),
        (a_file(shape=(1 << 40,)), r"array 0 .*\(1099511627776,\).* 16 "),
        (a_file(shape=(1 << 20,) * 3), r"array 0 .*\(1048576, 1048576, 1048576\)"),
        (a_file(shape=(-5, 3)), r"array 0 .*\(-5, 3\)"),
        (a_file(shape=(1,) * 40), "array 0 .*40"),
        (a_file(storage=1), "array 0 .*sparse"),
        (a_file(kind=99), "array 0 .*99"),
        (a_file(names=numbers(("<u8", [2]))), "2 names of 1 array"),
        (a_file(names=numbers(("<u8", [1, 1 << 50]))), "name of 1125899906842624"),
        (a_file(names=numbers(("<u8", [1, 2])) + b"\xff\xfe"), "decode"),
        (a_file(names=NAMED[:-1]), ""),
        (a_file(names=NAMED + b"more"), ""),
    ],
    ids=[
        *[
            "empty",
            "text",
            "magic",
            "many-arrays",
            "one-too-few",
            "long",
            "large",
            "negative",
            "deep",
            "sparse",
            "type",
        ],
        *["names", "long-name", "no-text", "cut-off", "more"],
    ],
)
def test_check_params_file_damaged_raises(tmp_path, data, values):
    (tmp_path / "a.params").write_bytes(data)
    with pytest.raises(WeightsError, match=f"a.params: .*{values}"):
        check_params_file(tmp_path / "a.params")
