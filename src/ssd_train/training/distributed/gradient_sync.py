"""Gradient synchronization and weight update: one class for each kind of kvstore.

No class divides: gradients are added, and the loss was divided by the positive anchors of all hosts (step.py).
"""

from __future__ import annotations

from typing import Any, Callable, List, Mapping, Optional, Sequence

from ssd_train import mxnet_compat
from ssd_train.config import TrainConfig

mx = mxnet_compat.mxnet()

_kept: List[Any] = []  # their destructors wait for other hosts, so they are released in order, or never


class LocalSync:
    """The devices of this process alone.

    Attributes:
        together: True if all hosts make each step at once, with equal weights before and after it.
    """

    together = True

    def local_kvstore(self, config: TrainConfig, devices: Sequence[Any]) -> Optional[str]:
        """Return the kvstore type with which MXNet's Trainer adds the gradients of this process's devices."""
        inside = config.kv_store if config.kv_store in ("device", "local") else "device"
        return inside if len(devices) > 1 else None

    def begin(self, trainer: Any, make_optimizer: Callable[[], Any]) -> None:
        """Prepare synchronization, once the initial weights are set.

        Args:
            trainer: MXNet's Trainer.
            make_optimizer: makes the optimizer of a server that updates the weights itself.
        """

    def allreduce(self, trainer: Any) -> None:
        """Replace the gradients on every device by their sum over all devices and hosts."""
        trainer.allreduce_grads()

    def update(self, trainer: Any, divisor: float) -> None:
        """Update the weights with the summed gradients, divided by `divisor`."""
        trainer.update(divisor)

    def pull_weights(self, trainer: Any) -> None:
        """Pull the newest weights, after all hosts have made their steps."""

    def close(self) -> None:
        """Close the connection between the hosts; all must call this together."""


class _ByServer(LocalSync):
    """MXNet's parameter server, reached through a kvstore that must be released in order."""

    def __init__(self, store: Any) -> None:
        self._store: Any = store
        _kept.append(store)

    def close(self) -> None:
        """Release the kvstore; its destructor waits for the other hosts and stops the servers."""
        _kept.remove(self._store)
        self._store = None


class ParameterServerSync(_ByServer):
    """MXNet's parameter server as an allreduce: it adds gradients, and the optimizer runs here.

    (With Trainer's own update_on_kvstore=False, the first step pulled wrong values.)
    """

    def local_kvstore(self, config: TrainConfig, devices: Sequence[Any]) -> Optional[str]:
        """Return None: the parameter server adds the gradients of the devices too."""
        return None

    def begin(self, trainer: Any, make_optimizer: Callable[[], Any]) -> None:
        """Create a key for each parameter's gradient."""
        zeros = [mx.nd.zeros(parameter.shape) for parameter in trainer._params]
        self._store.init(list(range(len(zeros))), zeros)

    def allreduce(self, trainer: Any) -> None:
        """Push and pull each gradient.

        The first layers, which the next step needs first, have the highest priority.
        """
        for key, parameter in enumerate(trainer._params):
            gradients = parameter.list_grad()
            self._store.push(key, gradients, priority=-key)
            self._store.pull(key, out=gradients, priority=-key)


class AsyncParameterServer(_ByServer):
    """MXNet's parameter server with the optimizer (dist_async).

    The server makes a step for every host's gradient; no host waits for another.
    """

    together = False

    def begin(self, trainer: Any, make_optimizer: Callable[[], Any]) -> None:
        """Put the weights and the optimizer on the servers."""
        keys = list(range(len(trainer._params)))
        self._store.init(keys, [parameter.list_data()[0] for parameter in trainer._params])
        if self._store.rank == 0:  # a second call would reset the optimizer
            self._store.set_optimizer(make_optimizer())
        self._store._barrier()
        self.pull_weights(trainer)

    def update(self, trainer: Any, divisor: float) -> None:
        """Push this host's gradients, with which the server makes a step, and pull the updated weights."""
        for key, parameter in enumerate(trainer._params):
            self._store.push(key, parameter.list_grad()[0] / divisor, priority=-key)
            self._store.pull(key, out=parameter.list_data(), priority=-key)

    def pull_weights(self, trainer: Any) -> None:
        """Pull the weights."""
        for key, parameter in enumerate(trainer._params):
            self._store.pull(key, out=parameter.list_data(), priority=-key)


class HorovodSync(LocalSync):
    """Horovod adds the gradients of all processes, after those of the devices of each."""

    def __init__(self, horovod: Any) -> None:
        self._horovod = horovod

    def allreduce(self, trainer: Any) -> None:
        """Add the gradients of the devices, then of the processes, and copy the sum to the other devices."""
        trainer.allreduce_grads()
        for key, parameter in enumerate(trainer._params):
            gradients = parameter.list_grad()
            self._horovod.allreduce_(gradients[0], average=False, name=f"gradient{key}", priority=-key)
            for other in gradients[1:]:
                gradients[0].copyto(other)

    def close(self) -> None:
        """Shut Horovod down, once MXNet's pending operations are done."""
        mx.nd.waitall()
        self._horovod.shutdown()


def server_optimizer(config: TrainConfig, settings: Mapping[str, float], updates: int, updates_done: int) -> Any:
    """Return the optimizer that runs on a server (dist_async).

    The server only knows its number of updates, so the learning rate follows MXNet's own schedulers. The moments on the
    server cannot be saved, so a resumed run starts with empty ones. The update count therefore starts at 0 too, and the
    schedule is shifted: with a count of `updates_done`, Adam would not correct the bias of empty moments, and its first
    updates would be up to 6 times the learning rate.

    Args:
        config: settings of the run.
        settings: keyword arguments of the optimizer.
        updates: number of updates in an epoch.
        updates_done: number of finished updates.
    """
    total = config.epochs * updates
    warm = {"base_lr": config.learning_rate, "warmup_steps": min(int(config.warmup_epochs * updates), total - 1)}
    if config.schedule == "step":
        steps = [epoch * updates for epoch in config.lr_steps or ()]
        course = mx.lr_scheduler.MultiFactorScheduler(steps, config.lr_scheduler_factor, **warm)
        course.step = [step - updates_done for step in steps]
    elif config.schedule == "cosine":
        course = mx.lr_scheduler.CosineScheduler(total, **warm)
        course.max_update -= updates_done  # the length of the curve, max_steps, stays
    else:
        course = mx.lr_scheduler.FactorScheduler(total + 1, 1.0, **warm)
    if course.warmup_steps:
        course.warmup_begin_lr = config.learning_rate * min(updates_done / course.warmup_steps, 1.0)
    course.warmup_steps -= updates_done
    return mx.optimizer.create(config.optimizer, lr_scheduler=course, **settings)
