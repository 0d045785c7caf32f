"""HTTP server: a Starlette application with the routes of a SageMaker endpoint.

    GET  /               page that shows the boxes of images dropped on it
    GET  /sample         a drawn image for that page
    GET  /ping           200 while the server runs
    POST /invocations    image to detections, in the formats of codec.py; also a form with one file
                         (`curl -F image=@x.jpg`)
    GET  /metrics        metrics for Prometheus

Errors are one line of text. Bodies beyond the size limit are never held in memory, every wait has a timeout, and a
request is refused while `queue` others are in progress.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ctypes
import functools
import hashlib
import json
import math
import re
import signal
import socket
import time
import traceback
from html import escape
from pathlib import Path
from typing import Any, AsyncGenerator, AsyncIterator, Callable, Dict, Iterator, Optional

from ssd_train.data.image_io import encode_jpeg
from ssd_train.data.structures import ClassNames
from ssd_train.deploy.codec import (
    RequestError,
    RequestLimits,
    check_size,
    check_type,
    encode_response,
    negotiate_accept,
    single_line,
)
from ssd_train.deploy.detector import Detector
from ssd_train.deploy.server.forms import is_form
from ssd_train.deploy.server.workers import InferencePool
from ssd_train.errors import ConfigError, DependencyError, require_extra
from ssd_train.progress import Progress

with require_extra("serve"):
    import prometheus_client as prometheus
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import Response
    from starlette.routing import Route

TOO_SLOW, BAD_LENGTH, FAULT, UNAVAILABLE, BUSY = 408, 400, 500, 501, 503
BODY_SECONDS = 60.0
# Limits for reading on after a request is refused: enough for the client to finish and read the reason, too little to
# keep the server busy.
DRAIN_SECONDS, DRAINED_BYTES = 10.0, 64 << 20
INVOCATIONS = "/invocations"
PAGE = Path(__file__).with_name("page.html").read_bytes()


SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # upper bounds of the buckets

prometheus.disable_created_metrics()  # they double the series, and nothing reads them


def make_app(
    detector: Detector,
    limits: RequestLimits,
    queue: int,
    progress: Progress,
    threshold: Optional[float] = None,
    name: str = "the model",
) -> Starlette:
    """Return the application; `state.service` holds its metrics, and its page calls the model `name`.

    Internal errors are logged as warnings. The page first shows boxes of at least `threshold`; None: the model's own.
    """
    service = _Service(detector, limits, queue, progress)
    page = page_of(detector, name, detector.score_threshold if threshold is None else threshold)

    async def show_page(_: Request) -> Response:
        """Handle GET /."""
        return _response(page, "text/html; charset=utf-8", headers=_PAGE_HEADERS)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        """End the threads when the server shuts down."""
        yield
        service.pool.close()

    app = Starlette(
        routes=[
            Route("/", show_page),
            Route("/sample", _sample),
            Route("/ping", _ping),
            Route("/metrics", service.show_metrics),
            Route(INVOCATIONS, service.invoke, methods=["POST"]),
        ],
        exception_handlers={HTTPException: service.refuse},  # type: ignore[dict-item]  # typed for any Exception
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.service = service
    return app


class Metrics:
    """Metrics of one server, in their own registry.

    Attributes:
        seconds: histogram of the time from headers to response, for requests with status 200.
        network: histogram of the network's part of that time.

    Args:
        engine: name of the inference engine.
        class_names: classes of the model.
        side: input size of the model in pixels.
        in_flight: returns the number of requests in progress.
    """

    def __init__(self, engine: str, class_names: ClassNames, side: int, in_flight: Callable[[], float]) -> None:
        self._registry = registry = prometheus.CollectorRegistry()
        self._answered = prometheus.Counter(
            "ssd_train_requests",
            "Requests to /invocations that were answered, by HTTP status.",
            ["status"],
            registry=registry,
        )
        self._answered.labels("200")
        self.seconds = prometheus.Histogram(
            "ssd_train_request_seconds", "Seconds from a request to its answer.", buckets=SECONDS, registry=registry
        )
        self.network = prometheus.Histogram(
            "ssd_train_network_seconds", "Seconds of the network for an image.", buckets=SECONDS, registry=registry
        )
        waiting = prometheus.Gauge("ssd_train_requests_in_flight", "Requests being answered.", registry=registry)
        waiting.set_function(in_flight)
        model = prometheus.Info(
            "ssd_train_model", "Engine, number of classes and input of the model.", registry=registry
        )
        model.info({"engine": engine, "classes": str(len(class_names)), "side": str(side)})
        prometheus.ProcessCollector(registry=registry)

    def count(self, status: int) -> None:
        """Count a response of /invocations."""
        self._answered.labels(str(status)).inc()

    def text(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return prometheus.generate_latest(self._registry)


class _Service:
    """Endpoints that need the model, and their shared state."""

    def __init__(self, detector: Detector, limits: RequestLimits, queue: int, progress: Progress) -> None:
        self.in_flight = 0
        self.metrics = Metrics(detector.engine.name, detector.class_names, detector.engine.side, lambda: self.in_flight)
        self.pool = InferencePool(detector, limits)
        self._class_names = detector.class_names
        self._limits, self._queue, self._progress = limits, queue, progress

    async def show_metrics(self, request: Request) -> Response:
        """Handle GET /metrics."""
        return _response(self.metrics.text(), prometheus.CONTENT_TYPE_LATEST)

    async def refuse(self, request: Request, error: HTTPException) -> Response:
        """Handle a request that matches no route."""
        path = request.scope["path"]  # request.url is built from the Host header, too
        if path == INVOCATIONS:
            self.metrics.count(error.status_code)
        expected = "POST" if path == INVOCATIONS else "GET"
        what = {
            404: f"found no such page, expected one of /, /ping, /metrics, /sample, {INVOCATIONS}",
            405: f"method: found {request.method}, expected {expected}",
        }
        return _text_response(error.status_code, what.get(error.status_code, error.detail), error.headers)

    async def invoke(self, request: Request) -> Response:
        """Handle POST /invocations."""
        body = request.stream()
        try:
            response = await self._detect(request, body)
        except ClientDisconnect:
            return Response(status_code=BAD_LENGTH)  # the client has disconnected
        except asyncio.TimeoutError:
            response = _text_response(TOO_SLOW, f"request: found no end of the body after {BODY_SECONDS:g} s")
        except RequestError as error:
            if "expect" not in request.headers:  # with Expect: 100-continue the client has not sent the body
                await _drain(body)
            response = _text_response(error.status, str(error), {"retry-after": "1"} if error.status == BUSY else None)
        except Exception as error:  # must neither reach the client nor end the server
            where = traceback.extract_tb(error.__traceback__)[-1]
            self._progress.warning(f"{INVOCATIONS}: {error!r} ({where.filename}:{where.lineno})")
            response = _text_response(FAULT, "internal error: the log of the server says more")
        self.metrics.count(response.status_code)
        return response

    async def _detect(self, request: Request, stream: AsyncGenerator[bytes, None]) -> Response:
        started = time.perf_counter()
        accept, content_type = request.headers.get("accept", ""), request.headers.get("content-type", "")
        negotiate_accept(accept)
        if not is_form(content_type):
            check_type(content_type)
        _check_length(request.headers.get("content-length"), self._limits)
        body = await asyncio.wait_for(self._read(stream), BODY_SECONDS)
        # only now, so that slow clients do not hold slots while they send
        with self._slot():
            result = await self.pool.detect(body, content_type)
        text, kind = encode_response(result.detections, self._class_names, accept)
        self.metrics.network.observe(result.seconds)
        self.metrics.seconds.observe(time.perf_counter() - started)
        return _response(text.encode("utf-8"), kind)

    async def _read(self, stream: AsyncGenerator[bytes, None]) -> bytes:
        """Return the whole body.

        Raises:
            RequestError: 413, as soon as the body is too large.
        """
        chunks, count = [], 0
        async for chunk in stream:
            count += len(chunk)
            check_size(count, self._limits)
            chunks.append(chunk)
        return b"".join(chunks)

    @contextlib.contextmanager
    def _slot(self) -> Iterator[None]:
        """Hold a slot of the queue during the block.

        Raises:
            RequestError: 503, all slots are in use.
        """
        if self.in_flight >= self._queue:
            raise RequestError(BUSY, f"found {self._queue} requests waiting, expected fewer: try again")
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1


async def _drain(stream: AsyncGenerator[bytes, None]) -> None:
    """Read and drop the rest of a body, within limits.

    A client that still sends when its connection is closed sees a connection error instead of the response.
    """

    async def drop() -> None:
        count = 0
        async for chunk in stream:
            count += len(chunk)
            if count >= DRAINED_BYTES:
                return

    with contextlib.suppress(asyncio.TimeoutError, ClientDisconnect):
        await asyncio.wait_for(drop(), DRAIN_SECONDS)


def _check_length(length: Optional[str], limits: RequestLimits) -> None:
    """Check the Content-Length before the body is read.

    Raises:
        RequestError: 400, it is no number; 413, the body is too large.
    """
    if length is None:
        return
    if not (length.isascii() and length.isdigit() and len(length) < 20):
        raise RequestError(BAD_LENGTH, "Content-Length: found no number, expected bytes")
    check_size(int(length), limits)


async def _ping(request: Request) -> Response:
    return _response(b'{"status": "Healthy"}\n', "application/json")


def page_of(detector: Detector, name: str, threshold: float) -> bytes:
    """Return the page with a description of the model and its slider at `threshold`, rounded down to its step."""
    engine = detector.engine
    model = {
        "name": name,
        "class_names": list(detector.class_names),
        "image_shape": engine.side,
        "engine": engine.name,
        "score_threshold": engine.score_threshold,
    }
    shown = f"{math.floor(threshold * 100 + 1e-9) / 100:.2f}".encode("ascii")
    page = PAGE.replace(b'data-model="{}"', f'data-model="{escape(json.dumps(model))}"'.encode("ascii"))
    return page.replace(b'value="0.3"', b'value="' + shown + b'"').replace(
        b">0.30</output>", b">" + shown + b"</output>"
    )


async def _sample(request: Request) -> Response:
    """Return a drawn image, as those of the demo."""
    try:
        image = await asyncio.get_running_loop().run_in_executor(None, _draw_sample)
    except DependencyError as error:
        return _text_response(UNAVAILABLE, str(error))
    return _response(image, "image/jpeg")


@functools.lru_cache(maxsize=1)
def _draw_sample() -> bytes:
    from ssd_train.data.synthetic import draw_logo_set  # only where it is asked for

    (sample,) = draw_logo_set(1, seed=3)
    return encode_jpeg(sample.image)


def _response(body: bytes, kind: str, status: int = 200, headers: Any = None) -> Response:
    always = {"content-type": kind, "x-content-type-options": "nosniff", "cache-control": "no-store"}
    return Response(body, status, {**always, **(headers or {})})


def _text_response(status: int, message: str, headers: Any = None) -> Response:
    return _response(f"{single_line(message)}\n".encode("utf-8"), "text/plain; charset=utf-8", status, headers)


def _inline_hash(tag: str) -> str:
    """Return the hash (CSP level 2) that allows the page's only inline `tag`."""
    (text,) = re.findall(f"<{tag}>(.*?)</{tag}>".encode(), PAGE, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"


_POLICY = "; ".join(
    [
        "default-src 'none'",
        f"script-src {_inline_hash('script')}",
        f"style-src {_inline_hash('style')}",
        "img-src blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
_PAGE_HEADERS: Dict[str, str] = {"content-security-policy": _POLICY, "referrer-policy": "no-referrer"}


GRACE_SECONDS = 30  # to finish requests in progress at shutdown
IDLE_SECONDS = 75
HEAD_SECONDS = 20.0  # from the connection, or the first byte of a later request, to the end of the request's head
CONNECTIONS_PER_REQUEST = 4
M_MMAP_THRESHOLD = -3  # from malloc.h


def keep_memory_flat() -> None:
    """Make malloc return large freed blocks, images and bodies, to the system.

    By default glibc raises its mmap threshold over time, and keeps more and more memory. No-op with other C libraries.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 256 << 10)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    with contextlib.ExitStack() as stack:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listener = stack.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(128)
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that cannot be one of a host
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"--host {host} --port {port}: cannot be listened on ({reason})") from None
        stack.pop_all()
        return listener


def protocol_with_head_timeout(seconds: float) -> Any:
    """Return uvicorn's HTTP protocol with a timeout for the head of a request, which uvicorn lacks.

    Connections without a request count in uvicorn's limit_concurrency, so that without it they keep others out.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Protocol(H11Protocol):
        waiting_after: Any = None  # the request after which the next one's head has begun

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.loop.call_later(seconds, self._close_unless_requested, None)

        def data_received(self, data: bytes) -> None:
            last = self.cycle
            super().data_received(data)
            begun = self.cycle is last and last is not None and last.response_complete
            if begun and self.waiting_after is not last:
                self.waiting_after = last
                self.loop.call_later(seconds, self._close_unless_requested, last)

        def _close_unless_requested(self, last: Any) -> None:
            """Close the connection if no request came after `last`."""
            if self.cycle is last and not self.transport.is_closing():
                self.transport.close()

    return Protocol


def run(application: Callable[..., Any], listener: socket.socket, queue: int) -> None:
    """Serve until SIGTERM or Ctrl-C; the latter raises KeyboardInterrupt."""
    with require_extra("serve"):
        import uvicorn
    config = uvicorn.Config(
        application,
        http=protocol_with_head_timeout(HEAD_SECONDS),
        ws="none",
        lifespan="on",
        loop="asyncio",
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        limit_concurrency=CONNECTIONS_PER_REQUEST * queue,
    )
    # uvicorn raises its signal again after shutdown, for the previous handler; SIGTERM's default one kills the process
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, before)
