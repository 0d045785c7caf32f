"""Handle images that become unusable during training, as --on_bad_data requires."""

from __future__ import annotations

import threading
from typing import Callable, Hashable, Iterable, List, Optional, Set, Tuple, TypeVar

from ssd_train.errors import DataError
from ssd_train.progress import Progress

Key = TypeVar("Key", bound=Hashable)
SampleT = TypeVar("SampleT")

MOST = 0.5  # maximum fraction of unusable images; above it the data has vanished rather than some files being bad


class Setbacks:
    """Handle unusable images: report each one once, or raise an error.

    Args:
        total: Number of images in the dataset.
        on_bad: "error" to raise the first error, "skip" to leave out images unless they are too many.
        progress: Output for warnings.
    """

    def __init__(self, total: int, on_bad: str = "error", progress: Optional[Progress] = None) -> None:
        self._total, self._on_bad, self._progress = total, on_bad, progress or Progress()
        self._left_out: Set[Hashable] = set()
        self._lock = threading.Lock()

    def first_usable(self, keys: Iterable[Key], make: Callable[[Key], SampleT]) -> Tuple[Key, SampleT]:
        """Return the first key for which `make` yields a sample, and the sample.

        Images that were left out are not tried again, so that a slow disk does not delay every epoch.

        Raises:
            DataError: No key is usable, an image is unusable with `on_bad` "error", or too many are.
        """
        for key in keys:
            if key in self._left_out:
                continue
            try:
                return key, make(key)
            except DataError as fault:
                self._leave_out(key, fault, "another takes its place")
        raise DataError(f"found none of {self._total} images that can still be used, expected some")

    def usable(self, keys: Iterable[Key], make: Callable[[Key], SampleT]) -> "List[Tuple[Key, SampleT]]":
        """Return the keys for which `make` yields a sample, with the samples.

        Raises:
            DataError: An image is unusable with `on_bad` "error", or too many are.
        """
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
