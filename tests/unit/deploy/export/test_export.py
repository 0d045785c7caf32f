"""export: formats, verification before publishing, and refused outputs."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading

import numpy as np
import pytest
from helpers.data import HeardProgress, memory_images
from helpers.models import CLASSES, flip_a_bit, talking_model

from ssd_train import mxnet_compat
from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.cli.export import EIGHT_BITS, FORMATS, INPUTS
from ssd_train.cli.main import main
from ssd_train.data.formats.coco import write_coco
from ssd_train.data.image_io import encode_png
from ssd_train.data.labels import LabeledDataset
from ssd_train.data.structures import ClassNames, LabeledImage, Labels
from ssd_train.data.synthetic import draw_shapes_set
from ssd_train.deploy.detector import Detector, ImageRef
from ssd_train.deploy.evaluate import image_refs, score_images
from ssd_train.deploy.export.export import VerificationOptions, export
from ssd_train.deploy.export.onnx import make_anchors as make
from ssd_train.deploy.export.onnx import write_onnx
from ssd_train.deploy.symbol import is_up_to_date
from ssd_train.errors import ConfigError, SsdTrainError

mx = mxnet_compat.mxnet()
onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def folder(request, tmp_path_factory):
    """Return a model folder; its parameter are the model's settings."""
    folder = tmp_path_factory.mktemp("model")
    talking_model(folder, **getattr(request, "param", {}))
    return folder


@pytest.fixture(scope="module")
def labelled(folder):
    """Synthetic images labelled with the model's own detections, so that its mAP is high."""
    images = [sample.image for sample in draw_shapes_set(16, seed=5)]
    detector, records = Detector.load(folder), []
    for index, image in enumerate(images):
        detections = detector(image)
        boxes, class_ids = detections.boxes, detections.class_ids
        best = np.flatnonzero((boxes[:, 2:] - boxes[:, :2]).min(axis=1) > 4)[:5]
        record = LabeledImage(f"{index}.png", boxes[best], class_ids[best], detections.size_wh, f"labels:{index + 1}")
        records.append(record)
    labels = Labels(tuple(records), ClassNames(CLASSES), source="labels")
    data = LabeledDataset(labels, memory_images(labels, images))
    assert score_images(detector, data).coco > 0.3
    return data


def written(folder, format, output, proof, input="pixels"):
    progress = HeardProgress()
    export(folder, format, output, input, proof, progress)
    return progress.lines


def numbers_in(line):
    return [int(number) for number in re.findall(r"\b\d+\b", line)]


@pytest.mark.parametrize("input", INPUTS.values(), ids=INPUTS.keys())
def test_export_onnx_writes_a_verified_file_with_metadata(folder, labelled, tmp_path, input):
    pictures = list(image_refs(labelled.labels, labelled.images))
    (line,) = written(folder, "onnx", tmp_path / "new" / "m.onnx", VerificationOptions(pictures), input)
    assert numbers_in(line)[:3] == [16, 1600, 0], "images, boxes, unmatched"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["m.onnx"]
    document = onnx.load(str(tmp_path / "new" / "m.onnx"))
    (entry,) = document.graph.input  # weights are not inputs
    shape = [d.dim_param or d.dim_value for d in entry.type.tensor_type.shape.dim]
    assert (entry.name, shape) == (input, ["N", 128, 128, 3] if input == "pixels" else ["N", 3, 128, 128])
    assert entry.type.tensor_type.elem_type == (2 if input == "pixels" else 1)
    operators = [node.op_type for node in document.graph.node]
    assert "NonMaxSuppression" in operators and "BatchNormalization" not in operators
    texts = {entry.key: entry.value for entry in document.metadata_props}
    assert json.loads(texts["class_names"]) == list(CLASSES) and texts["weights"] == SavedModel.load(folder).sha256
    assert (texts["kind"], texts["side"], texts["grayscale"]) == ("onnx", "128", "false")
    assert json.loads(texts["settings"])["base_network"] == "mobilenet0.25" and json.loads(texts["mean"])[0] == 0.485


def test_export_symbol_without_images_compares_on_synthetic_ones(folder, tmp_path):
    (line,) = written(folder, "symbol", tmp_path / "out", VerificationOptions())
    assert numbers_in(line)[:3] == [20, 2000, 0], "images, boxes, unmatched"
    assert Detector.load(tmp_path / "out").class_names.names == CLASSES


def places(tmp_path):
    return {"onnx": tmp_path / "m.onnx", "symbol": tmp_path, "onnx-int8": tmp_path / "m.onnx", "int8": tmp_path / "q"}


