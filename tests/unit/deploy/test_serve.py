"""Requests and answers of an endpoint, with an engine that always finds the same two things."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import traceback
import types
import zlib

import numpy as np
import pytest

from ssd_train.data.images import ImageLimits, encode_jpeg, encode_png
from ssd_train.data.records import ClassNames
from ssd_train.deploy.detector import Detector, Picture
from ssd_train.deploy.requests import RequestError, RequestLimits, is_costly
from ssd_train.deploy.serve import answer, model_fn, transform_fn
from ssd_train.errors import DependencyError, WeightsError

WIDTH, HEIGHT, SIDE = 80, 40, 40
ROWS = np.array([[1, 0.9, 10, 10, 20, 40], [0, 0.25, 0, 0, 40, 40], [-1, 0, 0, 0, 0, 0]], np.float32)
EXPECTED = [[1.0, 0.9, 0.25, 0.25, 0.5, 1.0], [0.0, 0.25, 0.0, 0.0, 1.0, 1.0]]


class FixedEngine:
    """Answers ROWS for every picture and keeps the pictures."""

    class_names = ClassNames(("cat", "dog"))
    side = SIDE
    grayscale = False

    def __init__(self, rows=ROWS):
        self.rows, self.seen = rows, []

    def run(self, pictures):
        self.seen.extend(pictures)
        return np.stack([self.rows] * len(pictures))


IMAGE = np.random.RandomState(1).randint(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=array.dtype == object)
    return file.getvalue()


def as_json(array):
    return json.dumps(array.tolist())


def npy_claiming(header, data=b"", version=1):
    """An .npy file whose header is the text given."""
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header.encode() + data


def png_claiming(width, height):
    """A PNG that says it has these sides and holds nothing."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "body, content_type",
    [
        pytest.param(encode_jpeg(IMAGE), "image/jpeg", id="jpeg"),
        pytest.param(encode_png(IMAGE), "image/png", id="png"),
        pytest.param(encode_png(IMAGE), "image/jpeg", id="told-by-its-bytes"),
        pytest.param(encode_png(IMAGE), "application/x-image", id="x-image"),
        pytest.param(bytearray(encode_png(IMAGE)), "Application/X-Image; charset=binary", id="bytearray"),
        pytest.param(as_json(IMAGE), "application/json", id="json-text"),
        pytest.param(as_json(IMAGE).encode(), "application/json", id="json-bytes"),
        pytest.param(as_json(IMAGE[None].astype(float)), "application/json", id="json-batch-of-one"),
        pytest.param(npy(IMAGE), "application/x-npy", id="npy"),
        pytest.param(npy(IMAGE.astype(np.float32)), "application/x-npy", id="npy-float"),
    ],
)
@pytest.mark.parametrize("accept", ["application/json", "*/*", "", "text/html, application/json;q=0.9"])
def test_the_answer_is_the_builtin_algorithms(body, content_type, accept):
    said, kind = answer(Detector(FixedEngine()), body, content_type, accept)
    assert kind == "application/json"
    document = json.loads(said)
    assert list(document) == ["prediction"]
    np.testing.assert_allclose(document["prediction"], EXPECTED, rtol=1e-6)


PIXEL_BOXES = [[1, "dog", 0.9, 20, 10, 20, 30], [0, "cat", 0.25, 0, 0, 80, 40]]


@pytest.mark.parametrize("accept", ["application/json;annotation=1", "Application/JSON; annotation=1"])
def test_annotations_are_in_whole_pixels(accept):
    said, kind = answer(Detector(FixedEngine()), encode_png(IMAGE), "image/png", accept)
    assert kind == "application/json"
    assert json.loads(said) == {
        "image_size": [{"width": WIDTH, "height": HEIGHT, "depth": 3}],
        "annotations": [
            {"class_id": id, "score": pytest.approx(score), "left": x, "top": y, "width": w, "height": h}
            for id, _, score, x, y, w, h in PIXEL_BOXES
        ],
    }
    assert all(isinstance(one["left"], int) for one in json.loads(said)["annotations"])


@pytest.mark.parametrize("accept", ["application/json;verbose=1", "application/json;annotation=1;verbose=1"])
def test_verbose_answers_have_the_names_of_classes(accept):
    said, _ = answer(Detector(FixedEngine()), encode_png(IMAGE), "image/png", accept)
    found = json.loads(said)
    assert [one["class_name"] for one in found["annotations"]] == ["dog", "cat"]
    assert found["annotations"][0]["left"] == pytest.approx(20) and found["image_size"][0]["width"] == WIDTH


