"""Work that may never end, done within a time limit: a file on a network share or a dying disk can stand still.

It is done by a thread beside the one that wants it, kept for the next time. One that stands still is left to itself:
it is a daemon, so it does not hold up the end of the program.
"""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple, TypeVar

from ssd_train.errors import DataError
from ssd_train.parallel import in_order

Item = TypeVar("Item")
Result = TypeVar("Result")
Asked = Optional[Tuple["Future[Any]", Callable[[], Any]]]

_TOGETHER = 32  # glances at files that one time limit stands for: handing one over costs as much as a glance
_TRIAL = 8  # such groups, by which one thread is compared with several


class _Late(DataError):
    """Nothing came in time."""


class _Helper:
    """A thread that does one piece of work after the other. It leaves when this is no longer wanted, which is when the
    thread that wanted it ends."""

    def __init__(self) -> None:
        self._asked: "queue.SimpleQueue[Asked]" = queue.SimpleQueue()
        threading.Thread(target=_serve, args=(self._asked,), name="patience", daemon=True).start()

    def begin(self, work: Callable[[], Any]) -> "Future[Any]":
        """What `work` will come to."""
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
        except BaseException as error:  # whatever it is, it belongs to the thread that waits
            future.set_exception(error)
        del wanted, future, work  # what was read is not kept until the next time


_own = threading.local()  # .helper: that of each thread; .waited_for: whether the thread is itself a helper


def in_time(work: Callable[[], Result], seconds: float, where: str) -> Result:
    """What `work` returns or raises, if it does so within `seconds` (0: no limit; part of work with a limit has that
    one's).

    Raises:
        DataError: it did not; begins with `where`.
    """
    if not seconds or getattr(_own, "waited_for", False):
        return work()
    if getattr(_own, "helper", None) is None:
        _own.helper = _Helper()
    future = _own.helper.begin(work)
    try:
        return future.result(seconds)
    except NotInTime:
        if future.done():  # at the last moment, or the error is the work's own
            return future.result()
        _own.helper = None  # the next work has another
        raise _Late(f"{where}: nothing came within {seconds:g} s, expected a disk that answers") from None


def glances_in_order(
    glance: Callable[[Item], Result], items: Sequence[Item], workers: int, seconds: float
) -> Iterator[Result]:
    """glance(item) for each item, in order, by up to `workers` threads: as parallel.in_order, for what is mostly short.

    Several are for disks that have to be waited for, and for work that lets go of the interpreter; where there is
    little of it, threads hinder each other and one is faster. Which it is here is tried with the first items.

    `glance` waits for a file by `in_time`. Many of them share one limit of `seconds`; where they miss it, what is left
    is done one by one, so that the one that stands still is told by its name. Of these only the one at which the limit
    was missed is done twice.
    """

    def together(some: Sequence[Item]) -> List[Result]:
        """What `some` are found to be: by one wait, and those that are not found by then by one for each."""
        found: List[Result] = []
        given_up = threading.Event()

        def one_after_the_other() -> None:
            """Find all of them, unless nobody waits any more."""
            for item in some:
                if given_up.is_set():
                    return
                found.append(glance(item))

        try:
            in_time(one_after_the_other, seconds, "")
            return found
        except _Late:
            given_up.set()
            first = list(found)
            return first + [glance(item) for item in some[len(first) :]]

    groups = [items[start : start + _TOGETHER] for start in range(0, len(items), _TOGETHER)]
    took = {}
    for number, count in enumerate((1, 1, workers)):  # the first time it is what all that is done once takes
        begun = time.perf_counter()
        for results in in_order(together, groups[number * _TRIAL : (number + 1) * _TRIAL], count, at_once=1):
            yield from results
        took[count] = time.perf_counter() - begun
    for results in in_order(together, groups[3 * _TRIAL :], min(took, key=lambda count: took[count]), at_once=1):
        yield from results