@pytest.mark.parametrize("folder", [{}, {"feature_strides": "8,16,..."}], indirect=True, ids=["usual", "stride-8"])
@pytest.mark.parametrize("format", EIGHT_BITS)
def test_export_8_bits_measures_map_and_writes(folder, labelled, tmp_path, format):
    output = places(tmp_path)[format]
    lines = written(folder, format, output, VerificationOptions(validation=labelled, max_map_drop=1.0))
    assert [line.split(":")[0] for line in lines] == ["32 bits", "8 bits"]
    found = Detector.load(output)
    assert found.engine.description.kind == format
    scores = score_images(found, labelled)
    assert scores.coco > 0.1, "quantised, not broken"
    assert all(f"{value:.4f}" in lines[1] for value in (scores.coco, scores.ap50))
    if format == "onnx-int8":
        operators = [node.op_type for node in onnx.load(str(output)).graph.node]
        assert "QuantizeLinear" in operators
        assert _whole_weights(output) == ["Conv"], "the first convolution, of pixels, stays in 32 bits"
        assert output.stat().st_size < 0.5 * _size_of_float(folder, tmp_path)
    else:
        assert "_sg_mkldnn_conv" in (output / "model-symbol.json").read_text()


def _whole_weights(path):
    """Return the convolutions whose weights are float32."""
    graph = onnx.load(str(path)).graph
    floats = {t.name for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    return [node.op_type for node in graph.node if node.op_type == "Conv" and node.input[1] in floats]


def _size_of_float(folder, tmp_path):
    write_onnx(SavedModel.load(folder), tmp_path / "float.onnx")
    return (tmp_path / "float.onnx").stat().st_size


@pytest.mark.parametrize("format", EIGHT_BITS)
def test_export_8_bits_losing_map_raises_with_both_values(folder, labelled, tmp_path, format):
    """Calibrated on black images, all ranges are wrong."""
    black = [ImageRef("black.png", lambda: encode_png(np.zeros((128, 128, 3), np.uint8)), "black.png")] * 4
    output = places(tmp_path)[format]
    with pytest.raises(ConfigError, match=r"^max_map_drop: .*0\.\d+.*0\.\d+.*0\.\d+.* 0\.01;"):
        written(folder, format, output, VerificationOptions(black, labelled))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_export_int8_over_a_symbol_of_the_same_weights_raises(folder, labelled, tmp_path):
    written(folder, "symbol", tmp_path / "symbol", VerificationOptions())
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=f"^output: found {tmp_path / 'symbol'}"):
        written(folder, "int8", tmp_path / "symbol", VerificationOptions(validation=labelled))
    assert contents(tmp_path) == before
    written(folder, "symbol", tmp_path / "symbol", VerificationOptions())
    assert contents(tmp_path) == before, "made again of the same model"


@pytest.mark.parametrize("damaged", ["model-0000.params", "model-symbol.json", "model-export.json"])
def test_export_model_with_damaged_deployment_files_works(folder, tmp_path, damaged):
    """The error about the damage says so."""
    model = shutil.copytree(folder, tmp_path / "model")
    written(model, "symbol", model, VerificationOptions())
    flip_a_bit(model / damaged)
    written(model, "onnx", model / "m.onnx", VerificationOptions())
    assert not is_up_to_date(model)
    written(model, "symbol", model, VerificationOptions())
    assert is_up_to_date(model)
    for engine in ("symbol", "onnxruntime"):
        assert Detector.load(model, engine=engine).class_names.names == CLASSES


def test_export_onnx_wrong_raises_and_keeps_the_old_file(folder, tmp_path, monkeypatch):
    """The export is wrong: its anchors are in another order."""
    monkeypatch.setattr("ssd_train.deploy.export.onnx.make_anchors", lambda layout: make(layout)[::-1])
    (tmp_path / "m.onnx").write_bytes(b"old")
    with pytest.raises(SsdTrainError, match=f"^{tmp_path / 'm.onnx'}: "):
        written(folder, "onnx", tmp_path / "m.onnx", VerificationOptions())
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"] and (tmp_path / "m.onnx").read_bytes() == b"old"


def test_export_model_without_detections_raises(tmp_path):
    model = talking_model(tmp_path / "model")
    net = model.build()
    for parameter in net.collect_params(".*convpredictor[0246]_conv0_(weight|bias)").values():
        value = np.zeros(parameter.shape, np.float32)
        if value.ndim == 1:
            value[::4] = 20  # background
        parameter.set_data(mx.nd.array(value))
    model.save(tmp_path / "model", net)
    with pytest.raises(SsdTrainError, match=f"^{tmp_path / 'm.onnx'}: "):
        written(tmp_path / "model", "onnx", tmp_path / "m.onnx", VerificationOptions())