@pytest.mark.parametrize(
    "accept, key",
    [("application/jsonlines", "prediction"), ("application/jsonlines;annotation=1", "annotations")],
    ids=["rows", "annotations"],
)
def test_json_lines_end_in_a_line_feed(accept, key):
    said, kind = answer(Detector(FixedEngine()), encode_png(IMAGE), "image/png", accept)
    assert kind == "application/jsonlines"
    assert said.endswith("}\n") and said.count("\n") == 1 and key in json.loads(said)


def test_boxes_of_a_large_picture_are_in_its_own_pixels_though_a_smaller_one_was_decoded():
    large = np.kron(IMAGE, np.ones((4, 4, 1), np.uint8))
    said, _ = answer(Detector(FixedEngine()), encode_jpeg(large), "image/jpeg", "application/json;annotation=1")
    found = json.loads(said)
    assert found["image_size"] == [{"width": 4 * WIDTH, "height": 4 * HEIGHT, "depth": 3}]
    first = found["annotations"][0]
    assert [first[side] for side in ("left", "top", "width", "height")] == [80, 40, 80, 120]


@pytest.mark.parametrize("image", [np.zeros_like(IMAGE), IMAGE // 255, IMAGE - IMAGE % 2 / 2], ids=["0", "0-1", "half"])
def test_dark_pictures_and_fractions_of_grey_levels_are_pictures(image):
    engine = FixedEngine()
    answer(Detector(engine), npy(image.astype(np.float32)), "application/x-npy")
    assert abs(engine.seen[0].astype(float).mean() - image.mean()) < 1


def test_pixels_and_files_of_them_are_looked_at_alike():
    seen = []
    bodies = {"image/png": encode_png(IMAGE), "application/json": as_json(IMAGE), "application/x-npy": npy(IMAGE)}
    for content_type, body in bodies.items():
        engine = FixedEngine()
        answer(Detector(engine), body, content_type)
        seen += engine.seen
    assert seen[0].shape == (SIDE, SIDE, 3)
    np.testing.assert_array_equal(seen[0], seen[1])
    np.testing.assert_array_equal(seen[0], seen[2])


@pytest.mark.parametrize("scale", [1, 5], ids=["small", "decoded-smaller"])
def test_the_network_sees_what_predict_and_evaluate_show_it(scale):
    body = encode_jpeg(np.kron(IMAGE, np.ones((scale, scale, 1), np.uint8)))
    served, predicted = FixedEngine(), FixedEngine()
    said, _ = answer(Detector(served), body, "image/jpeg")
    (streamed,) = Detector(predicted).stream([Picture("a.jpg", lambda: body, "a.jpg")])
    np.testing.assert_array_equal(served.seen[0], predicted.seen[0])
    assert json.loads(said)["prediction"] == streamed.detections.to_rows()


@pytest.mark.parametrize(
    "body, content_type, accept, status, message",
    [
        pytest.param(b"", "image/jpeg", "", 400, "request: found", id="empty"),
        pytest.param(encode_jpeg(IMAGE)[:-300], "image/jpeg", "", 400, "cut off", id="cut-off"),
        pytest.param(b"<html>", "application/x-image", "", 400, "expected an image", id="html"),
        pytest.param(b"{", "application/json", "", 400, "found no JSON", id="no-json"),
        pytest.param(b"[[1],[2,3]]", "application/json", "", 400, "no array of numbers|an array of", id="ragged"),
        pytest.param(b'{"a": 1}', "application/json", "", 400, "no array of numbers", id="object"),
        pytest.param(as_json(IMAGE[0]), "application/json", "", 400, r"array of \(80, 3\)", id="no-picture"),
        pytest.param(as_json(IMAGE[:4, :4]), "application/json", "", 400, "found 4x4, expected sides", id="tiny"),
        pytest.param(npy(IMAGE / 0.5), "application/x-npy", "", 400, "beyond 0 to 255", id="beyond"),
        pytest.param(npy(np.full((40, 40, 3), np.nan)), "application/x-npy", "", 400, "beyond 0", id="nan"),
        pytest.param(npy(IMAGE / 255), "application/x-npy", "", 400, "found fractions from 0 to 1", id="npy-fractions"),
        pytest.param(as_json(IMAGE / 255), "application/json", "", 400, "found fractions from", id="json-fractions"),
        pytest.param(b"\x93NUMPY", "application/x-npy", "", 400, "no .npy array", id="npy-cut-off"),
        pytest.param(
            npy(np.array([{}], dtype=object)), "application/x-npy", "", 400, "no array of numbers", id="pickle"
        ),
        pytest.param(npy(np.array(["a"])), "application/x-npy", "", 400, "no array of numbers", id="npy-text"),
        pytest.param(b"[" * 100_000, "application/json", "", 400, "no JSON", id="json-nested-without-end"),
        pytest.param(b"[[[9" + b"9" * 400 + b"]]]", "application/json", "", 400, "no array|beyond", id="json-number"),
        pytest.param(b"\xff\xfe[", "application/json", "", 400, "no JSON", id="json-bytes-of-no-text"),
        pytest.param(npy(IMAGE[0]), "application/x-npy", "", 400, "an array of", id="npy-no-picture"),
        pytest.param(npy(IMAGE)[:-1], "application/x-npy", "", 400, "found 9599 bytes of data", id="npy-short"),
        pytest.param(
            npy_claiming("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000, 3)}"),
            *["application/x-npy", "", 400, "found 0 bytes of data, expected 24000000000000"],
            id="npy-claims-24-TB",
        ),
        pytest.param(
            npy_claiming("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, -1, 3)}", b"abc"),
            *["application/x-npy", "", 400, "an array of"],
            id="npy-negative",
        ),
        pytest.param(npy_claiming("(" * 9000), "application/x-npy", "", 400, "no .npy array", id="npy-nested"),
        pytest.param(npy_claiming("x" * 20_000, b"", 2), "application/x-npy", "", 400, "no .npy", id="npy-long-header"),
        pytest.param(png_claiming(60_000, 60_000), "image/png", "", 413, "3600.0 Mpx, expected at most 50", id="bomb"),
        pytest.param(npy(np.zeros((1, 1, 2, 3))), "application/x-npy", "", 400, "found 2x1|found 1x2", id="npy-tiny"),
        pytest.param(b"GIF89a", "image/jpeg", "", 400, "found a GIF image", id="gif"),
        pytest.param(b"x", "image/gif\r\n" * 99, "", 415, "Content-Type: found 'image/gif.r", id="type-of-many-lines"),
        pytest.param(b"a,b", "text/csv", "", 415, "Content-Type: found 'text/csv', expected", id="type"),
        pytest.param(b"x", "", "", 415, "Content-Type: found ''", id="no-type"),
        pytest.param(encode_png(IMAGE), "image/png", "text/csv", 406, "Accept: found 'text/csv'", id="accept"),
    ],
)
def test_what_cannot_be_answered_says_why(body, content_type, accept, status, message):
    with pytest.raises(RequestError, match=message) as error:
        answer(Detector(FixedEngine()), body, content_type, accept)
    assert error.value.status == status and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "limits, body, message",
    [
        (RequestLimits(max_bytes=100), encode_png(IMAGE), "bytes, expected at most 100"),
        (RequestLimits(image=ImageLimits(max_pixels=3000)), encode_png(IMAGE), "80x40 = 0.0 Mpx"),
    ],
    ids=["bytes", "pixels"],
)
def test_limits_count_before_anything_is_decoded(limits, body, message):
    with pytest.raises(RequestError, match=message) as error:
        answer(Detector(FixedEngine()), body, "image/png", limits=limits)
    assert error.value.status == 413


@pytest.mark.parametrize(
    "body, content_type, expected",
    [
        (encode_png(IMAGE), "image/png", False),
        (png_claiming(4000, 4000), "image/png", True),
        (b"no picture", "image/png", False),
        (bytes(2 << 20), "application/json", True),
        (b"[]", "application/json", False),
    ],
    ids=["small", "large", "broken", "long-json", "short-json"],
)
def test_what_takes_long_is_known_before(body, content_type, expected):
    assert is_costly(body, content_type) is expected


def test_an_error_keeps_no_lists_alive():
    """They take ten times the memory of the body, and an error may live until the garbage collector comes by."""
    with pytest.raises(RequestError) as caught:
        answer(Detector(FixedEngine()), json.dumps([[[1, 2], [3]]] * 1000), "application/json")
    error, kept = caught.value, []
    while error is not None:
        kept += [value for frame, _ in traceback.walk_tb(error.__traceback__) for value in frame.f_locals.values()]
        error = error.__context__
    assert not any(isinstance(value, list) and len(value) == 1000 for value in kept)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_never_leaves(value):
    engine = FixedEngine(np.full((1, 6), value, np.float32))
    with pytest.raises(RequestError, match="NaN") as error:
        answer(Detector(engine), encode_png(IMAGE), "image/png")
    assert error.value.status == 500


def test_the_containers_signature():
    said, kind = transform_fn(Detector(FixedEngine()), encode_png(IMAGE), "image/png", "application/json")
    assert kind == "application/json" and len(json.loads(said)["prediction"]) == 2
    with pytest.raises(RequestError):
        transform_fn(Detector(FixedEngine()), b"", "text/csv", "application/json")


def test_a_batch_transform_job_sets_the_limit(monkeypatch):
    body = encode_png(np.random.RandomState(0).randint(0, 256, (1000, 600, 3)).astype(np.uint8))
    monkeypatch.setenv("SAGEMAKER_MAX_PAYLOAD_IN_MB", "1")
    with pytest.raises(RequestError, match="expected at most 1048576"):
        transform_fn(Detector(FixedEngine()), body, "image/png", "")


class Toolkit:
    """A stand-in for sagemaker_inference, whose Transformer answers errors as its versions 1.6.1 to 1.10.1 do."""

    class Error(Exception):
        def __init__(self, status_code, message=None, phrase=None):
            super().__init__(status_code, message, phrase)
            self.status_code, self.message, self.phrase = status_code, message, phrase or message

    class Transformer:
        @staticmethod
        def handle_error(context, error, trace):
            return [f"{error.message}\n{trace}"]

    def __init__(self, monkeypatch):
        monkeypatch.setattr(self, "Transformer", type("Transformer", (), dict(vars(self.Transformer))), raising=False)
        modules = {
            "sagemaker_inference": types.ModuleType("sagemaker_inference"),
            "sagemaker_inference.errors": types.SimpleNamespace(GenericInferenceToolkitError=self.Error),
            "sagemaker_inference.transformer": types.SimpleNamespace(Transformer=self.Transformer),
        }
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)

    def status_and_body(self, work):
        """What the toolkit answers when `work` raises."""
        self.status = self.phrase = None
        try:
            work()
        except Exception as error:
            found = error if isinstance(error, self.Error) else self.Error(500, str(error))
            (body,) = self.Transformer.handle_error(self, found, "Traceback: /opt/ml/model/code/train.py")
            return self.status, body
        raise AssertionError("nothing was raised")

    def set_response_status(self, code, phrase):
        self.status, self.phrase = code, phrase


