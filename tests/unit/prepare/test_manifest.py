"""Lines of a manifest: nothing is lost that a step does not change."""

from __future__ import annotations

import pytest
from helpers import manifests

from ssd_train.errors import DataError
from ssd_train.prepare.manifest import read_lines, write_lines

ODD = '{"z":1.50,"a":[1e3,-0.0,12345678901234567890,0.1000],"source-ref":"s3://b/ü \\u00e9.jpg","t":true,"n":null}'


def only(path):
    (line,) = read_lines(path)
    return line


def test_read_lines_raw_keeps_its_bytes(tmp_path):
    path = manifests.write(tmp_path / "a", [ODD.replace(":1.50", " : 1.50")])

    assert only(path).raw == ODD.replace(":1.50", " : 1.50").encode()


def test_edited_line_keeps_order_and_numbers(tmp_path):
    line = only(manifests.write(tmp_path / "a", [ODD]))

    edited = line.edited(lambda copy: copy.update(t=False))

    assert edited.decode() == ODD.replace("true", "false").replace("\\u00e9", "é")
    assert line.value["t"] is True


def test_lone_surrogate_stays_an_escape(tmp_path):
    line = only(manifests.write(tmp_path / "a", ['{"source-ref":"a.jpg","x":"\\ud800é"}']))

    assert line.edited(lambda copy: None) == b'{"source-ref":"a.jpg","x":"\\ud800\\u00e9"}'


@pytest.mark.parametrize(
    "text, expected",
    [
        pytest.param("{", "a:2: found bad JSON", id="cut-off"),
        pytest.param('{"source-ref":5}', "a:2: source-ref: found 5", id="number-for-a-name"),
        pytest.param("{}", "a:2: source-ref: found null", id="no-image"),
    ],
)
def test_bad_line_is_named(tmp_path, text, expected):
    path = manifests.write(tmp_path / "a", [manifests.line("x.jpg"), text])

    with pytest.raises(DataError, match=".*") as caught:
        [line.source for line in read_lines(path)]

    assert str(caught.value).startswith(f"{tmp_path}/{expected}")


def test_manifest_may_be_written_over_itself(tmp_path):
    path = manifests.write(tmp_path / "a", [manifests.line(f"{i}.jpg") for i in range(2000)])
    before = path.read_bytes()

    assert write_lines(path, (line.raw for line in read_lines(path))) == 2000
    assert path.read_bytes() == before
