"""An HTTP server on loopback that serves files in the layout of GluonCV's model zoo, or fails as such servers do."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Iterator, List

from ssd_train import mxnet_compat


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