@pytest.mark.parametrize(
    "flags, values",
    [
        pytest.param(["--format", "onnx", "--output", "m.bin"], ["output: found m.bin", ".onnx"], id="name"),
        pytest.param(["--format", "tflite", "--output", "m"], ["--format", "'tflite'"], id="format"),
        pytest.param(
            ["--format", "symbol", "--output", "m", "--input", "float"],
            ["input: found 'float'", "'symbol'"],
            id="input",
        ),
        pytest.param(
            ["--format", "int8", "--output", "m", "--max_map_drop", "2"], ["max_map_drop", "2.0", "0 to 1"], id="drop"
        ),
        pytest.param(["--format", "int8", "--output", "m"], ["--labels"], id="labels"),
    ],
)
def test_export_wrong_flags_exits_2_and_names_them(folder, tmp_path, monkeypatch, capsys, flags, values):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "--model", str(folder), *flags]) == 2
    error = capsys.readouterr().err
    assert [value for value in values if value not in error] == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "place, value",
    [
        pytest.param("empty", "config.json", id="nothing"),
        pytest.param("file.onnx", "ONNX", id="onnx"),
        pytest.param("symbol", "an export", id="symbol"),
        pytest.param("job", "python -m ssd_train convert", id="builtin"),
    ],
)
def test_export_no_model_folder_exits_2_with_the_path(folder, tmp_path, capsys, place, value):
    for name in ("empty", "job"):
        (tmp_path / name).mkdir()
    for name in ("file.onnx", "job/model_algo_1-symbol.json"):
        (tmp_path / name).write_text("{}")
    if place == "symbol":
        written(folder, "symbol", tmp_path / "symbol", VerificationOptions())
    command = ["export", "--model", str(tmp_path / place), "--format", "onnx", "--output", str(tmp_path / "m.onnx")]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / place}: ") and value in error
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize(
    "format, place",
    [("onnx", "other"), ("onnx-int8", "file"), ("symbol", "export"), ("symbol", "program"), ("int8", "other")],
)
def test_export_over_another_model_raises_and_changes_nothing(folder, labelled, tmp_path, format, place):
    talking_model(tmp_path / "other", ("bus", "car"))
    written(tmp_path / "other", "symbol", tmp_path / "export", VerificationOptions())
    (tmp_path / "file").write_text("kept")
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "config.json").write_text("{}")
    before = contents(tmp_path)
    output = tmp_path / place / "m.onnx" if "onnx" in format else tmp_path / place
    with pytest.raises(SsdTrainError, match=str(tmp_path / place)):
        written(folder, format, output, VerificationOptions(validation=labelled))
    assert contents(tmp_path) == before


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_export_onnx_to_a_link_and_a_fifo_keeps_both(folder, labelled, tmp_path):
    proof = VerificationOptions(list(image_refs(labelled.labels, labelled.images)))
    (tmp_path / "link.onnx").symlink_to("there/m.onnx")
    written(folder, "onnx", tmp_path / "link.onnx", proof)
    os.mkfifo(tmp_path / "fifo")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "fifo").read_bytes()), daemon=True)
    reader.start()
    written(folder, "onnx", tmp_path / "fifo", proof)
    reader.join(10)
    by_fifo, by_link = onnx.load_from_string(read[0]), onnx.load(str(tmp_path / "there" / "m.onnx"))
    assert by_fifo.metadata_props == by_link.metadata_props  # names in the graph differ each time
    assert [node.op_type for node in by_fifo.graph.node] == [node.op_type for node in by_link.graph.node]
    assert (tmp_path / "link.onnx").is_symlink() and (tmp_path / "fifo").is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fifo", "link.onnx", "there"]
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["m.onnx"]


@pytest.mark.slow
def test_export_command_each_format_can_be_evaluated(folder, labelled, tmp_path, capsys):
    images, manifest = tmp_path / "images", tmp_path / "labels.json"
    images.mkdir()
    for record in labelled.labels.records:
        (images / record.name).write_bytes(labelled.images.read(record))
    write_coco(manifest, labelled.labels.records, labelled.labels.class_names)
    for format in FORMATS:
        output = tmp_path / (f"{format}.onnx" if "onnx" in format else format)
        flags = ["--images", str(images), "--labels", str(manifest), "--max_map_drop", "1"]
        assert main(["export", "--model", str(folder), "--format", format, "--output", str(output), *flags]) == 0
        assert f"written: {output}" in capsys.readouterr().out
        assert main(["evaluate", "--model", str(output), "--images", str(images), "--labels", str(manifest)]) == 0
        assert "mAP 0." in capsys.readouterr().out
