"""Clients that ask a server without a pause, each in a thread, over a connection that stays."""

from __future__ import annotations

import http.client
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Optional, Sequence

import numpy as np

from benchmarks.bodies import Sent

SECONDS = 60.0  # after which a client gives up


@dataclass
class Tally:
    """What a crowd of clients was answered.

    faults      what was not as it should be, one line each
    seconds     of each good request
    """

    good: int = 0
    bad: int = 0
    elapsed: float = 0.0
    faults: List[str] = field(default_factory=list)
    seconds: List[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Good requests in a second."""
        return self.good / self.elapsed

    def percentile(self, share: float) -> float:
        """Milliseconds within which this share (0..100) of the good requests was answered."""
        return round(1000 * float(np.percentile(self.seconds, share)), 1)

    def add(self, other: "Tally") -> None:
        """As if it had been one crowd, one time after the other."""
        self.good, self.bad, self.elapsed = self.good + other.good, self.bad + other.bad, self.elapsed + other.elapsed
        self.faults += other.faults
        self.seconds += other.seconds


class Crowd:
    """Clients of the server at host:port.

    `good` maps request bodies to the expected responses; the fraction `share` of all requests is from `bad`. A client
    gives up after `patience` seconds.
    """

    def __init__(
        self,
        address: str,
        good: "Dict[bytes, bytes]",
        bad: Sequence[Sent] = (),
        share: float = 0.0,
        patience: float = SECONDS,
    ) -> None:
        self._address, self._good, self._bad, self._share = address, list(good.items()), bad, share
        self._patience = patience
        self._lock, self._tally, self._end = threading.Lock(), Tally(), 0.0

    def ask(self, clients: int, seconds: float) -> Tally:
        """So many of them for so long."""
        started = time.monotonic()
        self._tally, self._end = Tally(), started + seconds
        threads = [threading.Thread(target=self._client, args=(seed,)) for seed in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._tally.elapsed = time.monotonic() - started
        return self._tally

    def _client(self, seed: int) -> None:
        random = np.random.RandomState(seed)
        connection: Optional[http.client.HTTPConnection] = None
        while time.monotonic() < self._end:
            connection = connection or http.client.HTTPConnection(self._address, timeout=self._patience)
            try:
                if self._bad and random.rand() < self._share:
                    self._ask_bad(connection, self._bad[random.randint(len(self._bad))])
                else:
                    self._ask_good(connection, *self._good[random.randint(len(self._good))])
            except (OSError, http.client.HTTPException) as error:
                self._note(f"{type(error).__name__}: {error}")
                connection = None
        if connection:
            connection.close()

    def _ask_good(self, connection: http.client.HTTPConnection, body: bytes, expected: bytes) -> None:
        started = time.perf_counter()
        status, said = post(connection, body, "image/jpeg")
        taken = time.perf_counter() - started
        if (status, said) != (200, expected):
            self._note(f"a good request: {status} {said[:80]!r}")
        with self._lock:
            self._tally.good += 1
            self._tally.seconds.append(taken)

    def _ask_bad(self, connection: http.client.HTTPConnection, sent: Sent) -> None:
        status, said = post(connection, sent.body, sent.content_type)
        lines = said.count(b"\n")
        if status != sent.status or (status != 200 and (lines > 1 or b"Traceback" in said or b"/" == said[:1])):
            self._note(f"{sent.name}: {status} {said[:80]!r}, expected {sent.status} and one line")
        with self._lock:
            self._tally.bad += 1

    def _note(self, fault: str) -> None:
        with self._lock:
            self._tally.faults.append(fault)


def post(connection: http.client.HTTPConnection, body: bytes, content_type: str) -> "tuple[int, bytes]":
    """Status and body of an answer."""
    connection.request("POST", "/invocations", body, {"Content-Type": content_type})
    response = connection.getresponse()
    return response.status, response.read()


def resident_bytes(process: str = "self") -> int:
    """Return the memory that a process has in use, by its id."""
    pages = Path(f"/proc/{process}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
