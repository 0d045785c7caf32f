"""The light server, asked as an ASGI server would ask it."""

from __future__ import annotations

import asyncio
import contextlib
import html
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from typing import Any, NamedTuple, Sequence

import numpy as np
import pytest
import uvicorn
from helpers.data import HeardProgress
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette

from ssd_train.data.image_io import ImageLimits, encode_png
from ssd_train.data.structures import ClassNames
from ssd_train.deploy.codec import RequestError, RequestLimits
from ssd_train.deploy.detector import Detector
from ssd_train.deploy.server import app as module
from ssd_train.deploy.server.app import make_app, protocol_with_head_timeout
from ssd_train.deploy.server.forms import file_in_form
from ssd_train.errors import ConfigError, DependencyError

ROWS = np.array([[1, 0.9, 10, 10, 20, 40], [-1, 0, 0, 0, 0, 0]], np.float32)
PNG = encode_png(np.random.RandomState(1).randint(0, 256, (40, 80, 3)).astype(np.uint8))
LIMITS = RequestLimits(max_bytes=100_000, image=ImageLimits(max_pixels=1_000_000))
TYPE = {"content-type": "image/png"}


class SlowEngine:
    """Finds one thing, as soon as it may."""

    name = "mxnet"
    class_names = ClassNames(("cat", "dog"))
    side, grayscale, score_threshold = 40, False, 0.57

    def __init__(self, rows: Any = ROWS) -> None:
        self.may, self.rows, self.running, self.most = threading.Event(), rows, 0, 0
        self.may.set()

    def run(self, pictures: np.ndarray) -> np.ndarray:
        self.running += 1
        self.most = max(self.most, self.running)
        assert self.may.wait(10)
        self.running -= 1
        if isinstance(self.rows, Exception):
            raise self.rows
        return np.stack([self.rows] * len(pictures))


class Said(NamedTuple):
    """An answer."""

    status: int
    headers: "dict[str, str]"
    body: bytes


def make_server(engine: Any = None, queue: int = 4) -> "tuple[Starlette, HeardProgress]":
    progress = HeardProgress()
    return make_app(Detector(engine or SlowEngine()), LIMITS, queue, progress), progress


def scope(method: str, path: str, headers: "list[tuple[bytes, bytes]]") -> "dict[str, Any]":
    return {"type": "http", "method": method, "path": path, "headers": headers, "query_string": b""}


async def ask(server: Starlette, method: str, path: str, headers: Any = (), parts: "Sequence[Any]" = (b"",)) -> Said:
    """An answer to a request whose body comes in `parts`; None: the client leaves, a number: it waits."""
    waiting, sent = list(parts), []

    async def receive() -> Any:
        part = waiting.pop(0) if waiting else None
        if part is None:
            return {"type": "http.disconnect"}
        if isinstance(part, float):
            await asyncio.sleep(part)
            part = b""
        return {"type": "http.request", "body": part, "more_body": bool(waiting)}

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode("latin-1")) for name, value in dict(headers).items()]
    await server(scope(method, path, raw), receive, send)
    start, body = sent
    return Said(start["status"], {n.decode(): v.decode() for n, v in start["headers"]}, body["body"])


def said(server: Starlette, *request: Any) -> Said:
    return asyncio.run(ask(server, *request))


def test_app_image_gets_a_response():
    server, _ = make_server()
    for accept, key in (("", "prediction"), ("application/json;verbose=1", "annotations")):
        found = said(server, "POST", "/invocations", {**TYPE, "accept": accept}, [PNG[:50], PNG[50:]])
        assert found.status == 200 and found.headers["content-type"] == "application/json"
        assert key in json.loads(found.body)
        assert found.headers["content-length"] == str(len(found.body))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "path, content_type",
    [
        ("/ping", "application/json"),
        ("/", "text/html; charset=utf-8"),
        ("/metrics", "text/plain; version="),
        ("/sample", "image/jpeg"),
    ],
)
def test_app_get_routes(method, path, content_type):
    found = said(make_server()[0], method, path)
    assert found.status == 200 and found.headers["content-type"].startswith(content_type)
    assert int(found.headers["content-length"]) > 0  # uvicorn leaves the body of an answer to HEAD out
    assert found.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "request_, status, message",
    [
        pytest.param(("GET", "/secret"), 404, "found no such page", id="no-page"),
        pytest.param(("GET", "/invocations"), 405, "method: found GET, expected POST", id="get-invocations"),
        pytest.param(("POST", "/invocations", {}, [PNG]), 415, "Content-Type: found ''", id="no-type"),
        pytest.param(("POST", "/invocations", TYPE, [b"abc"]), 400, "expected an image", id="no-image"),
        pytest.param(("POST", "/invocations", {**TYPE, "accept": "a/b"}, [PNG]), 406, "Accept: found 'a/b'", id="406"),
        pytest.param(
            ("POST", "/invocations", {**TYPE, "content-length": "999999"}, [b"x"]),
            413,
            "found 999999 bytes",
            id="length",
        ),
        pytest.param(
            ("POST", "/invocations", {**TYPE, "content-length": "-1"}, [b"x"]), 400, "Content-Length", id="bad-length"
        ),
        pytest.param(
            ("POST", "/invocations", TYPE, [b"x" * 60_000] * 9), 413, "found 120000 bytes, expected at", id="no-length"
        ),
    ],
)
def test_errors_are_one_line(request_, status, message):
    found = said(make_server()[0], *request_)
    text = found.body.decode()
    assert found.status == status and message in text
    assert text.endswith("\n") and text.count("\n") == 1 and found.headers["content-type"].startswith("text/plain")
    assert ("allow" in found.headers) == (status == 405)


