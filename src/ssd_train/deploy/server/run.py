"""Run an application with uvicorn until SIGTERM or Ctrl-C."""

from __future__ import annotations

import ctypes
import signal
import socket
from typing import Any, Callable

from ssd_train.errors import ConfigError, require_extra

GRACE_SECONDS = 30  # to finish requests in progress at shutdown
IDLE_SECONDS = 75
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
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        raise ConfigError(f"--host {host} --port {port}: cannot be listened on ({error.strerror})") from None
    return listener


def run(application: Callable[..., Any], listener: socket.socket, queue: int) -> None:
    """Serve until SIGTERM or Ctrl-C; the latter raises KeyboardInterrupt."""
    with require_extra("serve"):
        import uvicorn
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
        limit_concurrency=CONNECTIONS_PER_REQUEST * queue,
    )
    # uvicorn raises its signal again after shutdown, for the previous handler; SIGTERM's default one kills the process
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, before)
