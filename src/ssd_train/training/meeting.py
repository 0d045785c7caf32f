"""How the hosts of a job find each other: all come to the leader, who hears from each that it belongs to the job."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import struct
import time
from typing import Any, Dict, Generator, List, NamedTuple, Optional, Tuple

from ssd_train import __version__
from ssd_train.errors import ConfigError, PeerLost

JOIN_SECONDS = 900.0  # machines of a job start minutes apart
HELLO_SECONDS = 10.0
HELLO_BYTES = 4096
NAME_BYTES = 1024  # of a host, in a message; a DNS name has up to 253
_LENGTH = struct.Struct("!Q")
KINDS = ("talk", "watch")
Links = Dict[int, socket.socket]
Visitors = Generator[Tuple[socket.socket, Dict[str, Any]], None, None]


class Place(NamedTuple):
    """Where a process stands among those of a job.

    rank, size      its number, of how many; 0 leads
    names           of all, by rank, for messages
    address, port   where the leader listens
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
    """What `send` sent; a ConnectionError when the other end is closed, or sends more than `limit` bytes."""
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


def meet(place: Place, deadline: float) -> "Tuple[Links, Links]":
    """The connections to the others by rank, one to talk and one to watch, once all are there; the leader has them with
    each of the others, these with the leader. `deadline` is one of time.monotonic()."""
    return _gather(place, deadline) if place.rank == 0 else _approach(place, deadline)


def _gather(place: Place, deadline: float) -> "Tuple[Links, Links]":
    """The leader's side of the meeting: two connections from each of the others."""
    found: Dict[str, Links] = {kind: {} for kind in KINDS}
    with _listening(place) as server, contextlib.closing(_visitors(server, _limit(place), deadline)) as visitors:
        while any(len(links) < place.size - 1 for links in found.values()):
            link, hello = next(visitors, (None, {}))
            if link is None:
                late = sorted(set(range(1, place.size)) - set(found["watch"]))
                raise PeerLost(_missing(", ".join(place.names[rank] for rank in late), "join"))
            links = found[hello["kind"]]
            _refuse_strangers(place, link, hello, links)
            links[hello["rank"]] = link
            _answer(place, hello["rank"], link)
    for links in found.values():
        for rank, link in links.items():
            _answer(place, rank, _ready(link))
    return found["talk"], found["watch"]


def _answer(place: Place, rank: int, link: socket.socket) -> None:
    """Tell one of the others that it is welcome, or that all are there; a PeerLost when it has died meanwhile."""
    try:
        send(link, b"{}")
    except OSError as error:
        raise PeerLost(f"host {place.names[rank]} is gone: its connection ended while it joined ({error})") from None


def _listening(place: Place) -> socket.socket:
    try:
        return socket.create_server(("", place.port), backlog=2 * place.size)
    except OSError as error:
        raise ConfigError(
            f"rendezvous_port: found {place.port} in use ({error.strerror}), expected a free port"
        ) from None


def _visitors(server: socket.socket, limit: int, deadline: float) -> Visitors:
    """Those who connect and what they say of themselves, until the deadline. One that is silent or slow keeps nobody
    waiting; one that is none of ours (a port scanner, a health check) is closed."""
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
                    visitor: Any = key.fileobj
                    hello = _heard(visitor, key.data, limit)
                    if hello is not None:
                        selector.unregister(visitor)
                    if hello:
                        yield visitor, hello
        finally:
            silent: List[Any] = [key.fileobj for key in selector.get_map().values() if key.data is not None]
            for visitor in silent:
                visitor.close()


def _heard(link: Any, said: bytearray, limit: int) -> Optional[Dict[str, Any]]:
    """What one that connects says of itself, None while it has not said all; {}, and the connection closed, when it is
    none of ours. `said` is what it said so far; more can be read."""
    try:
        part = link.recv(65536)
        said += part
        if part and len(said) < _LENGTH.size:
            return None
        length = int.from_bytes(said[: _LENGTH.size], "big")
        if part and len(said) - _LENGTH.size < length <= limit:
            return None
        found = json.loads(bytes(said[_LENGTH.size :]))
        if found["ssd_train"] and found["kind"] in KINDS and isinstance(found["rank"], int):
            return dict(found)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    link.close()
    return {}


def _refuse_strangers(place: Place, link: socket.socket, hello: Dict[str, Any], known: Links) -> None:
    """A ConfigError, also told the other side, when the one that connects is of another version or job, or is one of
    those `known` for a second time."""
    expected = {"ssd_train": __version__, "names": list(place.names)}
    found = {key: hello.get(key) for key in expected}
    fault = ""
    if found != expected or not 0 < hello["rank"] < place.size:
        fault = f"host {hello['rank']}: found {found}, expected {expected}"
    elif hello["rank"] in known:
        name = place.names[hello["rank"]]
        fault = f"host {name}: found two processes of rank {hello['rank']}, expected one; was it started twice?"
    if fault:
        with contextlib.suppress(OSError):  # it may have gone; the fault is told here in any case
            send(link, json.dumps({"error": fault}).encode("utf-8"))
        raise ConfigError(fault)


def _approach(place: Place, deadline: float) -> "Tuple[Links, Links]":
    """The others' side of the meeting: two connections to the leader, both before a word is said, so that one that is
    refused has its answer to read."""
    links = [_connect(place, deadline) for _ in KINDS]
    for kind, link in zip(KINDS, links):
        hello = {"ssd_train": __version__, "kind": kind, "rank": place.rank, "names": list(place.names)}
        _asked(place, link, json.dumps(hello).encode("utf-8"), deadline)
    for link in links:
        _asked(place, link, b"", deadline)  # answered when all are there
        _ready(link)
    return {0: links[0]}, {0: links[1]}


def _asked(place: Place, link: socket.socket, question: bytes, deadline: float) -> None:
    """A question to the leader that it has to answer without complaint."""
    link.settimeout(max(deadline - time.monotonic(), 0.01))
    try:
        if question:
            send(link, question)
        answer = json.loads(receive(link, _limit(place)))
    except OSError as error:
        raise PeerLost(f"{_missing(place.names[0], 'gather all')} ({error})") from None
    if "error" in answer:
        raise ConfigError(answer["error"])


def _connect(place: Place, deadline: float) -> socket.socket:
    while True:
        try:
            return socket.create_connection((place.address, place.port), timeout=HELLO_SECONDS)
        except OSError as error:
            if time.monotonic() > deadline:
                where = f"{place.names[0]} (port {place.port})"
                raise PeerLost(f"{_missing(where, 'answer')} ({error})") from None
            time.sleep(0.2)


def _ready(link: socket.socket) -> socket.socket:
    link.settimeout(None)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # small messages that are waited for
    return link


def _missing(names: str, what: str) -> str:
    return f"host {names} did not {what} in time, expected all hosts of the job within {JOIN_SECONDS / 60:.0f} minutes"


def _limit(place: Place) -> int:
    """Bytes of a hello, or of its answer, which has the names of all twice."""
    return HELLO_BYTES + NAME_BYTES * place.size
