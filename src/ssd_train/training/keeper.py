"""Save checkpoints during training, and stop training on request."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, Optional, TypeVar

from ssd_train.errors import Stopped
from ssd_train.progress import Progress
from ssd_train.training.checkpoint import Checkpoints, TrainState

Item = TypeVar("Item")


class Heeding(Progress):
    """Progress that raises Stopped when a stop was requested; used outside the training loop.

    Args:
        progress: the progress to wrap.
        should_stop: returns True if a stop was requested.
        when: the stage of the run, for the message.
    """

    def __init__(self, progress: Progress, should_stop: Callable[[], bool], when: str) -> None:
        self._progress, self._should_stop, self._when = progress, should_stop, when
        self.say, self.warn = progress.say, progress.warn  # type: ignore[method-assign]

    def track(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        """Yield the items; raise Stopped between two of them on request."""
        for item in self._progress.track(items, total, what):
            if self._should_stop():
                raise Stopped(f"stopped on request {self._when}")
            yield item


class Keeper:
    """Saves checkpoints and handles stop requests.

    Args:
        state: the training state to save.
        learner: holds the weights and the optimizer.
        model_dir: folder of the best model.
        checkpoints: where states are saved; None: nowhere.
        minutes: time between two checkpoints within an epoch; 0: none within epochs.
        should_stop: returns True if a stop was requested.
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
        """Save the state now."""
        if self.checkpoints:
            self.checkpoints.save(self.state, self.learner, self.model_dir)
        self._saved = time.monotonic()

    def between_steps(self) -> None:
        """Save if it is due; on request, save and raise Stopped, on all hosts after the same step.

        With dist_async, hosts do not step together and stop only between epochs.
        """
        if self.learner.cluster.exchange.together:
            self.stop_if_asked()
        if self.learner.cluster.total_of_step([self._is_due()])[0]:
            self.save()

    def _is_due(self) -> bool:
        elapsed = time.monotonic() - self._saved
        return bool(self.checkpoints and self.minutes) and elapsed >= 60 * self.minutes

    def after_epoch(self) -> None:
        """Save; with dist_async, stop here if any host has a request."""
        self.save()
        if not self.learner.cluster.exchange.together:
            self.stop_if_asked()

    def stop_if_asked(self) -> None:
        """Save and raise Stopped if any host has a stop request; all hosts must call this together."""
        if self.learner.cluster.any_asks(self.should_stop()):
            self.save()
            raise Stopped(f"stopped on request after {self.state}")

    def watched(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield `items`; on a single host, stop between two of them on request."""
        for item in items:
            if self.learner.cluster.size == 1:
                self.stop_if_asked()
            yield item
