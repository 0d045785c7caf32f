"""How the gradients of all devices and hosts come together and the weights are updated: one class for each way.

Who divides: nobody here. All of them add, and the loss was divided by the positive anchors of all hosts (engine.py).
"""

from __future__ import annotations

from typing import Any, Callable, List, Mapping, Optional, Sequence

from ssd_train import framework
from ssd_train.config import TrainConfig

mx = framework.mxnet()

_kept: List[Any] = []  # stores whose end would wait for other hosts; let go in good order, or never


class OneHost:
    """The devices of this process alone.

    together    whether all hosts make each step at once, with equal weights before and after it
    """

    together = True

    def local_store(self, config: TrainConfig, devices: Sequence[Any]) -> Optional[str]:
        """What adds up the gradients of this process's devices, in the words of MXNet's Trainer."""
        inside = config.kv_store if config.kv_store in ("device", "local") else "device"
        return inside if len(devices) > 1 else None

    def begin(self, trainer: Any, make_optimizer: Callable[[], Any]) -> None:
        """Called once, with the first weights in place. `make_optimizer`: for a server that has its own."""

    def add_up(self, trainer: Any) -> None:
        """Turn the gradients on every device into the sum over all devices and hosts."""
        trainer.allreduce_grads()

    def update(self, trainer: Any, divisor: float) -> None:
        """Update the weights with the gradients that were added up, divided by `divisor`."""
        trainer.update(divisor)

    def settle(self, trainer: Any) -> None:
        """Take the newest weights of all; called when all hosts have made their steps."""

    def close(self) -> None:
        """Let go of what joins the hosts; all do so at once."""


class _ByServer(OneHost):
    """MXNet's parameter server, reached through a `store`, which has to be let go of in good order."""

    def __init__(self, store: Any) -> None:
        self._store: Any = store
        _kept.append(store)

    def close(self) -> None:
        """Let go of the store; its end waits for the other hosts, and stops the servers."""
        _kept.remove(self._store)
        self._store = None


class ServerSums(_ByServer):
    """MXNet's parameter server as an adder: gradients are pushed and pulled on keys of their own, and the optimizer
    stays here. (Trainer's own way to do so, update_on_kvstore=False, pulled wrong values on its first step.)"""

    def local_store(self, config: TrainConfig, devices: Sequence[Any]) -> Optional[str]:
        """None: the store adds up the devices too."""
        return None

    def begin(self, trainer: Any, make_optimizer: Callable[[], Any]) -> None:
        """Make a key for each gradient, by the number of its parameter."""
        zeros = [mx.nd.zeros(parameter.shape) for parameter in trainer._params]
        self._store.init(list(range(len(zeros))), zeros)

    def add_up(self, trainer: Any) -> None:
        """Push and pull each gradient; the first layers, which the next step needs first, have the highest priority."""
        for key, parameter in enumerate(trainer._params):
            gradients = parameter.list_grad()
            self._store.push(key, gradients, priority=-key)
            self._store.pull(key, out=gradients, priority=-key)


class ServerSteps(_ByServer):
    """MXNet's parameter server as the optimizer: every host's gradient is a step of its own, made on the server when it
    arrives, and no host waits for another."""

    together = False

    def begin(self, trainer: Any, make_optimizer: Callable[[], Any]) -> None:
        """Put the weights on the servers, by the number of their parameter, and the optimizer beside them."""
        keys = list(range(len(trainer._params)))
        self._store.init(keys, [parameter.list_data()[0] for parameter in trainer._params])
        if self._store.rank == 0:  # a second one would begin anew
            self._store.set_optimizer(make_optimizer())
        self._store._barrier()
        self.settle(trainer)

    def update(self, trainer: Any, divisor: float) -> None:
        """Push this host's gradients, which the server steps by, and pull the weights as they then are."""
        for key, parameter in enumerate(trainer._params):
            self._store.push(key, parameter.list_grad()[0] / divisor, priority=-key)
            self._store.pull(key, out=parameter.list_data(), priority=-key)

    def settle(self, trainer: Any) -> None:
        """Pull the weights."""
        for key, parameter in enumerate(trainer._params):
            self._store.pull(key, out=parameter.list_data(), priority=-key)


class HorovodSums(OneHost):
    """Horovod adds up the gradients of all processes, after the devices of each."""

    def __init__(self, horovod: Any) -> None:
        self._horovod = horovod

    def add_up(self, trainer: Any) -> None:
        """Add up the devices of this process, then the processes, and copy the sum back to the other devices."""
        trainer.allreduce_grads()
        for key, parameter in enumerate(trainer._params):
            gradients = parameter.list_grad()
            self._horovod.allreduce_(gradients[0], average=False, name=f"gradient{key}", priority=-key)
            for other in gradients[1:]:
                gradients[0].copyto(other)

    def close(self) -> None:
        """Shut Horovod down, after whatever MXNet's engine still runs."""
        mx.nd.waitall()
        self._horovod.shutdown()


def server_optimizer(config: TrainConfig, settings: Mapping[str, float], updates: int, made: int) -> Any:
    """Return the optimizer that a server runs on its own (dist_async).

    It knows of nothing but its number of updates, so that the learning rate follows MXNet's own schedulers. An epoch
    has `updates`; `made` were made before. The server cannot be asked for its moments, so a resumed run begins with
    empty ones. Its count therefore begins at 0 too, and the schedule is moved: with a count of `made` Adam would not
    correct the bias of empty moments, and its first updates would be up to 6 times the rate.
    """
    total = config.epochs * updates
    warm = {"base_lr": config.learning_rate, "warmup_steps": min(int(config.warmup_epochs * updates), total - 1)}
    if config.schedule == "step":
        steps = [epoch * updates for epoch in config.lr_steps or ()]
        course = mx.lr_scheduler.MultiFactorScheduler(steps, config.lr_scheduler_factor, **warm)
        course.step = [step - made for step in steps]
    elif config.schedule == "cosine":
        course = mx.lr_scheduler.CosineScheduler(total, **warm)
        course.max_update -= made  # the length of the curve, max_steps, stays
    else:
        course = mx.lr_scheduler.FactorScheduler(total + 1, 1.0, **warm)
    if course.warmup_steps:
        course.warmup_begin_lr = config.learning_rate * min(made / course.warmup_steps, 1.0)
    course.warmup_steps -= made
    return mx.optimizer.create(config.optimizer, lr_scheduler=course, **settings)
