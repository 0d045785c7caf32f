"""Run an application by uvicorn until it is told to stop."""

from __future__ import annotations

import ctypes
import importlib
import signal
import socket
from typing import Any, Callable

from ssd_train.errors import ConfigError, DependencyError

GRACE_SECONDS = 30  # in which requests that are there are answered, once the server is told to end
IDLE_SECONDS = 75
CONNECTIONS_PER_PLACE = 4
M_MMAP_THRESHOLD = -3  # of malloc.h


def keep_memory_flat() -> None:
    """Have what pictures and bodies took given back to the system as soon as it is free. glibc raises by itself the
    size from which it does so, and then keeps more and more. With another C library nothing is done."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 256 << 10)


def listen(host: str, port: int) -> socket.socket:
    """A socket that clients can connect to; a ConfigError says why there is none."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(128)
    except OSError as error:
        raise ConfigError(f"--host {host} --port {port}: cannot be listened on ({error.strerror})") from None
    return found


def run(application: Callable[..., Any], listener: socket.socket, queue: int) -> None:
    """Serve until SIGTERM or Ctrl-C (which then goes on as a KeyboardInterrupt)."""
    uvicorn = _uvicorn()
    config = uvicorn.Config(
        application,
        http="h11",
        ws="none",
        lifespan="on",
        loop="asyncio",
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        limit_concurrency=CONNECTIONS_PER_PLACE * queue,
    )
    # uvicorn raises the signal that ended it once more, for whoever was there before it; SIGTERM would kill us then
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, before)


def _uvicorn() -> Any:
    try:
        return importlib.import_module("uvicorn")
    except ImportError as error:
        raise DependencyError(
            f"uvicorn cannot be imported ({error}); install the extra: pip install 'ssd-train[serve]'"
        ) from None
