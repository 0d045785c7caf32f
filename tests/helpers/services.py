"""Servers for tests: the light server, stores of S3 objects, a browser; and jobs to be launched."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

import pytest
from helpers.data import HeardProgress

from ssd_train import mxnet_compat
from ssd_train.launch.job import Job, make_channels
from ssd_train.storage.s3 import Store
from ssd_train.storage.s3_cache import S3Cache

ROOT = Path(__file__).resolve().parents[2]


class Said(NamedTuple):
    """An answer to a request."""

    status: int
    content_type: str
    body: bytes

    @property
    def json(self) -> Dict[str, Any]:
        return json.loads(self.body)


def ask(address: str, path: str, body: "Optional[bytes]" = None, content_type: str = "", accept: str = "") -> Said:
    """A GET, or with a body a POST."""
    headers = {name: value for name, value in (("Content-Type", content_type), ("Accept", accept)) if value}
    request = urllib.request.Request(f"http://{address}{path}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return Said(response.status, response.headers.get("Content-Type", ""), response.read())
    except urllib.error.HTTPError as error:
        return Said(error.code, error.headers.get("Content-Type", ""), error.read())


class LightServer:
    """`python -m ssd_train serve` on a free port."""

    def __init__(self, model: Path, *flags: str) -> None:
        command = [sys.executable, "-m", "ssd_train", "serve", "--model", str(model), "--port", "0", *flags]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True
        )
        self.said: List[str] = []
        for line in self.process.stdout:
            self.said.append(line)
            if line.startswith("serving "):
                break
        else:
            raise AssertionError("".join(self.said))
        self.serving = self.said[-1]  # more lines may follow it
        self.address = self.serving.rstrip().rstrip("/").rpartition("http://")[2]
        self._reader = threading.Thread(target=lambda: self.said.extend(self.process.stdout))
        self._reader.start()

    def stop(self, seconds: float = 30) -> int:
        """SIGTERM, and the exit code."""
        self.process.terminate()
        return self.wait(seconds)

    def wait(self, seconds: float = 30) -> int:
        code = self.process.wait(seconds)
        self._reader.join()
        return code

    def kill(self) -> None:
        self.process.kill()
        self.wait()


def put(client, *keys, body=b"1"):
    """Put `body` at each of `keys`."""
    for key in keys:
        client.put_object(Bucket="bucket", Key=key, Body=body)


def copies():
    """Copies as commands make them."""
    return S3Cache(Store(), HeardProgress())


def contents(folder):
    """The bytes of the files below a folder, by name."""
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@contextlib.contextmanager
def stub(answer):
    """A server on loopback that lets `answer(handler)` answer every request; yields its address and the requests."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            seen.append(f"{self.command} {self.path}")
            answer(self)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

        def log_message(self, *args):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()


def say(handler, status, body=b"", **headers):
    """Answer a request."""
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def fault(code, message="Something.", status=403):
    """An answer for `stub`: the error as S3 writes it."""

    def answer(handler):
        body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        say(handler, status, body, Content_Type="application/xml")

    return answer


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# nothing of it looks for the world outside
FLAGS = [
    *["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"],
    *["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"],
    *["--no-default-browser-check", "--no-proxy-server", "--remote-debugging-pipe", "--window-size=1100,900"],
]
SECONDS = 30.0