@pytest.mark.parametrize("more", [{}, {"expect": "100-continue"}], ids=["sends-at-once", "asks-first"])
def test_a_refused_body_is_let_pass_unless_it_has_not_been_sent(more):
    """A client that sends on while its connection is closed reads no answer."""
    server, _ = make_server()
    parts = [b"x" * 50_000] * 9
    headers = {**TYPE, "content-length": "450000", **more}
    taken = []

    async def receive():
        taken.append(1)
        return {"type": "http.request", "body": parts[0], "more_body": len(taken) < len(parts)}

    async def send(message):
        sent.append(message)

    sent = []
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    asyncio.run(server(scope("POST", "/invocations", raw), receive, send))
    assert sent[0]["status"] == 413 and len(taken) == (0 if more else 9)


def test_a_client_that_leaves_is_not_answered():
    server, _ = make_server()
    said(server, "POST", "/invocations", TYPE, [PNG[:50], None])
    assert answered(server) == {"200": 0.0} and server.state.service.in_flight == 0


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(module, "BODY_SECONDS", 0.05)
    found = said(make_server()[0], "POST", "/invocations", TYPE, [PNG[:50], 9.0, b""])
    assert found.status == 408 and b"no end of the body" in found.body


def test_app_full_queue_gets_503_and_queued_requests_complete():
    engine = SlowEngine()
    server, _ = make_server(engine, queue=4)

    async def crowd() -> "list[Said]":
        engine.may.clear()
        asked = [asyncio.ensure_future(ask(server, "POST", "/invocations", TYPE, [PNG])) for _ in range(6)]
        while sum(task.done() for task in asked) < 2:
            await asyncio.sleep(0.01)
        assert (await ask(server, "GET", "/ping")).status == 200  # also while it works
        assert b"ssd_train_requests_in_flight 4.0\n" in (await ask(server, "GET", "/metrics")).body
        engine.may.set()
        return await asyncio.gather(*asked)

    answers = asyncio.run(crowd())
    assert [one.status for one in answers] == [200] * 4 + [503] * 2
    assert answers[5].headers["retry-after"] == "1" and answers[5].body.count(b"\n") == 1
    assert engine.most == 1  # engines are not asked by two threads at once
    assert server.state.service.in_flight == 0 and answered(server) == {"200": 4.0, "503": 2.0}


@pytest.mark.parametrize(
    "rows, message, told",
    [
        (np.full((1, 6), np.nan, np.float32), "NaN", False),
        (RuntimeError("/opt/secret/path\nsecond line"), "internal error", True),
    ],
    ids=["nan", "crash"],
)
def test_a_fault_of_ours_shows_nothing_of_us(rows, message, told):
    server, progress = make_server(SlowEngine(rows))
    found = said(server, "POST", "/invocations", TYPE, [PNG])
    assert found.status == 500 and message in found.body.decode() and found.body.count(b"\n") == 1
    assert b"secret" not in found.body and b".py" not in found.body
    assert any("secret" in line for line in progress.warnings) == told
    assert answered(server) == {"200": 0.0, "500": 1.0}


def values_of(server: Starlette) -> "dict[tuple[str, str], float]":
    """Samples by name and the values of their labels, as Prometheus' own parser reads them."""
    text = said(server, "GET", "/metrics").body.decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, " ".join(sample.labels.values())): sample.value for sample in samples}


def answered(server: Starlette) -> "dict[str, float]":
    """Number of answers by status."""
    return {status: value for (name, status), value in values_of(server).items() if name == "ssd_train_requests_total"}


def test_metrics_do_not_count_a_path_in_the_host_header():
    server, _ = make_server()
    assert said(server, "GET", "/secret", {"host": "a/invocations?"}).status == 404
    assert answered(server) == {"200": 0.0}


