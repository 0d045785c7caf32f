"""Heartbeats between the hosts of a job: when one dies, all end soon and report why.

MXNet's parameter server and Horovod wait for a dead host forever, in C++, where no Python exception reaches. So a
thread of each process sends heartbeats, and ends the process by os._exit when those of another stop.
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

from ssd_train.environment import is_hosted, write_failure_file
from ssd_train.redaction import redact

BEATS_PER_TIMEOUT = 6  # heartbeats in heartbeat_timeout; one or two may be late
DEAD_AFTER = 0.75  # fraction of heartbeat_timeout after which a host is dead; the rest is for notifying the others
EXIT_CODES = range(1, 256)
LEAVE_SECONDS = 10.0  # for a failing process to end on its own
GRACE_SECONDS = 2.0  # at most, for the main thread to end on its own, with a better message
REASON_CHARACTERS = 100_000  # of a failure's reason; up to six bytes each
LINE_BYTES = 1 << 20  # maximum length of a line; a longer one is no heartbeat, and would fill the memory


class Heartbeat(threading.Thread):
    """Sends and receives heartbeats.

    Args:
        links: connected sockets by the name of the host at the other end.
        name: name of this host.
        heartbeat_timeout: seconds without a heartbeat after which a host counts as dead.
    """

    def __init__(self, links: Mapping[str, socket.socket], name: str, heartbeat_timeout: float) -> None:
        super().__init__(name="watchdog", daemon=True)
        self.host, self.links = name, dict(links)
        self.heartbeat_timeout = heartbeat_timeout
        self.lost: Optional[str] = None  # why the job cannot go on
        self.code = 1  # its exit code: that of the host that failed, if it sent one
        self.known = threading.Event()  # set with it
        self._leaving = threading.Event()
        self._lock = threading.Lock()
        self._heard = {host: time.monotonic() for host in self.links}
        self._partial = dict.fromkeys(self.links, b"")
        self._selector = selectors.DefaultSelector()
        for host, link in self.links.items():
            link.settimeout(heartbeat_timeout / BEATS_PER_TIMEOUT)  # sending to a hung host blocks
            self._selector.register(link, selectors.EVENT_READ, host)

    def run(self) -> None:
        """Send and receive until a host is lost, or `leave` or `tell` is called.

        If a host is lost, end the process.
        """
        try:
            self._watch()
        except Exception as error:  # without the thread, this host would look dead and not notice dead hosts
            self._lose(f"the watch of host {self.host} has failed: {type(error).__name__}: {error}")
        if self.lost and not self._leaving.is_set():
            self._send_failure(self.lost, self.code)
            if not self._leaving.wait(min(GRACE_SECONDS, self.heartbeat_timeout / 10)):
                end_process(self.lost, self.code)

    def _watch(self) -> None:
        next_beat = 0.0
        while not self._leaving.is_set() and not self.lost:
            if time.monotonic() >= next_beat:
                self._send({"beat": 1})
                next_beat = time.monotonic() + self.heartbeat_timeout / BEATS_PER_TIMEOUT
            for key, _ in self._selector.select(min(self.heartbeat_timeout / BEATS_PER_TIMEOUT, 0.5)):
                self._listen(key.data, key.fileobj)
            self._look_for_silence()

    def stop(self) -> None:
        """Stop heartbeats in order: the others no longer expect any from this host."""
        self._leaving.set()
        self._send({"bye": 1})
        if self.is_alive():
            self.join()
        self._close()

    def notify_failure(self, message: str, code: int) -> None:
        """Tell all others that this host fails, why, and its exit code.

        End the process if it does not end soon on its own.
        """
        self._leaving.set()
        self._send_failure(message, code)
        last_resort = threading.Timer(LEAVE_SECONDS, end_process, [message, code])
        last_resort.daemon = True
        last_resort.start()

    def _send_failure(self, message: str, code: int) -> None:
        self._send({"failed": redact(message)[:REASON_CHARACTERS], "code": code})

    def _send(self, message: Dict[str, Any]) -> None:
        line = json.dumps(message).encode("utf-8") + b"\n"
        with self._lock:
            for link in list(self.links.values()):
                try:
                    link.sendall(line)
                except OSError:
                    continue  # noticed when listening

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
            message = _parse_message(line)
            if message is None:
                self._lose(f"host {host} is lost: found {line[:40]!r} on its connection, expected a sign of life")
                return
            if "failed" in message:
                self._lose(_failure_message(host, message["failed"]), message.get("code", 1))
            elif "bye" in message:
                self._forget(host)
                return
        if len(self._partial[host]) > LINE_BYTES:
            self._lose(f"host {host} is lost: found {LINE_BYTES} bytes and no end of line, expected a sign of life")

    def _look_for_silence(self) -> None:
        for host in self.links:
            silent = time.monotonic() - self._heard[host]
            if silent > DEAD_AFTER * self.heartbeat_timeout:
                self._lose(
                    f"host {host} does not answer: no sign of life for {silent:.0f} s with --heartbeat_timeout "
                    f"{self.heartbeat_timeout:g}; its machine or its network has failed"
                )

    def _lose(self, message: str, code: int = 1) -> None:
        if self.lost is None:
            self.lost, self.code = redact(message), code
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


def _parse_message(line: bytes) -> Optional[Dict[str, Any]]:
    """Return the message in `line`; None if it is not one of a watchdog."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not (isinstance(message, dict) and isinstance(message.get("failed", ""), str)):
        return None
    code = message.get("code", 1)
    return message if isinstance(code, int) and code in EXIT_CODES else None


def _failure_message(host: str, message: str) -> str:
    """Return a failure message under the name of the host that failed, even if others passed it on."""
    return message if message.startswith("host ") else f"host {host} failed: {message}"


def end_process(message: str, code: int = 1) -> None:
    """Print the message without secrets and end this process at once.

    A normal exit would wait for a dead host.
    """
    message = redact(message)
    if is_hosted():
        write_failure_file(message)
    sys.stderr.write(f"error: {message}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def end_at_exit(code: int) -> None:
    """End the process with `code` when the interpreter exits.

    This is before MXNet's exit handlers, which would wait for other hosts.
    """

    def end() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    atexit.register(end)
