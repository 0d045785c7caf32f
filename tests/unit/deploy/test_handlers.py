"""Requests and responses of an endpoint, with an engine that always returns the same two detections."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import traceback
import types

import numpy as np
import pytest
from helpers.images import png_claiming

from ssd_train.data.image_io import ImageLimits, encode_jpeg, encode_png
from ssd_train.data.structures import ClassNames
from ssd_train.deploy.codec import ImageRequest, RequestError, RequestLimits
from ssd_train.deploy.detector import Detector, ImageRef
from ssd_train.deploy.handlers import handle_request, model_fn, transform_fn
from ssd_train.errors import DependencyError, WeightsError

WIDTH, HEIGHT, SIDE = 80, 40, 40
ROWS = np.array([[1, 0.9, 10, 10, 20, 40], [0, 0.25, 0, 0, 40, 40], [-1, 0, 0, 0, 0, 0]], np.float32)
EXPECTED = [[1.0, 0.9, 0.25, 0.25, 0.5, 1.0], [0.0, 0.25, 0.0, 0.0, 1.0, 1.0]]


class FixedEngine:
    """Returns ROWS for every image, and keeps the images."""

    class_names = ClassNames(("cat", "dog"))
    side = SIDE
    grayscale = False

    def __init__(self, rows=ROWS):
        self.rows, self.seen = rows, []

    def run(self, images):
        self.seen.extend(images)
        return np.stack([self.rows] * len(images))


IMAGE = np.random.RandomState(1).randint(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=array.dtype == object)
    return file.getvalue()


def as_json(array):
    return json.dumps(array.tolist())


def npy_claiming(header, data=b"", version=1):
    """Return an .npy file with this header."""
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header.encode() + data


@pytest.mark.parametrize(
    "body, content_type",
    [
        pytest.param(encode_jpeg(IMAGE), "image/jpeg", id="jpeg"),
        pytest.param(encode_png(IMAGE), "image/png", id="png"),
        pytest.param(encode_png(IMAGE), "image/jpeg", id="wrong-type"),
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
def test_handle_request_json_is_in_the_built_in_algorithms_format(body, content_type, accept):
    response, kind = handle_request(Detector(FixedEngine()), body, content_type, accept)
    assert kind == "application/json"
    document = json.loads(response)
    assert list(document) == ["prediction"]
    np.testing.assert_allclose(document["prediction"], EXPECTED, rtol=1e-6)


PIXEL_BOXES = [[1, "dog", 0.9, 20, 10, 20, 30], [0, "cat", 0.25, 0, 0, 80, 40]]


@pytest.mark.parametrize("accept", ["application/json;annotation=1", "Application/JSON; annotation=1"])
def test_handle_request_annotation_is_in_integer_pixels(accept):
    response, kind = handle_request(Detector(FixedEngine()), encode_png(IMAGE), "image/png", accept)
    assert kind == "application/json"
    assert json.loads(response) == {
        "image_size": [{"width": WIDTH, "height": HEIGHT, "depth": 3}],
        "annotations": [
            {"class_id": id, "score": pytest.approx(score), "left": x, "top": y, "width": w, "height": h}
            for id, _, score, x, y, w, h in PIXEL_BOXES
        ],
    }
    assert all(isinstance(one["left"], int) for one in json.loads(response)["annotations"])


@pytest.mark.parametrize("accept", ["application/json;verbose=1", "application/json;annotation=1;verbose=1"])
def test_handle_request_verbose_has_class_names(accept):
    response, _ = handle_request(Detector(FixedEngine()), encode_png(IMAGE), "image/png", accept)
    found = json.loads(response)
    assert [one["class_name"] for one in found["annotations"]] == ["dog", "cat"]
    assert found["annotations"][0]["left"] == pytest.approx(20) and found["image_size"][0]["width"] == WIDTH


@pytest.mark.parametrize(
    "accept, key",
    [("application/jsonlines", "prediction"), ("application/jsonlines;annotation=1", "annotations")],
    ids=["rows", "annotations"],
)
def test_handle_request_json_lines_ends_with_a_line_feed(accept, key):
    response, kind = handle_request(Detector(FixedEngine()), encode_png(IMAGE), "image/png", accept)
    assert kind == "application/jsonlines"
    assert response.endswith("}\n") and response.count("\n") == 1 and key in json.loads(response)


@pytest.mark.parametrize("image", [np.zeros_like(IMAGE), IMAGE // 255, IMAGE - IMAGE % 2 / 2], ids=["0", "0-1", "half"])
def test_handle_request_dark_or_fractional_pixels_are_accepted(image):
    engine = FixedEngine()
    handle_request(Detector(engine), npy(image.astype(np.float32)), "application/x-npy")
    assert abs(engine.seen[0].astype(float).mean() - image.mean()) < 1


def test_handle_request_pixels_and_files_give_equal_inputs():
    seen = []
    bodies = {"image/png": encode_png(IMAGE), "application/json": as_json(IMAGE), "application/x-npy": npy(IMAGE)}
    for content_type, body in bodies.items():
        engine = FixedEngine()
        handle_request(Detector(engine), body, content_type)
        seen += engine.seen
    assert seen[0].shape == (SIDE, SIDE, 3)
    np.testing.assert_array_equal(seen[0], seen[1])
    np.testing.assert_array_equal(seen[0], seen[2])


@pytest.mark.parametrize("scale", [1, 5], ids=["small", "decoded-smaller"])
def test_handle_request_input_and_boxes_equal_those_of_a_stream(scale):
    body = encode_jpeg(np.kron(IMAGE, np.ones((scale, scale, 1), np.uint8)))
    served, predicted = FixedEngine(), FixedEngine()
    response, _ = handle_request(Detector(served), body, "image/jpeg")
    (streamed,) = Detector(predicted).predict_iter([ImageRef("a.jpg", lambda: body, "a.jpg")])
    np.testing.assert_array_equal(served.seen[0], predicted.seen[0])
    assert json.loads(response)["prediction"] == streamed.detections.to_rows()


@pytest.mark.parametrize(
    "body, content_type, accept, status, value",
    [
        pytest.param(encode_jpeg(IMAGE)[:-300], "image/jpeg", "", 400, "JPEG", id="cut-off"),
        pytest.param(b'{"a": 1}', "application/json", "", 400, "array", id="object"),
        pytest.param(as_json(IMAGE[:4, :4]), "application/json", "", 400, "4x4", id="tiny"),
        pytest.param(npy(IMAGE / 0.5), "application/x-npy", "", 400, "0 to 255", id="beyond"),
        pytest.param(npy(np.full((40, 40, 3), np.nan)), "application/x-npy", "", 400, "0 to 255", id="nan"),
        pytest.param(as_json(IMAGE / 255), "application/json", "", 400, "0 to 1", id="json-fractions"),
        pytest.param(b"\x93NUMPY", "application/x-npy", "", 400, "no .npy", id="npy-cut-off"),
        pytest.param(npy(np.array([{}], dtype=object)), "application/x-npy", "", 400, "array", id="pickle"),
        pytest.param(b"[" * 100_000, "application/json", "", 400, "no JSON", id="json-nested-without-end"),
        pytest.param(b"\xff\xfe[", "application/json", "", 400, "no JSON", id="json-not-text"),
        pytest.param(npy(IMAGE)[:-1], "application/x-npy", "", 400, "9599 bytes", id="npy-short"),
        pytest.param(
            npy_claiming("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000, 3)}"),
            *["application/x-npy", "", 400, "24000000000000"],
            id="npy-claims-24-TB",
        ),
        pytest.param(
            npy_claiming("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, -1, 3)}", b"abc"),
            *["application/x-npy", "", 400, "(-1, -1, 3)"],
            id="npy-negative",
        ),
        pytest.param(npy_claiming("(" * 9000), "application/x-npy", "", 400, "no .npy", id="npy-nested"),
        pytest.param(npy_claiming("x" * 20_000, b"", 2), "application/x-npy", "", 400, "no .npy", id="npy-long-header"),
        pytest.param(png_claiming(60_000, 60_000), "image/png", "", 413, "3600.0 Mpx", id="bomb"),
        pytest.param(b"x", "image/gif\r\n" * 99, "", 415, "image/gif", id="type-of-many-lines"),
        pytest.param(b"a,b", "text/csv", "", 415, "'text/csv'", id="type"),
        pytest.param(encode_png(IMAGE), "image/png", "text/csv", 406, "'text/csv'", id="accept"),
    ],
)
def test_handle_request_bad_request_raises_with_status_and_value(body, content_type, accept, status, value):
    with pytest.raises(RequestError) as error:
        handle_request(Detector(FixedEngine()), body, content_type, accept)
    place = {406: "Accept: ", 415: "Content-Type: "}.get(status, "request: ")
    message = str(error.value)
    assert error.value.status == status and message.startswith(place) and value in message and "\n" not in message


@pytest.mark.parametrize(
    "limits, body, value",
    [
        (RequestLimits(max_bytes=100), encode_png(IMAGE), "at most 100"),
        (RequestLimits(image=ImageLimits(max_pixels=3000)), encode_png(IMAGE), "80x40"),
    ],
    ids=["bytes", "pixels"],
)
def test_handle_request_above_a_limit_raises_413(limits, body, value):
    with pytest.raises(RequestError, match=value) as error:
        handle_request(Detector(FixedEngine()), body, "image/png", limits=limits)
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
def test_is_costly_body_returns_expected(body, content_type, expected):
    assert ImageRequest(body, content_type).is_expensive() is expected


def test_handle_request_bad_json_keeps_no_lists_alive():
    """They take ten times the memory of the body, and the error may live until the next garbage collection."""
    with pytest.raises(RequestError) as caught:
        handle_request(Detector(FixedEngine()), json.dumps([[[1, 2], [3]]] * 1000), "application/json")
    error, kept = caught.value, []
    while error is not None:
        kept += [value for frame, _ in traceback.walk_tb(error.__traceback__) for value in frame.f_locals.values()]
        error = error.__context__
    assert not any(isinstance(value, list) and len(value) == 1000 for value in kept)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_handle_request_nan_of_the_network_raises_500(value):
    engine = FixedEngine(np.full((1, 6), value, np.float32))
    with pytest.raises(RequestError, match="NaN") as error:
        handle_request(Detector(engine), encode_png(IMAGE), "image/png")
    assert error.value.status == 500


def test_transform_fn_request_returns_body_and_type():
    response, kind = transform_fn(Detector(FixedEngine()), encode_png(IMAGE), "image/png", "application/json")
    assert kind == "application/json" and len(json.loads(response)["prediction"]) == 2
    with pytest.raises(RequestError):
        transform_fn(Detector(FixedEngine()), b"", "text/csv", "application/json")


def test_transform_fn_payload_limit_of_the_job_raises_413(monkeypatch):
    body = encode_png(np.random.RandomState(0).randint(0, 256, (1000, 600, 3)).astype(np.uint8))
    monkeypatch.setenv("SAGEMAKER_MAX_PAYLOAD_IN_MB", "1")
    with pytest.raises(RequestError, match="1048576") as error:
        transform_fn(Detector(FixedEngine()), body, "image/png", "")
    assert error.value.status == 413


class Toolkit:
    """Stands in for sagemaker_inference; its Transformer handles errors like versions 1.6.1 to 1.10.1."""

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
        """Return the toolkit's response when `work` raises."""
        self.status = self.phrase = None
        try:
            work()
        except Exception as error:
            wrapped = error if isinstance(error, self.Error) else self.Error(500, str(error))
            (body,) = self.Transformer.handle_error(self, wrapped, "Traceback: /opt/ml/model/code/train.py")
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
            lambda: transform_fn(Detector(FixedEngine()), b"a", "text/csv", ""), 415, "Content-Type: ", id="ours"
        ),
        pytest.param(
            lambda: transform_fn(Detector(FixedEngine()), b"a", "image/png", ""), 400, "request: ", id="broken"
        ),
        pytest.param(lambda: b"\xff".decode("utf-8"), 400, "request: ", id="not-utf-8"),
        pytest.param(lambda: _fail(DependencyError("no OpenCV")), 500, "no OpenCV", id="library"),
        pytest.param(lambda: _fail(WeightsError("/opt/ml/model: damaged")), 500, "internal error: ", id="model"),
        pytest.param(lambda: _fail(KeyError("/etc/secret")), 500, "internal error: ", id="unforeseen"),
    ],
)
def test_handle_error_each_kind_responds_with_one_line(monkeypatch, caplog, tmp_path, work, status, body):
    toolkit = Toolkit(monkeypatch)
    with pytest.raises(WeightsError):
        model_fn(str(tmp_path))
    response_status, response = toolkit.status_and_body(work)
    assert response_status == status and response.startswith(body)
    assert not set("\n/") & set(response.replace("image/", "").replace("application/", "").replace("text/", ""))
    assert toolkit.phrase and "\n" not in toolkit.phrase
    assert ("Traceback" in caplog.text) == (status == 500)


def test_serve_without_pillow_imports_and_names_it(tmp_path):
    program = (
        "import sys; sys.modules['PIL'] = None\n"
        "from ssd_train.deploy.handlers import model_fn, transform_fn\n"
        "try: model_fn(sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    run = subprocess.run([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, check=True)
    assert run.stdout.decode().startswith("DependencyError ") and b"PIL" in run.stdout
