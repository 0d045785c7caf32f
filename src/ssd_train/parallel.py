"""Ordered parallel map with threads.

Threads, because OpenCV and NumPy release the GIL, nothing has to be pickled, and forking a process with a running MXNet
engine can deadlock.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Callable, Deque, Iterator, List, Sequence, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_CHUNK = 16  # items per task; the overhead of a task is about 50 us


def in_order(
    make: Callable[[Item], Result], items: Sequence[Item], workers: int, at_once: int = _CHUNK
) -> Iterator[Result]:
    """Yield make(item) for each item, in order, computed by threads.

    Only 2 * workers tasks are queued, so that memory is bounded and an interrupt takes effect soon.

    Args:
        make: Function of an item; its exceptions are raised by the iterator.
        items: The items.
        workers: Number of threads.
        at_once: Number of items per task.
    """
    chunks = [items[start : start + at_once] for start in range(0, len(items), at_once)]
    waiting: Deque["Future[List[Result]]"] = deque()

    def work(chunk: Sequence[Item]) -> List[Result]:
        """Process the items of one task."""
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
