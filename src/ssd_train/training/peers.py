"""The hosts of a job joined in a star around its leader: what they tell each other beside gradients.

Counts, losses, scores, and the leader's decisions are small and go through sockets of our own, because MXNet's
parameter server has only sums of arrays. Nothing is pickled. As with MXNet's and Horovod's own connections, whoever
reaches the leader's port could take part: it belongs into a private network, as a SageMaker job's is.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from ssd_train import __version__
from ssd_train.errors import ConfigError, PeerLost
from ssd_train.training.watchdog import Watchdog, end_at_exit

JOIN_SECONDS = 900.0  # machines of a job start minutes apart
HELLO_SECONDS = 10.0
HELLO_BYTES = 4096
_LENGTH = struct.Struct("!Q")
KINDS = ("talk", "watch")
Links = Dict[int, socket.socket]


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


class Peers:
    """The connections of one process: the leader has one to each of the others, these one to the leader."""

    def __init__(self, place: Place, peer_timeout: float, join_seconds: float = JOIN_SECONDS) -> None:
        """Wait until all have joined.

        Raises:
            PeerLost: not all have within `join_seconds`; ConfigError: one is of another version, or of another job.
        """
        self.place = place
        deadline = time.monotonic() + join_seconds
        self._talk, watch = _gather(place, deadline) if place.rank == 0 else _approach(place, deadline)
        named = {place.names[rank]: link for rank, link in watch.items()}
        self.watchdog = Watchdog(named, place.names[place.rank], peer_timeout)
        self.watchdog.start()

    def gather(self, payload: bytes) -> Optional[List[bytes]]:
        """What all have given, by rank, on the leader; None elsewhere."""
        if self.place.rank:
            self._send(0, payload)
            return None
        return [payload, *(self._receive(rank) for rank in range(1, self.place.size))]

    def share(self, payload: bytes) -> bytes:
        """What the leader has given, everywhere."""
        if self.place.rank:
            return self._receive(0)
        for rank in self._talk:
            self._send(rank, payload)
        return payload

    def leave(self) -> None:
        """Go in good order, after all have come here."""
        self.gather(b"")
        self.share(b"")
        self.watchdog.leave()
        self._close()

    def fail(self, message: str, code: int) -> None:
        """Tell the others why this process cannot go on; it will end with exit code `code`."""
        self.watchdog.tell(message)
        end_at_exit(code)

    def _send(self, rank: int, payload: bytes) -> None:
        try:
            send(self._talk[rank], payload)
        except OSError as error:
            raise self._lost(rank, error) from None

    def _receive(self, rank: int) -> bytes:
        try:
            return receive(self._talk[rank])
        except OSError as error:
            raise self._lost(rank, error) from None

    def _lost(self, rank: int, error: OSError) -> PeerLost:
        self.watchdog.known.wait(1.0)  # it may have been told why
        return PeerLost(self.watchdog.lost or f"host {self.place.names[rank]} is gone: {error}")

    def _close(self) -> None:
        for link in self._talk.values():
            link.close()


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


def _gather(place: Place, deadline: float) -> "Tuple[Links, Links]":
    """The leader's side of the meeting: two connections from each of the others."""
    found: Dict[str, Links] = {kind: {} for kind in KINDS}
    with _listening(place) as server:
        while any(len(links) < place.size - 1 for links in found.values()):
            server.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                link, _ = server.accept()
            except socket.timeout:
                late = sorted(set(range(1, place.size)) - set(found["watch"]))
                raise PeerLost(_missing(", ".join(place.names[rank] for rank in late), "join")) from None
            hello = _hello(link)
            if hello:
                _refuse_strangers(place, link, hello)
                found[hello["kind"]][hello["rank"]] = _ready(link)
                send(link, b"{}")
    for link in (*found["talk"].values(), *found["watch"].values()):
        send(link, b"{}")
    return found["talk"], found["watch"]


def _listening(place: Place) -> socket.socket:
    try:
        return socket.create_server(("", place.port), backlog=2 * place.size)
    except OSError as error:
        raise ConfigError(f"peer_port: found {place.port} in use ({error.strerror}), expected a free port") from None


def _hello(link: socket.socket) -> Optional[Dict[str, Any]]:
    """What one that connects says of itself; None, and the connection closed, when it is none of ours."""
    link.settimeout(HELLO_SECONDS)
    try:
        found = json.loads(receive(link, HELLO_BYTES))
        if found["ssd_train"] and found["kind"] in KINDS and isinstance(found["rank"], int):
            return dict(found)
    except (OSError, ValueError, KeyError, TypeError):  # a port scanner, a health check
        pass
    link.close()
    return None


def _refuse_strangers(place: Place, link: socket.socket, hello: Dict[str, Any]) -> None:
    """A ConfigError, also told the other side, when the one that connects is of another version or job."""
    expected = {"ssd_train": __version__, "names": list(place.names)}
    found = {key: hello.get(key) for key in expected}
    if found != expected or not 0 < hello["rank"] < place.size:
        fault = f"host {hello['rank']}: found {found}, expected {expected}"
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
        answer = json.loads(receive(link, HELLO_BYTES))
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
