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


class ServerSums(OneHost):
    """MXNet's parameter server as an adder: gradients are pushed and pulled on keys of their own, and the optimizer
    stays here. (Trainer's own way to do so, update_on_kvstore=False, pulled wrong values on its first step.)"""

    def __init__(self, store: Any) -> None:
        self._store: Any = store
        _kept.append(store)

    def local_store(self, config: TrainConfig, devices: Sequence[Any]) -> Optional[str]:
        return None  # the store adds up the devices too

    def begin(self, trainer: Any, make_optimizer: Callable[[], Any]) -> None:
        zeros = [mx.nd.zeros(parameter.shape) for parameter in trainer._params]
        self._store.init(list(range(len(zeros))), zeros)

    def add_up(self, trainer: Any) -> None:
        for key, parameter in enumerate(trainer._params):
            gradients = parameter.list_grad()
            self._store.push(key, gradients, priority=-key)
            self._store.pull(key, out=gradients, priority=-key)

    def close(self) -> None:
        _kept.remove(self._store)
        self._store = None  # waits for the other hosts, and stops the servers


class ServerSteps(OneHost):
    """MXNet's parameter server as the optimizer: every host's gradient is a step of its own, made on the server when it
    arrives, and no host waits for another."""

    together = False

    def __init__(self, store: Any) -> None:
        self._store: Any = store
        _kept.append(store)

    def begin(self, trainer: Any, make_optimizer: Callable[[], Any]) -> None:
        keys = list(range(len(trainer._params)))
        self._store.init(keys, [parameter.list_data()[0] for parameter in trainer._params])
        if self._store.rank == 0:  # a second one would begin anew
            self._store.set_optimizer(make_optimizer())
        self._store._barrier()
        self.settle(trainer)

    def update(self, trainer: Any, divisor: float) -> None:
        for key, parameter in enumerate(trainer._params):
            self._store.push(key, parameter.list_grad()[0] / divisor, priority=-key)
            self._store.pull(key, out=parameter.list_data(), priority=-key)

    def settle(self, trainer: Any) -> None:
        for key, parameter in enumerate(trainer._params):
            self._store.pull(key, out=parameter.list_data(), priority=-key)

    def close(self) -> None:
        _kept.remove(self._store)
        self._store = None


class HorovodSums(OneHost):
    """Horovod adds up the gradients of all processes, after the devices of each."""

    def __init__(self, horovod: Any) -> None:
        self._horovod = horovod

    def add_up(self, trainer: Any) -> None:
        trainer.allreduce_grads()
        for key, parameter in enumerate(trainer._params):
            gradients = parameter.list_grad()
            self._horovod.allreduce_(gradients[0], average=False, name=f"gradient{key}", priority=-key)
            for other in gradients[1:]:
                gradients[0].copyto(other)

    def close(self) -> None:
        mx.nd.waitall()
        self._horovod.shutdown()


def server_optimizer(config: TrainConfig, settings: Mapping[str, float], updates: int, made: int) -> Any:
    """The optimizer that a server runs on its own (dist_async): it knows of nothing but its number of updates, of which
    an epoch has `updates` and `made` are made, so that the course of the learning rate goes along by MXNet's own
    schedulers."""
    total = config.epochs * updates
    warm = {"base_lr": config.learning_rate, "warmup_steps": min(int(config.warmup_epochs * updates), total - 1)}
    if config.schedule == "step":
        steps = [epoch * updates for epoch in config.lr_steps or ()]
        course = mx.lr_scheduler.MultiFactorScheduler(steps, config.lr_scheduler_factor, **warm)
    elif config.schedule == "cosine":
        course = mx.lr_scheduler.CosineScheduler(total, **warm)
    else:
        course = mx.lr_scheduler.FactorScheduler(total + 1, 1.0, **warm)
    return mx.optimizer.create(config.optimizer, lr_scheduler=course, begin_num_update=made, **settings)