def test_app_metrics_count_requests():
    server, _ = make_server()
    for body in (PNG, PNG, b"abc"):
        said(server, "POST", "/invocations", TYPE, [body])
    said(server, "GET", "/invocations")
    values = values_of(server)
    assert answered(server) == {"200": 2.0, "400": 1.0, "405": 1.0}
    assert values["ssd_train_request_seconds_bucket", "+Inf"] == values["ssd_train_request_seconds_count", ""] == 2
    assert values["ssd_train_network_seconds_sum", ""] <= values["ssd_train_request_seconds_sum", ""]
    assert values["process_resident_memory_bytes", ""] > 1e6
    assert values["ssd_train_model_info", "2 mxnet 40"] == 1
    assert not any(name.endswith("_created") for name, _ in values)


@pytest.mark.parametrize("given, shown", [(None, "0.57"), (0.999, "0.99"), (0.0, "0.00")])
def test_page_slider_starts_at_the_threshold(given, shown):
    app = make_app(Detector(SlowEngine()), LIMITS, 4, HeardProgress(), given)
    page = said(app, "GET", "/").body.decode()
    (slider,) = re.findall(r'<input id="threshold"[^>]*>', page)
    assert f' value="{shown}"' in slider and f'<output id="shown" for="threshold">{shown}</output>' in page


@pytest.mark.parametrize("name", ["fruit", '"><script>alert(1)</script>', "模型 & more"])
def test_page_description_is_escaped_json(name):
    app = make_app(Detector(SlowEngine()), LIMITS, 4, HeardProgress(), name=name)
    page = said(app, "GET", "/").body.decode()
    (main,) = re.findall(r'<main id="main" data-model="([^"]*)">', page)
    model = json.loads(html.unescape(main))
    assert (model["name"], model["class_names"], model["image_shape"]) == (name, ["cat", "dog"], 40)
    assert model["score_threshold"] == 0.57
    assert page.count("<script>") == 1


def test_sample_can_be_sent_back():
    server, _ = make_server()
    image = said(server, "GET", "/sample").body
    assert image == said(server, "GET", "/sample").body
    assert said(server, "POST", "/invocations", {"content-type": "image/jpeg"}, [image]).status == 200


def test_sample_without_opencv_is_an_error_line(monkeypatch):
    def missing():
        raise DependencyError("OpenCV cannot be imported")

    monkeypatch.setattr(module, "_draw_sample", missing)
    found = said(make_server()[0], "GET", "/sample")
    assert found.status == 501 and found.body == b"OpenCV cannot be imported\n"


def test_app_page_loads_nothing_and_its_policy_forbids_it():
    found = said(make_server()[0], "GET", "/")
    page, policy = found.body.decode(), found.headers["content-security-policy"]
    assert re.findall(r"https?://[^\"']+", page.replace("http://www.w3.org/2000/svg", "")) == []
    assert "default-src 'none'" in policy and policy.count("'sha256-") == 2 and "unsafe" not in policy
    assert "style=" not in page and not re.search(r" on[a-z]+=", page)  # which the policy forbids


def form(*parts: "tuple[str, bytes]", end: bytes = b"--\r\n") -> bytes:
    """A multipart body of (header lines, data)."""
    return b"".join(b"--B\r\n" + f"{head}\r\n\r\n".encode() + data + b"\r\n" for head, data in parts) + b"--B" + end


FILE = 'Content-Disposition: form-data; name="image"; filename="x.png"'
FORM = {"content-type": "multipart/form-data; boundary=B"}


@pytest.mark.parametrize("kind", ["", "\r\nContent-Type: image/png", "\r\nContent-Type: application/octet-stream"])
def test_a_form_with_one_file_is_answered_as_the_file_is(kind):
    server, _ = make_server()
    body = form((FILE + kind, PNG))
    found = said(server, "POST", "/invocations", FORM, [body[i : i + 100] for i in range(0, len(body), 100)])
    assert found.status == 200
    assert found.body == said(server, "POST", "/invocations", TYPE, [PNG]).body


@pytest.mark.parametrize(
    "headers, body, status",
    [
        pytest.param(FORM, form((FILE, PNG), (FILE, PNG)), 400, id="two-files"),
        pytest.param(FORM, form((FILE, PNG))[:-30], 400, id="cut-off"),
        pytest.param(FORM, b"--B\r\n" * 10_000, 400, id="boundaries-only"),
        pytest.param(FORM, form((FILE, b"\r\n--" * 20_000)), 400, id="nearly-boundaries"),
        pytest.param(FORM, form((f"{FILE}\r\nContent-Type: video/mp4", PNG)), 415, id="a-film"),
        pytest.param({"content-type": "multipart/form-data"}, form((FILE, PNG)), 400, id="no-boundary"),
        pytest.param({"content-type": "multipart/form-data; boundary=" + "B" * 3000}, b"", 400, id="long-boundary"),
        pytest.param(FORM, form((FILE, b"x" * 200_000)), 413, id="too-large"),
    ],
)
def test_a_hostile_form_gets_one_line(headers, body, status):
    server, progress = make_server()
    found = said(
        server, "POST", "/invocations", headers, [body[i : i + 4096] for i in range(0, len(body), 4096)] or [b""]
    )
    assert found.status == status, found.body
    assert found.body.count(b"\n") == 1 and len(found.body) < 300 and not progress.warnings


