"""Ordered parallel map with threads.

Threads, because OpenCV and NumPy release the GIL, nothing has to be pickled, and forking a process with a running MXNet
engine can deadlock.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime
from typing import Any, Callable, Deque, Iterable, Iterator, List, Optional, Sequence, Tuple, TypeVar

from ssd_train.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")

_CHUNK = 16  # items per task; the overhead of a task is about 50 us


def ordered_map(
    make: Callable[[Item], Result], items: Iterable[Item], workers: int, at_once: int = _CHUNK, ahead: int = 0
) -> Iterator[Result]:
    """Yield make(item) for each item, in order, computed by threads.

    The number of queued tasks is limited, so that memory is bounded and an interrupt takes effect soon.

    Args:
        make: Function of an item; its exceptions are raised by the iterator.
        items: The items; they are iterated by the consumer's thread.
        workers: Number of threads; 0 calls `make` in the consumer's thread.
        at_once: Number of items per task.
        ahead: Number of tasks that may be queued or done ahead of the consumer; 0 for twice the number of threads.
    """
    if workers == 0:
        yield from map(make, items)
        return
    items = iter(items)
    waiting: Deque["Future[List[Result]]"] = deque()

    def work(chunk: Sequence[Item]) -> List[Result]:
        """Process the items of one task."""
        return [make(item) for item in chunk]

    pool = ThreadPoolExecutor(workers, thread_name_prefix="worker")
    try:
        for chunk in iter(lambda: list(itertools.islice(items, at_once)), []):
            waiting.append(pool.submit(work, chunk))
            if len(waiting) > (ahead or 2 * workers):
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        pool.shutdown(wait=True)


Asked = Optional[Tuple["Future[Any]", Callable[[], Any]]]

_TOGETHER = 32  # items per batch with one time limit: handing over one call costs as much as the call itself
_TRIAL = 8  # batches per measurement that compares one thread with several


class _Late(DataError):
    """The time limit was exceeded."""


class _Helper:
    """A thread that does one piece of work after another.

    The helper thread exits when its owner thread exits.
    """

    def __init__(self) -> None:
        self._asked: "queue.SimpleQueue[Asked]" = queue.SimpleQueue()
        threading.Thread(target=_serve, args=(self._asked,), name="patience", daemon=True).start()

    def begin(self, work: Callable[[], Any]) -> "Future[Any]":
        """Start `work` and return its future."""
        future: "Future[Any]" = Future()
        self._asked.put((future, work))
        return future

    def __del__(self) -> None:
        self._asked.put(None)


def _serve(asked: "queue.SimpleQueue[Asked]") -> None:
    _own.waited_for = True
    while True:
        wanted = asked.get()
        if wanted is None:
            return
        future, work = wanted
        try:
            future.set_result(work())
        except BaseException as error:  # the waiting thread raises it, whatever it is
            future.set_exception(error)
        del wanted, future, work  # do not keep the result alive while waiting for the next work


_own = threading.local()  # .helper: the helper of this thread; .waited_for: whether this thread is a helper


def call_with_timeout(work: Callable[[], Result], seconds: float, where: str) -> Result:
    """Call `work` with a time limit and return its result.

    Args:
        work: Function to call; its exceptions are raised.
        seconds: Time limit; 0 for none. A call from within such work runs under the outer limit only.
        where: Place for messages.

    Raises:
        DataError: The limit was exceeded; the message starts with `where`.
    """
    if not seconds or getattr(_own, "waited_for", False):
        return work()
    if getattr(_own, "helper", None) is None:
        _own.helper = _Helper()
    future = _own.helper.begin(work)
    try:
        return future.result(seconds)
    except NotInTime:
        if future.done():  # finished at the last moment, or the work itself raised TimeoutError
            return future.result()
        _own.helper = None  # the next call starts a new helper
        raise _Late(f"{where}: nothing came within {seconds:g} s, expected a disk that answers") from None


def map_files(
    glance: Callable[[Item], Result], items: Sequence[Item], workers: int, seconds: float
) -> Iterator[Result]:
    """Yield glance(item) for each item in order, with up to `workers` threads.

    In contrast to `ordered_map` it is meant for short work. Several threads help only if the work waits for a disk
    or releases the GIL; otherwise they slow each other down. The first batches decide whether to use one thread or
    `workers`.

    A batch of items shares one time limit. If it is exceeded, the rest of the batch is done item by item, each with its
    own limit, so that the message names the item that blocks. Only the item during which the limit was exceeded is done
    twice.

    Args:
        glance: Function of an item that uses `call_with_timeout` to wait for a file.
        items: The items.
        workers: Maximum number of threads.
        seconds: Time limit of a batch; 0 for none.
    """

    def together(some: Sequence[Item]) -> List[Result]:
        """Process a batch under one limit, and the rest of it item by item if it is late."""
        results: List[Result] = []
        given_up = threading.Event()

        def one_after_the_other() -> None:
            """Process the items of the batch until it is abandoned."""
            for item in some:
                if given_up.is_set():
                    return
                results.append(glance(item))

        try:
            call_with_timeout(one_after_the_other, seconds, "")
            return results
        except _Late:
            given_up.set()
            first = list(results)
            return first + [glance(item) for item in some[len(first) :]]

    groups = [items[start : start + _TOGETHER] for start in range(0, len(items), _TOGETHER)]
    took = {}
    for number, count in enumerate((1, 1, workers)):  # the first measurement is a warm-up
        begun = time.perf_counter()
        for results in ordered_map(together, groups[number * _TRIAL : (number + 1) * _TRIAL], count, at_once=1):
            yield from results
        took[count] = time.perf_counter() - begun
    for results in ordered_map(together, groups[3 * _TRIAL :], min(took, key=lambda count: took[count]), at_once=1):
        yield from results
