"""check on the command line: what is shown, what is written, which exit code; never a traceback."""

from __future__ import annotations

import json
import shlex

import pytest
from helpers.data import flags_of, label_set, memory_images, shapes_set

from ssd_train.cli.main import main
from ssd_train.data.checks.codes import CODES
from ssd_train.data.formats.recordio import write_recordio
from ssd_train.data.synthetic import SHAPE_CLASSES, draw_shapes_set, write_drawn_set


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Thirty pictures with nothing wrong, but for classes with few boxes."""
    return shapes_set(tmp_path_factory.mktemp("drawn"), 30)


def check(capsys, **flags):
    """Exit code, output and errors of `check` with `flags`."""
    code = main(["check", *flags_of(flags)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_check_folder_without_a_flag_names_the_flag(capsys):
    assert main(["check", "data"]) == 2
    assert "--images data" in capsys.readouterr().err


def with_lines(drawn, folder, *lines):
    """A manifest like that of `drawn`, and more `lines`."""
    path = folder / "more.manifest"
    path.write_text(drawn.manifest.read_text("utf-8") + "".join(f"{line}\n" for line in lines), "utf-8")
    return path


def line(drawn, source, **box):
    """The first line of `drawn` for another image, with changes to its first box."""
    text = drawn.manifest.read_text("utf-8").splitlines()[0]
    found = json.loads(text)
    found["source-ref"] = source
    attribute = next(key for key in found if f"{key}-metadata" in found)
    found[attribute]["annotations"][0].update(box)
    return json.dumps(found)


def test_clean_data(drawn, capsys):
    code, out, _ = check(capsys, images=drawn.images, labels=drawn.manifest)
    assert code == 0
    assert "train: 30 images, 3 without objects; " in out
    assert "image_shape 300 is recommended" in out and "label_width" in out
    assert out.rstrip().endswith("found 0 errors, 0 warnings, 0 notes")


def test_check_json_to_standard_output_is_json_alone(drawn, tmp_path, capfd):
    flags = {"images": drawn.images, "labels": drawn.manifest}
    assert check(capfd, **flags, json=tmp_path / "found.json")[0] == 0
    code, out, err = check(capfd, **flags, json="-")
    assert code == 0 and out == (tmp_path / "found.json").read_text("utf-8")
    assert "train: 30 images" in err


def test_errors_are_shown_with_place_and_remedy_and_written(drawn, capsys, tmp_path):
    labels = with_lines(drawn, tmp_path, line(drawn, "s3://b/absent.png"), "no JSON")
    code, out, _ = check(capsys, images=drawn.images, labels=labels, json=tmp_path / "deep" / "found.json")
    assert code == 2
    absent = f"{labels}:31: image 's3://b/absent.png' not found"
    assert f"error: missing-image: {CODES['missing-image'].condition} (1)\n  {absent}" in out
    assert f"error: bad-line: {CODES['bad-line'].condition} (1)\n  {labels}:32: found bad JSON at column 1" in out
    assert f"  what to do: {CODES['bad-line'].remedy}\n" in out
    assert "found 2 errors, 0 warnings, 0 notes" in out
    document = json.loads((tmp_path / "deep" / "found.json").read_text("utf-8"))
    assert document["errors"] == 2 and document["counts"] == {"bad-line": 1, "missing-image": 1}
    assert document["statistics"]["train"]["images"] == 31
    assert [entry["where"] for entry in document["findings"]] == [f"{labels}:32", f"{labels}:31"]


def test_warnings_are_no_failure(drawn, capsys, tmp_path):
    first = drawn.manifest.read_text("utf-8").splitlines()[0]
    code, out, _ = check(capsys, images=drawn.images, labels=with_lines(drawn, tmp_path, first))
    assert code == 0
    assert "warning: duplicate-line: " in out and "found 0 errors, 1 warning, 0 notes" in out


def test_record_file_brings_its_images(capsys, tmp_path):
    labels = label_set([[[1, 1, 30, 25]]] * 12)
    write_recordio(tmp_path / "a.rec", labels.records, memory_images(labels))
    code, out, _ = check(capsys, images=tmp_path / "a.rec", class_names="cat")
    assert code == 0 and "train: 12 images" in out and "cat  12 boxes" in out
    data = bytearray((tmp_path / "a.rec").read_bytes())
    start = data.index(b"IDAT", len(data) // 2)
    data[start + 40 : start + 60] = bytes(20)
    (tmp_path / "a.rec").write_bytes(bytes(data))
    code, out, _ = check(capsys, images=tmp_path / "a.rec", class_names="cat")
    assert code == 2 and "error: unreadable-image: " in out and f"{tmp_path / 'a.rec'}:" in out


WRONG_FLAGS = {
    "nothing": ({}, "neither images nor labels"),
    "no such folder": ({"images": "/no/such", "labels": "a.manifest"}, "/no/such: not found"),
    "image_shape": ({"labels": "a", "image_shape": "big"}, "image_shape: found 'big'"),
    "another job's attribute": ({"labels": "LABELS", "label_attribute": "no"}, "label_attribute: found 'no'"),
}


@pytest.mark.parametrize("flags, message", WRONG_FLAGS.values(), ids=WRONG_FLAGS.keys())
def test_wrong_flags_are_one_line(drawn, capsys, flags, message):
    flags = {name: drawn.manifest if value == "LABELS" else value for name, value in flags.items()}
    code, out, err = check(capsys, **flags)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and message in err and err.count("\n") == 1


@pytest.fixture(scope="module")
def small_objects(tmp_path_factory):
    """Thirty images whose objects have 2 to 5 % of their side."""
    samples = draw_shapes_set(30, 1, (640, 480), max_objects=8, sides=(0.02, 0.05))
    return write_drawn_set(tmp_path_factory.mktemp("small"), samples, SHAPE_CLASSES, "shapes")


def advised_command(out):
    """Return the words of the command that check advises."""
    (line,) = [line for line in out.splitlines() if line.startswith("advised")]
    return shlex.split(line.partition(" train ")[2])


def test_check_small_objects_advises_a_command_that_trains(small_objects, tmp_path, capsys):
    images, labels = small_objects
    code, out, _ = check(capsys, images=images, labels=labels, label_attribute="shapes", json=tmp_path / "all.json")
    words = advised_command(out)
    assert code == 0
    assert words[:2] == ["--train", str(images)] and words[-4:] == [
        "--feature_strides",
        "8,16,...",
        "--image_shape",
        "512",
    ]
    assert "--json" not in words
    advised = json.loads((tmp_path / "all.json").read_text("utf-8"))["statistics"]["advised"]
    assert advised == {"feature_strides": "8,16,...", "image_shape": 512}
    quick = {
        "model_dir": tmp_path / "m",
        "output_dir": tmp_path / "o",
        "base_network": "mobilenet0.25",
        "mini_batch_size": 1,
    }
    assert main(["train", *words, *flags_of(quick), "--use_pretrained_model", "0", "--dry_run"]) == 0
    shown = capsys.readouterr().out
    assert "anchors" in shown and "feature_strides 8,16,..." in shown


@pytest.mark.parametrize("base_network", ["mobilenet1.0", "vgg-16"])
def test_check_advises_no_map_of_stride_8_that_brings_nothing(drawn, small_objects, capsys, base_network):
    """The objects are large, or the network has that map."""
    labels = drawn.manifest if base_network == "mobilenet1.0" else small_objects[1]
    code, out, _ = check(capsys, labels=labels, base_network=base_network)
    assert code == 0 and "feature_strides" not in out