def _fail(error):
    raise error


@pytest.mark.parametrize(
    "work, status, body",
    [
        pytest.param(
            lambda: transform_fn(Detector(FixedEngine()), b"a", "text/csv", ""), 415, "Content-Type: found", id="ours"
        ),
        pytest.param(
            lambda: transform_fn(Detector(FixedEngine()), b"a", "image/png", ""), 400, "request: found", id="broken"
        ),
        pytest.param(lambda: b"\xff".decode("utf-8"), 400, "request: found bytes that are no UTF-8", id="no-text"),
        pytest.param(lambda: _fail(DependencyError("no OpenCV")), 500, "no OpenCV", id="library"),
        pytest.param(lambda: _fail(WeightsError("/opt/ml/model: damaged")), 500, "internal error: ", id="model"),
        pytest.param(lambda: _fail(KeyError("/etc/secret")), 500, "internal error: ", id="unforeseen"),
    ],
)
def test_the_container_answers_errors_with_one_line(monkeypatch, caplog, tmp_path, work, status, body):
    toolkit = Toolkit(monkeypatch)
    with pytest.raises(WeightsError):
        model_fn(str(tmp_path))
    found, said = toolkit.status_and_body(work)
    assert found == status and said.startswith(body)
    assert not set("\n/") & set(said.replace("image/", "").replace("application/", "").replace("text/", ""))
    assert toolkit.phrase and "\n" not in toolkit.phrase
    assert ("Traceback" in caplog.text) == (status == 500)


def test_without_pillow_the_module_is_there_and_says_what_is_missing(tmp_path):
    program = (
        "import sys; sys.modules['PIL'] = None\n"
        "from ssd_train.deploy.serve import model_fn, transform_fn\n"
        "try: model_fn(sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    found = subprocess.run([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, check=True)
    assert found.stdout.decode().startswith("DependencyError ") and b"PIL" in found.stdout
