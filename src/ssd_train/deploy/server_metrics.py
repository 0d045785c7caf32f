"""What a server counts, in Prometheus' text format (version 0.0.4)."""

from __future__ import annotations

import os
import resource
import time
from bisect import bisect_left
from collections import Counter
from pathlib import Path
from typing import Iterator, List

from ssd_train.data.records import ClassNames

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # upper bounds of a histogram's buckets


class Histogram:
    """How often something took how long."""

    def __init__(self) -> None:
        self.counts: List[int] = [0] * (len(SECONDS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """One more."""
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.sum += seconds

    def lines(self, name: str, what: str) -> Iterator[str]:
        """Its lines."""
        yield from _head(name, "histogram", what)
        total = 0
        for bound, count in zip((*map(str, SECONDS), "+Inf"), self.counts):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self.sum:.6f}"
        yield f"{name}_count {total}"


class Metrics:
    """What a server has done. Belongs to one thread.

    answered        requests to /invocations, by HTTP status
    seconds         what those with status 200 took, from the headers to the answer
    network         what the network took of that
    in_flight       requests that are being worked on
    """

    def __init__(self, engine: str, class_names: ClassNames, side: int) -> None:
        self.model = f'engine="{_escaped(engine)}",classes="{len(class_names)}",side="{side}"'
        self.answered: "Counter[int]" = Counter()
        self.seconds, self.network = Histogram(), Histogram()
        self.in_flight = 0
        self.started = time.time()

    def text(self) -> str:
        """All of it, as /metrics gives it."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        name = "ssd_train_requests_total"
        yield from _head(name, "counter", "Requests to /invocations that were answered, by HTTP status.")
        for status in sorted({200, *self.answered}):
            yield f'{name}{{status="{status}"}} {self.answered[status]}'
        yield from self.seconds.lines("ssd_train_request_seconds", "Seconds from a request to its answer.")
        yield from self.network.lines("ssd_train_network_seconds", "Seconds that the network took for a picture.")
        yield from _one("ssd_train_requests_in_flight", "gauge", "Requests being worked on.", self.in_flight)
        yield from _head("ssd_train_model_info", "gauge", "What runs the model, its classes, its input.")
        yield f"ssd_train_model_info{{{self.model}}} 1"
        yield from _one("process_start_time_seconds", "gauge", "When the server started.", round(self.started, 3))
        yield from _one("process_resident_memory_bytes", "gauge", "Memory in use.", resident_bytes())
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = round(used.ru_utime + used.ru_stime, 3)
        yield from _one("process_cpu_seconds_total", "counter", "Processor time used.", seconds)


def resident_bytes(process: str = "self") -> int:
    """Memory that a process has in use, by its id."""
    pages = Path(f"/proc/{process}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _one(name: str, kind: str, what: str, value: float) -> Iterator[str]:
    yield from _head(name, kind, what)
    yield f"{name} {value}"


def _head(name: str, kind: str, what: str) -> Iterator[str]:
    yield f"# HELP {name} {what}"
    yield f"# TYPE {name} {kind}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
