"""Work done by threads, in order. Threads, not processes: OpenCV and NumPy let go of the interpreter while they work,
nothing is pickled, and a fork beneath a running MXNet engine, with its hangs, is avoided."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Callable, Deque, Iterator, List, Sequence, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_CHUNK = 16  # short pieces of work that a thread takes at once: handing over one costs some 50 us


def in_order(
    make: Callable[[Item], Result], items: Sequence[Item], workers: int, at_once: int = _CHUNK
) -> Iterator[Result]:
    """make(item) for each item, in order, by `workers` threads that take `at_once` items each and run only a little
    ahead, so that memory is bounded and an interrupt is soon obeyed. What `make` raises is raised here."""
    chunks = [items[start : start + at_once] for start in range(0, len(items), at_once)]
    waiting: Deque["Future[List[Result]]"] = deque()

    def work(chunk: Sequence[Item]) -> List[Result]:
        """What one thread does at once."""
        return [make(item) for item in chunk]

    pool = ThreadPoolExecutor(workers, thread_name_prefix="worker")
    try:
        for chunk in chunks:
            waiting.append(pool.submit(work, chunk))
            if len(waiting) > 2 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        pool.shutdown(wait=True)
