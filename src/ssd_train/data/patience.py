"""Work that may never end, done within a time limit: a file on a network share or a dying disk can stand still.

It is done by a thread beside the one that wants it, kept for the next time. One that stands still is left to itself:
it is a daemon, so it does not hold up the end of the program.
"""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from typing import Any, Callable, Optional, Tuple, TypeVar

from ssd_train.errors import DataError

Result = TypeVar("Result")
Asked = Optional[Tuple["Future[Any]", Callable[[], Any]]]


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


_own = threading.local()  # .helper: that of each thread


def in_time(work: Callable[[], Result], seconds: float, where: str) -> Result:
    """What `work` returns or raises, if it does so within `seconds` (0: no limit).

    Raises:
        DataError: it did not; begins with `where`.
    """
    if not seconds:
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
        raise DataError(f"{where}: nothing came within {seconds:g} s, expected a disk that answers") from None