class Browser:
    """One page of it. `folder` holds its profile."""

    def __init__(self, folder: Path) -> None:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder}"]
        # it listens on descriptor 3 and answers on 4
        script = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, *command], pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._numbers, self._buffer, self._session = itertools.count(1), b"", ""
        self.events: List[Dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "DOM", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def call(self, method: str, **parameters: Any) -> Dict[str, Any]:
        """A command of the protocol, and its answer."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + SECONDS
        while True:
            found = self._next(end)
            if found.get("id") == number:
                assert "error" not in found, (method, found["error"])
                return found["result"]
            self.events.append(found)

    def open(self, address: str) -> None:
        """Go to a page."""
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def value(self, expression: str) -> Any:
        """Of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression: str) -> Any:
        """Until an expression in the page is true."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            found = self.value(expression)
            if found:
                return found
            time.sleep(0.05)
        raise AssertionError(f"{expression} was not true within {SECONDS:g} s; the page: {self.value(_TEXT)}")

    def choose(self, selector: str, *files: Path) -> None:
        """Files for an <input type=file>."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(file) for file in files], nodeId=node)

    def drop(self, selector: str, file: Path) -> None:
        """A file dragged from outside onto an element."""
        place = self.value(f"(({_MIDDLE})(document.querySelector({selector!r})))")
        data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, data=data, **place)

    def press(self, key: str, code: int) -> None:
        """A key on the keyboard, by its name and its Windows code."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def screenshot(self, target: Path) -> None:
        """The whole page as PNG."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        target.write_bytes(base64.b64decode(data))

    def complaints(self) -> List[str]:
        """Errors and warnings in the console, and requests that failed."""
        found = []
        for event in self.events:
            parameters = event.get("params", {})
            if event["method"] == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
                found.append(parameters["entry"]["text"])
            elif event["method"] == "Runtime.exceptionThrown":
                found.append(str(parameters["exceptionDetails"]))
        return found

    def addresses(self) -> List[str]:
        """All that was asked for over the network."""
        sent = [event for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def _next(self, end: float) -> Dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"Chromium said nothing for {SECONDS:g} s"
            data = os.read(self._in, 1 << 20)
            assert data, "Chromium has ended"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


_TEXT = "document.body ? document.body.innerText : ''"
_MIDDLE = "(e) => { const r = e.getBoundingClientRect(); return {x: r.x + r.width / 2, y: r.y + r.height / 2}; }"


ROLE = "arn:aws:iam::123456789012:role/SageMakerRole"
REGION = "eu-west-1"
INPUTS = {"train": "s3://my-bucket/train", "labels": "s3://my-bucket/labels/output.manifest"}


def make_job(**changes: Any) -> Job:
    """A job on one GPU with training images and labels, changed by `changes`."""
    given = {"name": "ssd-logo-1", "role": ROLE, "region": REGION, "output": "s3://my-bucket/ssd"}
    return Job(**{**given, "channels": make_channels(INPUTS), **changes})


def entry_point(folder: Path) -> Path:
    """A folder with the files that an entry point has."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.py").write_text("print('trained')\n")
    (folder / "requirements.txt").write_text("")
    return folder


def faults_of(operation: str, request: Dict[str, Any], service: str = "sagemaker") -> str:
    """What AWS's description of `operation` (CreateTrainingJob, ...) says against `request`; "" for nothing."""
    import botocore.session
    from botocore.validate import ParamValidator

    model = botocore.session.get_session().get_service_model(service).operation_model(operation)
    return ParamValidator().validate(request, model.input_shape).generate_report()


def isolate(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Credentials that are valid nowhere, and no configuration of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(folder / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "none"),
    }.items():
        monkeypatch.setenv(name, value)


class ZooServer:
    """The server; `requests` are the paths that were asked for.

    `fault` says how it answers: "" as it should, cut-off, silent, slow, together (the second half of a file only when
    two have asked), 404, redirect, redirect-loop, page.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.fault = folder, ""
        self.requests: List[str] = []
        self.done, self.both = threading.Event(), threading.Event()  # both: two requests have come
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """End it, and every answer that it withholds."""
        self.done.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> Any:
        zoo = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                """Print nothing."""

            def do_GET(self) -> None:
                """Answer as `fault` says."""
                zoo.requests.append(self.path)
                if len(zoo.requests) == 2:
                    zoo.both.set()
                path = zoo.folder / self.path.lstrip("/").replace("moved/", "")
                if zoo.fault == "silent":
                    zoo.done.wait(60)
                elif zoo.fault == "redirect-loop" or (zoo.fault == "redirect" and "moved" not in self.path):
                    self.send_response(302)
                    self.send_header("Location", f"/moved{self.path}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                elif zoo.fault == "page":
                    self.answer(b"<html>This bucket is gone</html>")
                elif zoo.fault == "404" or not path.is_file():
                    self.send_error(404)
                else:
                    self.answer(path.read_bytes())

            def answer(self, body: bytes) -> None:
                """Send a body, or a part of it."""
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(OSError):  # the client has gone
                    half = len(body) // 2
                    self.wfile.write(body[:half])
                    if zoo.fault == "slow":
                        self.wfile.flush()
                        zoo.done.wait(2)
                    if zoo.fault == "together":
                        self.wfile.flush()
                        zoo.both.wait(60)
                    if zoo.fault != "cut-off":
                        self.wfile.write(body[half:])

        return Handler


@contextlib.contextmanager
def zoo_server(folder: Path) -> Iterator[ZooServer]:
    """A server of the files below `folder`."""
    server = ZooServer(folder)
    try:
        yield server
    finally:
        server.stop()


def publish(folder: Path, name: str, params: Path) -> str:
    """Put a .params file of any content into a zoo below `folder`, as GluonCV's own is laid out.

    Returns:
        The SHA-1 of the file.
    """
    sha1 = hashlib.sha1(params.read_bytes()).hexdigest()
    store = mxnet_compat.gluoncv("model_zoo.model_store")
    archive = folder / store._url_format.format(repo_url="", file_name=f"{name}-{sha1[:8]}")
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.write(params, f"{name}-{sha1[:8]}.params")
    return sha1


def save_zoo_network(name: str, path: Path) -> Any:
    """Save a network of GluonCV with random values, by GluonCV itself; return the network."""
    import numpy as np

    mx = mxnet_compat.mxnet()
    detector = {"pretrained_base": False} if name.startswith("ssd_") else {}
    net = mxnet_compat.gluoncv().model_zoo.get_model(name, pretrained=False, **detector)
    net.initialize(mx.init.Zero())
    with mx.autograd.train_mode():
        net.infer_shape(mx.nd.zeros((1, 3, 512, 512)))
    random = np.random.RandomState(0)
    for key, parameter in net._collect_params_with_prefix().items():
        parameter._finish_deferred_init()
        if not key.endswith("anchors"):
            parameter.set_data(mx.nd.array(random.uniform(0.01, 0.1, parameter.shape)))
    net.save_parameters(str(path))
    return net
