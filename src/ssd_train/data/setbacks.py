"""Images that were there when a run began and cannot be used any more, met as --on_bad_data says."""

from __future__ import annotations

import threading
from typing import Callable, Hashable, Iterable, List, Optional, Set, Tuple, TypeVar

from ssd_train.errors import DataError
from ssd_train.progress import Progress

Key = TypeVar("Key", bound=Hashable)
Sample = TypeVar("Sample")

MOST = 0.5  # of the images; beyond it the data is gone rather than bad


class Setbacks:
    """Tells each image that is left out once; an error where none may be, or too many are.

    total       images of the data set
    on_bad      "error" or "skip"
    """

    def __init__(self, total: int, on_bad: str = "error", progress: Optional[Progress] = None) -> None:
        self._total, self._on_bad, self._progress = total, on_bad, progress or Progress()
        self._left_out: Set[Hashable] = set()
        self._lock = threading.Lock()

    def first_usable(self, keys: Iterable[Key], make: Callable[[Key], Sample]) -> Tuple[Key, Sample]:
        """The first of `keys` of which a sample can be made, and that sample. What is left out for good is not tried
        again in each epoch, so that a disk that answers slowly does not hold up all of them."""
        for key in keys:
            if key in self._left_out:
                continue
            try:
                return key, make(key)
            except DataError as fault:
                self._leave_out(key, fault, "another takes its place")
        raise DataError(f"found none of {self._total} images that can still be used, expected some")

    def usable(self, keys: Iterable[Key], make: Callable[[Key], Sample]) -> "List[Tuple[Key, Sample]]":
        """Those of `keys` of which a sample can be made, with it."""
        found = []
        for key in keys:
            if key in self._left_out:
                continue
            try:
                found.append((key, make(key)))
            except DataError as fault:
                self._leave_out(key, fault, "scores are without it")
        return found

    def _leave_out(self, key: Hashable, fault: DataError, consequence: str) -> None:
        if self._on_bad == "error":
            raise fault
        with self._lock:
            known = key in self._left_out
            self._left_out.add(key)
            count = len(self._left_out)
        if count > MOST * self._total:
            raise DataError(f"{fault}: {count} of {self._total} images cannot be used any more, expected most of them")
        if not known:
            self._progress.warn(f"left out: {fault}; {consequence}")
