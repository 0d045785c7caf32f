"""Rendezvous of the hosts of a job: all connect to rank 0, which verifies that each belongs to the job."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import struct
import time
from typing import Any, Dict, Generator, List, NamedTuple, Optional, Tuple

from ssd_train import __version__
from ssd_train.errors import ConfigError, WorkerLost

JOIN_SECONDS = 900.0  # the machines of a job start minutes apart
HELLO_SECONDS = 10.0
HELLO_BYTES = 4096
NAME_BYTES = 1024  # of a host name in a message; a DNS name has up to 253
_LENGTH = struct.Struct("!Q")
KINDS = ("talk", "watch")
Links = Dict[int, socket.socket]
Handshakes = Generator[Tuple[socket.socket, Dict[str, Any]], None, None]


class RankInfo(NamedTuple):
    """The rank of a process and the address of rank 0.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        names: names of all processes by rank, for messages.
        address: host where rank 0 listens.
        port: port where rank 0 listens.
    """

    rank: int
    size: int
    names: Tuple[str, ...]
    address: str
    port: int


def send(link: socket.socket, payload: bytes) -> None:
    """Send `payload` with its length before it."""
    link.sendall(_LENGTH.pack(len(payload)) + payload)


def receive(link: socket.socket, limit: Optional[int] = None) -> bytes:
    """Receive the payload of one `send`.

    Raises:
        ConnectionError: the other end is closed, or sends more than `limit` bytes.
    """
    (length,) = _LENGTH.unpack(_exactly(link, _LENGTH.size))
    if limit is not None and length > limit:
        raise ConnectionError(f"found {length} bytes, expected at most {limit}")
    return _exactly(link, length)


def _exactly(link: socket.socket, length: int) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        part = link.recv(min(length - len(parts), 1 << 20))
        if not part:
            raise ConnectionError("its connection ended")
        parts += part
    return bytes(parts)


def rendezvous(rank_info: RankInfo, deadline: float) -> "Tuple[Links, Links]":
    """Connect this process with the others; rank 0 with all, the others with rank 0.

    Args:
        rank_info: rank and addresses.
        deadline: by time.monotonic().

    Returns:
        Control and heartbeat connections, each by rank.

    Raises:
        PeerLost: not all processes joined before the deadline.
        ConfigError: a process is of another version or job, or has the rank of another.
    """
    return _accept_workers(rank_info, deadline) if rank_info.rank == 0 else _join_rank0(rank_info, deadline)


def _accept_workers(rank_info: RankInfo, deadline: float) -> "Tuple[Links, Links]":
    """Accept two connections from each worker, on rank 0."""
    links_by_kind: Dict[str, Links] = {kind: {} for kind in KINDS}
    with _listening(rank_info) as server, contextlib.closing(
        _handshakes(server, _limit(rank_info), deadline)
    ) as handshakes:
        while any(len(links) < rank_info.size - 1 for links in links_by_kind.values()):
            link, hello = next(handshakes, (None, {}))
            if link is None:
                late = sorted(set(range(1, rank_info.size)) - set(links_by_kind["watch"]))
                raise WorkerLost(_missing(", ".join(rank_info.names[rank] for rank in late), "join"))
            links = links_by_kind[hello["kind"]]
            _reject_mismatch(rank_info, link, hello, links)
            links[hello["rank"]] = link
            _reply(rank_info, hello["rank"], link)
    for links in links_by_kind.values():
        for rank, link in links.items():
            _reply(rank_info, rank, _ready(link))
    return links_by_kind["talk"], links_by_kind["watch"]


def _reply(rank_info: RankInfo, rank: int, link: socket.socket) -> None:
    """Confirm to a worker that it is accepted, or that all have joined.

    Raises:
        PeerLost: it has died.
    """
    try:
        send(link, b"{}")
    except OSError as error:
        raise WorkerLost(
            f"host {rank_info.names[rank]} is gone: its connection ended while it joined ({error})"
        ) from None


def _listening(rank_info: RankInfo) -> socket.socket:
    try:
        return socket.create_server(("", rank_info.port), backlog=2 * rank_info.size)
    except OSError as error:
        raise ConfigError(
            f"rendezvous_port: found {rank_info.port} in use ({error.strerror}), expected a free port"
        ) from None


def _handshakes(server: socket.socket, limit: int, deadline: float) -> Handshakes:
    """Yield connections with their handshakes until the deadline.

    Silent or slow connections block nobody. Those of other programs (port scanners, health checks) are closed.
    """
    with selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        try:
            while time.monotonic() < deadline:
                for key, _ in selector.select(max(deadline - time.monotonic(), 0.01)):
                    if key.data is None:
                        link, _ = server.accept()
                        link.settimeout(HELLO_SECONDS)
                        selector.register(link, selectors.EVENT_READ, bytearray())
                        continue
                    worker: Any = key.fileobj
                    hello = _parse_handshake(worker, key.data, limit)
                    if hello is not None:
                        selector.unregister(worker)
                    if hello:
                        yield worker, hello
        finally:
            silent: List[Any] = [key.fileobj for key in selector.get_map().values() if key.data is not None]
            for worker in silent:
                worker.close()


def _parse_handshake(link: Any, received: bytearray, limit: int) -> Optional[Dict[str, Any]]:
    """Parse a handshake. None: incomplete; {}: not one of our workers, connection closed.

    Args:
        link: the connection, readable now.
        received: bytes received so far; extended in place.
        limit: maximum length of a handshake.
    """
    try:
        part = link.recv(65536)
        received += part
        if part and len(received) < _LENGTH.size:
            return None
        length = int.from_bytes(received[: _LENGTH.size], "big")
        if part and len(received) - _LENGTH.size < length <= limit:
            return None
        hello = json.loads(bytes(received[_LENGTH.size :]))
        if hello["ssd_train"] and hello["kind"] in KINDS and isinstance(hello["rank"], int):
            return dict(hello)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    link.close()
    return {}


def _reject_mismatch(rank_info: RankInfo, link: socket.socket, hello: Dict[str, Any], known: Links) -> None:
    """Raise ConfigError, also on the other side, for another version or job, or a rank in `known`."""
    expected = {"ssd_train": __version__, "names": list(rank_info.names)}
    actual = {key: hello.get(key) for key in expected}
    fault = ""
    if actual != expected or not 0 < hello["rank"] < rank_info.size:
        fault = f"host {hello['rank']}: found {actual}, expected {expected}"
    elif hello["rank"] in known:
        name = rank_info.names[hello["rank"]]
        fault = f"host {name}: found two processes of rank {hello['rank']}, expected one; was it started twice?"
    if fault:
        with contextlib.suppress(OSError):  # the connection may be closed; the error is raised here in any case
            send(link, json.dumps({"error": fault}).encode("utf-8"))
        raise ConfigError(fault)


def _join_rank0(rank_info: RankInfo, deadline: float) -> "Tuple[Links, Links]":
    """Connect a worker to rank 0.

    Both connections are made before anything is sent, so that a rejected worker can read the reply.
    """
    links = [_connect(rank_info, deadline) for _ in KINDS]
    for kind, link in zip(KINDS, links):
        hello = {"ssd_train": __version__, "kind": kind, "rank": rank_info.rank, "names": list(rank_info.names)}
        _request(rank_info, link, json.dumps(hello).encode("utf-8"), deadline)
    for link in links:
        _request(rank_info, link, b"", deadline)  # the reply comes once all have joined
        _ready(link)
    return {0: links[0]}, {0: links[1]}


def _request(rank_info: RankInfo, link: socket.socket, request: bytes, deadline: float) -> None:
    """Send a request to rank 0 and wait for its reply."""
    link.settimeout(max(deadline - time.monotonic(), 0.01))
    try:
        if request:
            send(link, request)
        reply = json.loads(receive(link, _limit(rank_info)))
    except OSError as error:
        raise WorkerLost(f"{_missing(rank_info.names[0], 'gather all')} ({error})") from None
    if "error" in reply:
        raise ConfigError(reply["error"])


def _connect(rank_info: RankInfo, deadline: float) -> socket.socket:
    while True:
        try:
            return socket.create_connection((rank_info.address, rank_info.port), timeout=HELLO_SECONDS)
        except OSError as error:
            if time.monotonic() > deadline:
                where = f"{rank_info.names[0]} (port {rank_info.port})"
                raise WorkerLost(f"{_missing(where, 'answer')} ({error})") from None
            time.sleep(0.2)


def _ready(link: socket.socket) -> socket.socket:
    link.settimeout(None)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # messages are small, and the other side waits for them
    return link


def _missing(names: str, what: str) -> str:
    return f"host {names} did not {what} in time, expected all hosts of the job within {JOIN_SECONDS / 60:.0f} minutes"


def _limit(rank_info: RankInfo) -> int:
    """Return the maximum bytes of a handshake or its reply, which contains all names twice."""
    return HELLO_BYTES + NAME_BYTES * rank_info.size
