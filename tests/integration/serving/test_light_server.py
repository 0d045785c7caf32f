"""The light server in a process of its own, asked over loopback."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from helpers.builtin_nets import write_artifact
from helpers.services import LightServer, ask

from benchmarks.bodies import bad_bodies
from benchmarks.clients import Crowd, resident_bytes
from ssd_train.cli.main import main
from ssd_train.data.image_io import encode_jpeg, encode_png
from ssd_train.data.synthetic import draw_shapes_set
from ssd_train.deploy.detector import Detector
from ssd_train.deploy.handlers import handle_request

pytestmark = pytest.mark.integration

IMAGES = [sample.image for sample in draw_shapes_set(4, 1, (320, 240))]
MODEL_INFO = b'ssd_train_model_info{classes="3",engine="onnxruntime",side="128"} 1.0\n'
ACCEPTS = ["application/json", "application/json;annotation=1", "application/jsonlines", "application/json;verbose=1"]


@pytest.fixture(scope="module")
def detector(onnx) -> Detector:
    """The model that the server runs, in this process."""
    return Detector.load(onnx)


@pytest.mark.parametrize("sent", bad_bodies(IMAGES[0]), ids=lambda sent: sent.name)
def test_server_bad_body_gets_one_line(light, sent):
    started = time.monotonic()
    found = ask(light.address, "/invocations", sent.body, sent.content_type)
    assert found.status == sent.status, found.body
    if found.status != 200:
        assert found.body.endswith(b"\n") and found.body.count(b"\n") == 1 and len(found.body) < 300
    assert time.monotonic() - started < 20
    assert ask(light.address, "/ping").status == 200


CURL = shutil.which("curl")


@pytest.mark.skipif(CURL is None, reason="curl is not on this machine: apt-get install curl")
@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(["-F", "image=@{file}"], id="form"),
        pytest.param(["-F", "image=@{file}", "-H", "Transfer-Encoding: chunked"], id="chunked-form"),
        pytest.param(["-F", "image=@{file};type=application/octet-stream"], id="form-of-unknown-type"),
        pytest.param(["--data-binary", "@{file}", "-H", "Content-Type: image/jpeg"], id="body"),
    ],
)
def test_server_curl_gets_the_detections(light, tmp_path, flags):
    body = encode_jpeg(IMAGES[0])
    (tmp_path / "x.jpg").write_bytes(body)
    found = curl(light, [flag.format(file=tmp_path / "x.jpg") for flag in flags])
    assert found == (200, ask(light.address, "/invocations", body, "image/jpeg").body)


@pytest.mark.skipif(CURL is None, reason="curl is not on this machine: apt-get install curl")
@pytest.mark.parametrize("more", [[], ["-H", "Transfer-Encoding: chunked"], ["-H", "Expect:"]])
def test_server_curl_form_above_the_limit_gets_413(light, tmp_path, more):
    (tmp_path / "x.jpg").write_bytes(bytes(40 << 20))
    before = resident_bytes(str(light.process.pid))
    status, body = curl(light, ["-F", f"image=@{tmp_path / 'x.jpg'}", *more])
    assert status == 413 and body.count(b"\n") == 1
    assert resident_bytes(str(light.process.pid)) < before + (20 << 20)


def curl(server, flags):
    """Status and body that curl gets from /invocations."""
    command = [CURL, "-sS", "-w", "%{stderr}%{http_code}", *flags, f"http://{server.address}/invocations"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=True)
    return int(done.stderr), done.stdout


HALF = b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: 900\r\n\r\nx"


def test_server_slow_clients_do_not_block_others(light):
    """More of them than there are places in the line."""
    host, port = light.address.split(":")
    slow = [socket.create_connection((host, int(port))) for _ in range(100)]
    try:
        for one in slow:
            one.sendall(HALF)
        assert ask(light.address, "/invocations", encode_png(IMAGES[0]), "image/png").status == 200
    finally:
        for one in slow:
            one.close()
    assert ask(light.address, "/invocations", encode_png(IMAGES[0]), "image/png").status == 200


@pytest.mark.slow
def test_server_16_clients_for_ten_seconds_get_no_error(onnx, detector):
    """No error, every good answer the right one, no leak, and one line for what is bad. (Two minutes of it, throughput,
    and memory to 5 %: python -m benchmarks.serving.)"""
    good = {}
    server = LightServer(onnx)
    try:
        for image in IMAGES:
            body = encode_jpeg(image)
            good[body] = ask(server.address, "/invocations", body, "image/jpeg").body
        crowd = Crowd(server.address, good, bad_bodies(IMAGES[0]), share=0.2)
        warm = crowd.ask(16, seconds=5)
        before = resident_bytes(str(server.process.pid))
        tally = crowd.ask(16, seconds=10)
        after = resident_bytes(str(server.process.pid))
        metrics = ask(server.address, "/metrics").body.decode()
        assert tally.faults == [] and warm.faults == []
        assert tally.good > 50 and tally.bad > 5
        assert 'ssd_train_requests_total{status="500"}' not in metrics
        assert "ssd_train_requests_in_flight 0.0\n" in metrics
        assert after <= before * 1.05 + (16 << 20), (before, after)  # it settles for half a minute
        assert server.stop() == 0
        # what libraries say of broken pictures may be there, but no trace
        assert not any("Traceback" in line for line in server.said)
    finally:
        server.kill()


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 0), (signal.SIGINT, 130)], ids=["SIGTERM", "Ctrl-C"])
def test_server_signal_completes_pending_requests_and_ends(onnx, number, code):
    server = LightServer(onnx)
    try:
        answers = []
        body = encode_png(np.zeros((4000, 3000, 3), np.uint8))  # takes a moment

        def client():
            answers.append(ask(server.address, "/invocations", body, "image/png").status)

        threads = [threading.Thread(target=client) for _ in range(4)]
        for thread in threads:
            thread.start()
        while b"in_flight 0.0\n" in ask(server.address, "/metrics").body:
            time.sleep(0.01)
        server.process.send_signal(number)
        assert server.wait() == code
        for thread in threads:
            thread.join()
        assert answers == [200] * 4
        with pytest.raises(OSError):
            ask(server.address, "/ping")
    finally:
        server.kill()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--model", "nowhere.onnx"], "found no model"),
        (["--port", "99999", "--model", "a"], "found 99999, expected 0 to 65535"),
        (["--queue", "0", "--model", "a"], "expected 1 to 10000"),
        ([], "--model"),
    ],
    ids=["model", "port", "queue", "no-model"],
)
def test_serve_invalid_flags_are_one_line(flags, message):
    command = [sys.executable, "-m", "ssd_train", "serve", *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    assert done.returncode == 2 and message in done.stdout and done.stdout.count("\n") == 1


def test_serve_model_folder_exports_onnx_and_agrees(folder, light):
    """Exported on the way; with an engine asked for, by that."""
    body = encode_jpeg(IMAGES[0])
    expected = ask(light.address, "/invocations", body, "image/jpeg").json["prediction"]
    for flags, engine in (((), "onnxruntime"), (("--engine", "mxnet"), "mxnet")):
        server = LightServer(folder, *flags)
        try:
            assert f"with {engine} at" in server.serving
            assert any("exporting" in line for line in server.said) == (engine == "onnxruntime")
            found = ask(server.address, "/invocations", body, "image/jpeg").json["prediction"]
            np.testing.assert_allclose(found, expected, atol=1e-3)
            assert server.stop() == 0
        finally:
            server.kill()


@pytest.mark.slow
def test_serve_converted_model_agrees_in_every_format(tmp_path):
    """One of the built-in algorithm: exported on the way, and all routes."""
    write_artifact(tmp_path / "job", "resnet-50", 128, nms_topk=150)
    flags = ["--output", str(tmp_path / "model"), "--class_names", "cat,dog,cow"]
    assert main(["convert", "--model", str(tmp_path / "job"), *flags]) == 0
    body, converted = encode_png(IMAGES[0]), Detector.load(tmp_path / "model")
    assert converted.engine.name == "symbol"
    server = LightServer(tmp_path / "model")
    try:
        assert "with onnxruntime at" in server.serving and any("exporting" in line for line in server.said)
        assert ask(server.address, "/ping").status == 200 and b"<title>" in ask(server.address, "/").body
        for accept in ACCEPTS:
            found = ask(server.address, "/invocations", body, "image/png", accept).json
            expected = json.loads(handle_request(converted, body, "image/png", accept)[0])
            assert found.keys() == expected.keys()
            if "prediction" in expected:
                assert len(expected["prediction"]) > 10
                np.testing.assert_allclose(found["prediction"], expected["prediction"], atol=1e-3)
            else:
                assert [box.keys() for box in found["annotations"]] == [box.keys() for box in expected["annotations"]]
        assert ask(server.address, "/invocations", b"Hello", "image/png").status == 400
        metrics = ask(server.address, "/metrics").body
        assert MODEL_INFO in metrics
        assert b'ssd_train_requests_total{status="200"} 4.0\n' in metrics
        assert b'ssd_train_requests_total{status="400"} 1.0\n' in metrics
        assert server.stop() == 0
    finally:
        server.kill()


def test_serve_port_in_use_is_one_line(light, onnx):
    port = light.address.split(":")[1]
    command = [sys.executable, "-m", "ssd_train", "serve", "--model", str(onnx), "--port", port]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    assert done.returncode == 2 and f"--port {port}: cannot be listened on" in done.stdout
