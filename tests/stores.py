"""Objects on a server of the S3 API, and a server that answers as no real one does."""

from __future__ import annotations

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from builders import HeardProgress

from ssd_train.storage.s3 import Store
from ssd_train.storage.s3_cache import S3Cache


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
