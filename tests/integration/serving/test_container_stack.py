"""AWS's real serving stack, started as its container starts it, in a namespace that has loopback only."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Iterator

import numpy as np
import pytest
from helpers.environments import stack, stack_venv
from helpers.models import drawn_inputs, talking_model
from helpers.services import ROOT, ask

from benchmarks.bodies import bad_bodies
from benchmarks.clients import Crowd
from ssd_train.artifacts.inference_code import write_inference_code
from ssd_train.data.image_io import encode_jpeg, encode_png
from ssd_train.data.synthetic import draw_shapes_set
from ssd_train.deploy.detector import Detector
from ssd_train.deploy.symbol import publish_symbol

pytestmark = pytest.mark.sagemaker

IMAGES = [sample.image for sample in draw_shapes_set(3, 1, (320, 240))]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model folder as training leaves it: with the deployment files that the container runs, and code/."""
    folder = tmp_path_factory.mktemp("model") / "model"
    talking_model(folder)
    publish_symbol(folder, folder, drawn_inputs(4))
    write_inference_code(folder)
    return folder


@pytest.fixture(scope="module")
def environment() -> Path:
    return stack_venv()


def start(environment: Path, model: Path, base: Path, **variables: str) -> "stack.RunningStack":
    base.mkdir(exist_ok=True)
    stack.lay_out(model, base)
    return stack.RunningStack(environment, base, workers=1, port=0, OMP_NUM_THREADS="1", **variables)


@pytest.fixture(scope="module", params=["pillow", "opencv"])
def library(request) -> str:
    """What the stack decodes with: Pillow, as AWS's image has no OpenCV, or OpenCV, which a user may add."""
    return request.param


@pytest.fixture(scope="module")
def address(library, environment, model, tmp_path_factory) -> Iterator[str]:
    """Of the stack on that model."""
    more = {"PYTHONPATH": str(environment / "opencv")} if library == "opencv" else {}
    asked = subprocess.run([str(environment / "bin" / "python"), "-c", "import cv2"], env=more, stderr=subprocess.PIPE)
    assert (asked.returncode == 0) == (library == "opencv"), asked.stderr
    with start(environment, model, tmp_path_factory.mktemp("ml") / "base", **more) as running:
        yield f"127.0.0.1:{running.port}"


def invoke(address, body, content_type="image/jpeg", accept="application/json"):
    return ask(address, "/invocations", body, content_type, accept)


def test_ping(address):
    assert ask(address, "/ping").status == 200


def test_stack_response_equals_the_model(address, library, model, monkeypatch):
    monkeypatch.setattr("ssd_train.data.pixels.operations", importlib.import_module(f"ssd_train.data.{library}_pixels"))
    body = encode_jpeg(IMAGES[0])
    found = invoke(address, body)
    assert (found.status, found.content_type) == (200, "application/json")
    detector = Detector.load(model, "cpu", "symbol")
    assert found.json["prediction"]
    from ssd_train.deploy.handlers import handle_request

    expected = json.loads(handle_request(detector, body, "image/jpeg")[0])["prediction"]
    np.testing.assert_allclose(found.json["prediction"], expected, atol=1e-3)


@pytest.mark.parametrize(
    "accept, key",
    [
        ("application/json;annotation=1", "annotations"),
        ("application/json;verbose=1", "annotations"),
        ("application/jsonlines", "prediction"),
    ],
)
def test_stack_accept_types(address, accept, key):
    found = invoke(address, encode_png(IMAGES[0]), "image/png", accept)
    assert found.status == 200 and found.content_type == accept.split(";")[0]
    assert found.json[key]
    assert ("class_name" in found.body.decode()) == ("verbose" in accept)


@pytest.mark.parametrize("content_type", ["application/json", "application/x-npy"])
def test_forms_of_requests(address, content_type, tmp_path):
    np.save(tmp_path / "a.npy", IMAGES[1])
    npy = content_type.endswith("npy")
    body = (tmp_path / "a.npy").read_bytes() if npy else json.dumps(IMAGES[1].tolist()).encode()
    assert invoke(address, body, content_type).body == invoke(address, encode_png(IMAGES[1]), "image/png").body


BAD = [sent for sent in bad_bodies(IMAGES[0]) if len(sent.body) < 6 << 20]


@pytest.mark.parametrize("sent", BAD, ids=lambda sent: sent.name)
def test_stack_hostile_body_gets_one_line(address, sent):
    found = invoke(address, sent.body, sent.content_type)
    assert found.status == sent.status, found.body
    if found.status != 200:
        text = found.body.decode()
        assert "\n" not in text and "Traceback" not in text and ".py" not in text and str(ROOT) not in text


@pytest.mark.parametrize("content_type", ["application/json", "text/csv"])
def test_bytes_that_are_no_text_are_refused_though_the_toolkit_decodes_them_first(address, content_type):
    found = invoke(address, b"\xff\xfe\xff", content_type)
    assert found.status == 400 and b"UTF-8" in found.body and b"\n" not in found.body


def test_stack_too_large_body_is_refused_by_the_front_end(address):
    """Before it has been sent: multi-model-server closes the connection of who sends on."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as raw:
        raw.sendall(f"POST /invocations HTTP/1.1\r\nHost: {host}\r\nContent-Length: {7 << 20}\r\n\r\n".encode())
        assert raw.recv(1000).startswith(b"HTTP/1.1 413")


def test_stack_unsupported_accept_type_is_refused(address):
    assert invoke(address, encode_jpeg(IMAGES[0]), accept="text/csv").status == 406


def test_16_clients_get_no_error(address):
    good = {}
    for image in IMAGES:
        body = encode_jpeg(image)
        good[body] = invoke(address, body, accept="").body
    tally = Crowd(address, good, BAD[:4], share=0.2).ask(16, seconds=10)
    assert tally.faults == [] and tally.good > 20 and tally.bad > 2


def test_the_command_serves_and_ends(environment, model, tmp_path):
    """What `make serve-container-stack` runs, on a model without code/."""
    bare = shutil.copytree(model, tmp_path / "bare", ignore=shutil.ignore_patterns("code"))
    command = [sys.executable, "examples/serving_stack.py", "--venv", environment.name, "--port", "0"]
    process = subprocess.Popen(
        [*command, "--model", str(bare)],
        cwd=str(ROOT),
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        universal_newlines=True,
    )
    line = next(line for line in process.stdout if line.startswith("serving "))
    address = line.split("http://")[1].split("/")[0]
    assert invoke(address, encode_jpeg(IMAGES[0])).status == 200
    process.terminate()
    assert process.wait(20) == 130
    with pytest.raises(OSError):
        ask(address, "/ping")