@pytest.mark.parametrize(
    "body",
    [b"--B\r\n" + b"a:b\r\n" * 1_200_000, b"--B\r\na: " + b"b" * 6_000_000, b"\r\n" * 3_000_000],
    ids=["headers", "header", "line-ends"],
)
def test_a_form_of_megabytes_of_headers_takes_no_time(body):
    started = time.process_time()
    with pytest.raises(RequestError):
        file_in_form(body, FORM["content-type"])
    assert time.process_time() - started < 1


def test_a_form_without_end_is_held_no_further_than_the_limit():
    """Of 50 MB that come without a Content-Length what is above the limit is dropped as it comes."""
    server, _ = make_server()
    chunk = b"x" * 50_000
    tracemalloc.start()
    try:
        body = [form((FILE, b""), end=b"")[:-5], *[chunk] * 1000]
        assert said(server, "POST", "/invocations", FORM, body).status == 413
        assert tracemalloc.get_traced_memory()[1] < 20 * LIMITS.max_bytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("package", ["starlette.applications", "python_multipart.multipart", "prometheus_client"])
def test_the_server_without_a_package_of_its_extra_is_a_dependency_error(package):
    program = f"""
import sys
from ssd_train.errors import ConfigError, DependencyError
sys.modules[{package!r}] = None
try:
    import ssd_train.deploy.server.app
except DependencyError as error:
    sys.exit(0 if "ssd-train[serve]" in str(error) else str(error))
sys.exit("imported")
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


@pytest.mark.parametrize(
    "host", ["a..b", "x" * 70, "203.0.113.1"], ids=["empty-label", "long-label", "of-another-machine"]
)
def test_listen_impossible_host_raises(host):
    with pytest.raises(ConfigError, match=f"--host {re.escape(host)}"):
        module.listen(host, 0)


@pytest.mark.parametrize("nice, expected", [(0, 10), (15, 15)])
def test_lower_priority_never_raises_it(nice, expected):
    """Which needs a privilege, so that no large image would be decoded."""
    code = "import os; from ssd_train.deploy.server import workers; workers._lower_priority(); print(os.nice(0))"
    own = os.nice(0)  # the tests may have a lower priority themselves
    code = f"import os; os.nice({max(nice - own, 0)}); {code}"
    expected = max(expected, own)
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == f"{expected}\n"


@contextlib.contextmanager
def listening(limit=None):
    """A server that answers pong, and waits a second for the head of a request; its socket."""

    async def pong(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"pong"})

    protocol = protocol_with_head_timeout(1.0)
    config = uvicorn.Config(pong, http=protocol, ws="none", lifespan="off", log_level="error", limit_concurrency=limit)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener
        finally:
            server.should_exit = True
            thread.join(10)


def status_of(listener):
    connection = http.client.HTTPConnection(*listener.getsockname(), timeout=10)
    connection.request("GET", "/ping")
    try:
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize("sent", [b"", b"GET /ping HT"], ids=["nothing", "half-a-line"])
def test_connection_without_a_request_is_closed_and_makes_room(sent):
    """It counts in uvicorn's limit, so that whoever opens some keeps all others out."""
    with listening(limit=2) as listener:
        idle = [socket.create_connection(listener.getsockname(), timeout=10) for _ in range(2)]
        for one in idle:
            one.sendall(sent)
        assert status_of(listener) == 503
        assert [one.recv(100) for one in idle] == [b"", b""]
        assert status_of(listener) == 200


def test_connection_with_half_of_a_second_request_is_closed_and_a_whole_one_is_not():
    request = b"GET /ping HTTP/1.1\r\nHost: here\r\n\r\n"
    with listening() as listener, socket.create_connection(listener.getsockname(), timeout=10) as client:
        for wait in (0, 1.5):
            time.sleep(wait)
            client.sendall(request)
            received = b""
            while not received.endswith(b"pong"):
                received += client.recv(1000)
        began = time.monotonic()
        client.sendall(request[:12])
        time.sleep(0.6)
        client.sendall(request[12:13])  # a byte now and then does not prolong it
        assert client.recv(1000) == b"" and 0.8 < time.monotonic() - began < 5
