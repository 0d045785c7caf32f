"""Keeps the state of a run while it trains: after every epoch, every so many minutes, and when it is asked to stop."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, Optional, TypeVar

from ssd_train.errors import Stopped
from ssd_train.progress import Progress
from ssd_train.training.checkpoint import Checkpoints, TrainState

Item = TypeVar("Item")


class Heeding(Progress):
    """Another progress, with a look at the request to stop before each piece of long work: for the parts of a run that
    have nothing to save. A Stopped says `when` it was."""

    def __init__(self, progress: Progress, should_stop: Callable[[], bool], when: str) -> None:
        self._progress, self._should_stop, self._when = progress, should_stop, when
        self.say, self.warn = progress.say, progress.warn  # type: ignore[method-assign]

    def track(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        """Yield the items; Stopped, after the one at hand, on request."""
        for item in self._progress.track(items, total, what):
            if self._should_stop():
                raise Stopped(f"stopped on request {self._when}")
            yield item


class Keeper:
    """Saves `state` with `learner`'s weights and the best model so far, which is in `model_dir`.

    checkpoints     where to; None: nothing is saved
    minutes         between two saves inside an epoch; 0: none there
    should_stop     asked between two steps
    """

    def __init__(
        self,
        state: TrainState,
        learner: Any,
        model_dir: Path,
        checkpoints: Optional[Checkpoints],
        minutes: float,
        should_stop: Callable[[], bool],
    ) -> None:
        self.state, self.learner, self.model_dir = state, learner, model_dir
        self.checkpoints, self.minutes, self.should_stop = checkpoints, minutes, should_stop
        self._saved = time.monotonic()

    def save(self) -> None:
        """Save the state as it is, when the step on its way has come to its end."""
        if self.checkpoints:
            self.checkpoints.save(self.state, self.learner, self.model_dir)
        self._saved = time.monotonic()

    def between_steps(self) -> None:
        """Save when it is time; a Stopped, after saving, when the run is to end here: on all hosts after the same step.
        (With dist_async hosts have no steps in common, so that they end between two epochs.)"""
        if self.learner.cluster.exchange.together:
            self.stop_if_asked()
        if self.learner.cluster.total_of_step([self._is_due()])[0]:  # a step on its way comes to its end on all hosts
            self.save()

    def _is_due(self) -> bool:
        passed = time.monotonic() - self._saved
        return bool(self.checkpoints and self.minutes) and passed >= 60 * self.minutes

    def after_epoch(self) -> None:
        """Save; where steps are not made together, end here when any host is to."""
        self.save()
        if not self.learner.cluster.exchange.together:
            self.stop_if_asked()

    def stop_if_asked(self) -> None:
        """A Stopped, after saving, when any host is to end; all ask at once."""
        if self.learner.cluster.any_asks(self.should_stop()):
            self.save()
            raise Stopped(f"stopped on request after {self.state}")

    def watched(self, items: Iterable[Item]) -> Iterator[Item]:
        """`items`, with a look at the request to stop before each, where no other host would have to look too."""
        for item in items:
            if self.learner.cluster.size == 1:
                self.stop_if_asked()
            yield item
