"""A light server: the routes of a SageMaker endpoint, a page to try the model on, and metrics; an ASGI application.

    GET  /               a page to drop a picture on, which shows its boxes
    GET  /ping           200 while the model is there
    POST /invocations    a picture in, detections out: requests.py and answers.py tell the forms
    GET  /metrics        for Prometheus

Errors are one line of text. No request is waited for without end, and none is taken on when `queue` others are there.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import traceback
from typing import Any, Awaitable, Callable, Dict, Iterator, Mapping, NamedTuple, Optional, Tuple

from ssd_train.deploy import server_page
from ssd_train.deploy.answers import check_accept, write_answer
from ssd_train.deploy.detector import Detector
from ssd_train.deploy.requests import RequestError, RequestLimits, check_size, check_type, one_line
from ssd_train.deploy.server_metrics import CONTENT_TYPE, Metrics
from ssd_train.deploy.server_work import Work
from ssd_train.progress import Progress

NOT_FOUND, NOT_ALLOWED, TOO_SLOW, BAD_LENGTH, FAULT, BUSY = 404, 405, 408, 400, 500, 503
BODY_SECONDS = 60.0
# For so long, and so many bytes, a client whose request is refused may go on sending: enough to end what it is at and
# read why, too little to keep us busy with it.
DRAIN_SECONDS, DRAINED_BYTES = 10.0, 64 << 20
INVOCATIONS = "/invocations"
TEXT = "text/plain; charset=utf-8"
RETRY = (("retry-after", "1"),)
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]


class Response(NamedTuple):
    """What is sent back."""

    status: int
    body: bytes
    content_type: str = TEXT
    headers: Tuple[Tuple[str, str], ...] = ()


class Gone(Exception):
    """The client has left before it was done with its request."""


class Incoming:
    """The body of a request as it comes in."""

    def __init__(self, receive: Receive, limits: RequestLimits) -> None:
        self._receive, self._limits = receive, limits
        self._ended = False

    async def read(self) -> bytes:
        """All of it; a RequestError (413) when it becomes too large."""
        parts, count = [], 0
        while not self._ended:
            parts.append(await self._next())
            count += len(parts[-1])
            check_size(count, self._limits)
        return b"".join(parts)

    async def drain(self) -> None:
        """Let the rest pass by, within reason. A client that is still sending when its connection is closed would be
        told of that, and not read its answer."""
        try:
            await asyncio.wait_for(self._pass_by(), DRAIN_SECONDS)
        except asyncio.TimeoutError:
            return

    async def _pass_by(self) -> None:
        count = 0
        while not self._ended and count < DRAINED_BYTES:
            count += len(await self._next())

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise Gone
        self._ended = not message.get("more_body", False)
        return message.get("body", b"")


class Server:
    """The application: ``uvicorn.run(Server(detector, limits, queue=64, progress))``."""

    def __init__(self, detector: Detector, limits: RequestLimits, queue: int, progress: Progress) -> None:
        self.metrics = Metrics(detector.engine.name, detector.class_names, detector.engine.side)
        self._class_names = detector.class_names
        self._limits = limits
        self._queue = queue
        self._progress = progress
        self._work = Work(detector, limits)
        self._pages: Dict[str, Callable[[], Response]] = {"/": _page, "/ping": _ping, "/metrics": self._metrics}

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """As ASGI 3 has it."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        try:
            response = await self._respond(scope, receive)
        except Gone:
            return
        if scope["path"] == INVOCATIONS:
            self.metrics.answered[response.status] += 1
        await _send(send, response, with_body=scope["method"] != "HEAD")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                self._work.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _respond(self, scope: Mapping[str, Any], receive: Receive) -> Response:
        path, method = scope["path"], scope["method"]
        if path != INVOCATIONS and path not in self._pages:
            expected = ", ".join([*self._pages, INVOCATIONS])
            return _told(NOT_FOUND, f"found no such page, expected one of {expected}")
        allowed = "POST" if path == INVOCATIONS else "GET"
        if ("GET" if method == "HEAD" else method) != allowed:
            return _told(NOT_ALLOWED, f"method: found {method}, expected {allowed}", (("allow", allowed),))
        try:
            return await self._invocation(_headers(scope), receive) if path == INVOCATIONS else self._pages[path]()
        except Gone:
            raise
        except Exception as error:  # a fault of ours must not reach the client, nor end the server
            where = traceback.extract_tb(error.__traceback__)[-1]
            self._progress.warn(f"{path}: {error!r} ({where.filename}:{where.lineno})")
            return _told(FAULT, "internal error: the log of the server says more")

    def _metrics(self) -> Response:
        return Response(200, self.metrics.text().encode(), CONTENT_TYPE)

    async def _invocation(self, headers: Mapping[str, str], receive: Receive) -> Response:
        incoming = Incoming(receive, self._limits)
        try:
            return await self._answer(headers, incoming)
        except asyncio.TimeoutError:
            return _told(TOO_SLOW, f"request: found no end of the body after {BODY_SECONDS:g} s")
        except RequestError as error:
            if "expect" not in headers:  # a client that asked first has sent nothing
                await incoming.drain()
            return _told(error.status, str(error), RETRY if error.status == BUSY else ())

    async def _answer(self, headers: Mapping[str, str], incoming: "Incoming") -> Response:
        started = time.perf_counter()
        accept, content_type = headers.get("accept", ""), headers.get("content-type", "")
        check_accept(accept)
        check_type(content_type)
        _check_length(headers.get("content-length"), self._limits)
        body = await asyncio.wait_for(incoming.read(), BODY_SECONDS)
        # only now a place in the line is taken: those who send slowly keep it from nobody
        with self._place():
            found = await self._work.find(body, content_type)
        text, kind = write_answer(found.detections, self._class_names, accept)
        self.metrics.network.observe(found.seconds)
        self.metrics.seconds.observe(time.perf_counter() - started)
        return Response(200, text.encode("utf-8"), kind)

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        """A place in the line; a RequestError (503) where it is full."""
        if self.metrics.in_flight >= self._queue:
            raise RequestError(BUSY, f"found {self._queue} requests waiting, expected fewer: try again")
        self.metrics.in_flight += 1
        try:
            yield
        finally:
            self.metrics.in_flight -= 1


def _ping() -> Response:
    return Response(200, b'{"status": "Healthy"}\n', "application/json")


def _page() -> Response:
    return Response(200, server_page.PAGE, "text/html; charset=utf-8", server_page.HEADERS)


def _check_length(length: Optional[str], limits: RequestLimits) -> None:
    """Refuses a body by what its header says, before it is sent."""
    if length is None:
        return
    if not (length.isascii() and length.isdigit() and len(length) < 20):
        raise RequestError(BAD_LENGTH, "Content-Length: found no number, expected bytes")
    check_size(int(length), limits)


def _headers(scope: Mapping[str, Any]) -> Dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _told(status: int, message: str, headers: Tuple[Tuple[str, str], ...] = ()) -> Response:
    return Response(status, f"{one_line(message)}\n".encode("utf-8"), TEXT, headers)


async def _send(send: Send, response: Response, with_body: bool) -> None:
    headers = {
        "content-type": response.content_type,
        "content-length": str(len(response.body)),
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
        **dict(response.headers),
    }
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": response.status, "headers": raw})
    await send({"type": "http.response.body", "body": response.body if with_body else b""})
