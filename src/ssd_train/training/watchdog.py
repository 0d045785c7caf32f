"""A watch over the other hosts of a job: when one dies, all end soon, and say why.

MXNet's parameter server and Horovod wait for a dead peer for ever, in C++, where no Python exception reaches. So each
host gives a sign of life now and then, from a thread of its own, and one that hears no more ends its process by
os._exit.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import socket
import sys
import threading
import time
from typing import Any, Dict, Mapping, Optional

from ssd_train.environment import is_hosted, report_failure
from ssd_train.secrecy import hidden

BEATS = 6  # signs of life in peer_timeout; one or two may come late
PATIENCE = 0.75  # of peer_timeout after the last sign; the rest is for telling the others and leaving
EXIT_CODES = range(1, 256)
LEAVE_SECONDS = 10.0  # that a process which fails may need to end
GRACE_SECONDS = 2.0  # that the main thread has to end by itself, with the better message, at most
REASON_CHARACTERS = 100_000  # of why a host fails, told the others; up to six bytes each
LINE_BYTES = 1 << 20  # of what a host says without an end of line; more is no sign of life, and would fill the memory


class Watchdog(threading.Thread):
    """Sends and hears signs of life over `links`, connected sockets by the name of the host at the other end."""

    def __init__(self, links: Mapping[str, socket.socket], name: str, peer_timeout: float) -> None:
        super().__init__(name="watchdog", daemon=True)
        self.host, self.links = name, dict(links)
        self.peer_timeout = peer_timeout
        self.lost: Optional[str] = None  # why the job cannot go on
        self.code = 1  # the exit code that goes with it: of the host that failed, where it told one
        self.known = threading.Event()  # set with it
        self._leaving = threading.Event()
        self._lock = threading.Lock()
        self._heard = {host: time.monotonic() for host in self.links}
        self._partial = dict.fromkeys(self.links, b"")
        self._selector = selectors.DefaultSelector()
        for host, link in self.links.items():
            link.settimeout(peer_timeout / BEATS)  # a host that stands still takes nothing either
            self._selector.register(link, selectors.EVENT_READ, host)

    def run(self) -> None:
        """Beat and listen until a host is lost, or `leave` or `tell` was called; end the process if one is lost."""
        try:
            self._watch()
        except Exception as error:  # with the thread gone, this host would be taken for dead and would miss the dead
            self._lose(f"the watch of host {self.host} has failed: {type(error).__name__}: {error}")
        if self.lost and not self._leaving.is_set():
            self._send_failure(self.lost, self.code)
            if not self._leaving.wait(min(GRACE_SECONDS, self.peer_timeout / 10)):
                end_process(self.lost, self.code)

    def _watch(self) -> None:
        next_beat = 0.0
        while not self._leaving.is_set() and not self.lost:
            if time.monotonic() >= next_beat:
                self._send({"beat": 1})
                next_beat = time.monotonic() + self.peer_timeout / BEATS
            for key, _ in self._selector.select(min(self.peer_timeout / BEATS, 0.5)):
                self._listen(key.data, key.fileobj)
            self._look_for_silence()

    def leave(self) -> None:
        """Go in good order: the others no longer wait for signs of this host."""
        self._leaving.set()
        self._send({"bye": 1})
        if self.is_alive():
            self.join()
        self._close()

    def tell(self, message: str, code: int) -> None:
        """Tell all others that this host fails, why, and its exit code; it is about to leave."""
        self._leaving.set()
        self._send_failure(message, code)
        last_resort = threading.Timer(LEAVE_SECONDS, end_process, [message, code])
        last_resort.daemon = True
        last_resort.start()

    def _send_failure(self, message: str, code: int) -> None:
        self._send({"failed": hidden(message)[:REASON_CHARACTERS], "code": code})

    def _send(self, message: Dict[str, Any]) -> None:
        line = json.dumps(message).encode("utf-8") + b"\n"
        with self._lock:
            for link in list(self.links.values()):
                try:
                    link.sendall(line)
                except OSError:
                    continue  # its silence, or its end, is noticed when listening

    def _listen(self, host: str, link: Any) -> None:
        try:
            data = link.recv(65536)
        except socket.timeout:
            return
        except OSError:
            data = b""
        if not data:
            self._lose(f"host {host} is gone: its connection ended, so its process has died")
            return
        self._heard[host] = time.monotonic()
        *lines, self._partial[host] = (self._partial[host] + data).split(b"\n")
        for line in lines:
            message = _understood(line)
            if message is None:
                self._lose(f"host {host} is lost: found {line[:40]!r} on its connection, expected a sign of life")
                return
            if "failed" in message:
                self._lose(_told(host, message["failed"]), message.get("code", 1))
            elif "bye" in message:
                self._forget(host)
                return
        if len(self._partial[host]) > LINE_BYTES:
            self._lose(f"host {host} is lost: found {LINE_BYTES} bytes and no end of line, expected a sign of life")

    def _look_for_silence(self) -> None:
        for host in self.links:
            silent = time.monotonic() - self._heard[host]
            if silent > PATIENCE * self.peer_timeout:
                self._lose(
                    f"host {host} does not answer: no sign of life for {silent:.0f} s with --heartbeat_timeout "
                    f"{self.peer_timeout:g}; its machine or its network has failed"
                )

    def _lose(self, message: str, code: int = 1) -> None:
        if self.lost is None:
            self.lost, self.code = hidden(message), code
        self.known.set()

    def _forget(self, host: str) -> None:
        with self._lock:
            link = self.links.pop(host)
            self._selector.unregister(link)
            link.close()

    def _close(self) -> None:
        for link in self.links.values():
            link.close()
        self._selector.close()


def _understood(line: bytes) -> Optional[Dict[str, Any]]:
    """What a watchdog sent; None for what is none of it."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not (isinstance(message, dict) and isinstance(message.get("failed", ""), str)):
        return None
    code = message.get("code", 1)
    return message if isinstance(code, int) and code in EXIT_CODES else None


def _told(host: str, message: str) -> str:
    """What another host said, once under its name however many passed it on."""
    return message if message.startswith("host ") else f"host {host} failed: {message}"


def end_process(message: str, code: int = 1) -> None:
    """Say why, without secrets, and end this process at once with `code`: a normal exit would wait for a peer that is
    dead."""
    message = hidden(message)
    if is_hosted():
        report_failure(message)
    sys.stderr.write(f"error: {message}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def end_at_exit(code: int) -> None:
    """When the interpreter exits, for whatever reason, end the process with `code` before MXNet's own handlers run:
    they wait for peers that have nothing to wait for."""

    def end() -> None:
        """Write out what is printed and leave."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    atexit.register(end)
