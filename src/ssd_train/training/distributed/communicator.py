"""Communication between the processes that train one model.

Gradients go through MXNet's parameter server or Horovod, with one class for each kind of kvstore. No class divides:
gradients are added, and the loss was divided by the positive anchors of all hosts (step.py). Counts, losses, decisions
of rank 0 and heartbeats go through rendezvous.py and heartbeat.py.
"""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any, Callable, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from ssd_train import mxnet_compat
from ssd_train.config import TrainConfig, check_for_mpi
from ssd_train.environment import Environment, detect_launcher
from ssd_train.errors import ConfigError, SsdTrainError, TrainingInterrupted, WorkerLost
from ssd_train.progress import Progress
from ssd_train.training.distributed.heartbeat import Heartbeat, end_at_exit
from ssd_train.training.distributed.rendezvous import JOIN_SECONDS, RankInfo, receive, rendezvous, send

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
    warm = {"base_lr": config.base_learning_rate, "warmup_steps": min(int(config.warmup_epochs * updates), total - 1)}
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
        course.warmup_begin_lr = config.base_learning_rate * min(updates_done / course.warmup_steps, 1.0)
    course.warmup_steps -= updates_done
    return mx.optimizer.create(config.optimizer, lr_scheduler=course, **settings)


class ControlGroup:
    """The connections of one process: rank 0 has one to each worker, a worker one to rank 0."""

    def __init__(self, rank_info: RankInfo, heartbeat_timeout: float, join_seconds: float = JOIN_SECONDS) -> None:
        """Wait until all processes have joined.

        Raises:
            PeerLost: not all processes joined within `join_seconds`.
            ConfigError: a process is of another version or job, or has the rank of another.
        """
        self.rank_info = rank_info
        deadline = time.monotonic() + join_seconds
        self._talk, watch = rendezvous(rank_info, deadline)
        named = {rank_info.names[rank]: link for rank, link in watch.items()}
        self.watchdog = Heartbeat(named, rank_info.names[rank_info.rank], heartbeat_timeout)
        self.watchdog.start()

    def gather(self, payload: bytes) -> Optional[List[bytes]]:
        """Return the payloads of all processes by rank on rank 0; None elsewhere."""
        if self.rank_info.rank:
            self._send(0, payload)
            return None
        return [payload, *(self._receive(rank) for rank in range(1, self.rank_info.size))]

    def broadcast(self, payload: bytes) -> bytes:
        """Return rank 0's payload on all processes."""
        if self.rank_info.rank:
            return self._receive(0)
        for rank in self._talk:
            self._send(rank, payload)
        return payload

    def close(self) -> None:
        """Close the connections after all processes have called this."""
        self.gather(b"")
        self.broadcast(b"")
        self.watchdog.stop()
        self._close()

    def abort(self, message: str, code: int) -> None:
        """Tell the others why this process fails; they end with exit code `code`, as this one will."""
        self.watchdog.notify_failure(message, code)
        end_at_exit(code)

    def _send(self, rank: int, payload: bytes) -> None:
        try:
            send(self._talk[rank], payload)
        except OSError as error:
            raise self._lost(rank, error) from None

    def _receive(self, rank: int) -> bytes:
        try:
            return receive(self._talk[rank])
        except OSError as error:
            raise self._lost(rank, error) from None

    def _lost(self, rank: int, error: OSError) -> WorkerLost:
        self.watchdog.known.wait(1.0)  # the reason may still arrive
        message = self.watchdog.lost or f"host {self.rank_info.names[rank]} is gone: {error}"
        return WorkerLost(message, self.watchdog.code)

    def _close(self) -> None:
        for link in self._talk.values():
            link.close()


INTERRUPTED = 130  # exit code after Ctrl-C


class Communicator:
    """A single process; the base class of several.

    Attributes:
        rank: number of this process; rank 0 writes, logs and evaluates.
        size: number of processes.
        local_rank: number of this process on its machine.
        local_size: number of processes on this machine, which share its devices and its mini-batch.
        exchange: gradient synchronization.
    """

    rank, size = 0, 1
    local_rank, local_size = 0, 1

    def __init__(self, exchange: Optional[LocalSync] = None) -> None:
        self.exchange = exchange or LocalSync()

    @property
    def is_main_process(self) -> bool:
        """Return whether this is rank 0."""
        return self.rank == 0

    def allreduce_sum(self, values: Sequence[float]) -> np.ndarray:
        """Return the sum of `values` over all processes, float64 (N,)."""
        return np.asarray(values, dtype=np.float64)

    def allreduce_step(self, values: Sequence[float]) -> np.ndarray:
        """Return the sum over the processes that step together: all, or with dist_async only this one."""
        return self.allreduce_sum(values) if self.exchange.together else np.asarray(values, dtype=np.float64)

    def allreduce_any(self, for_end: bool) -> bool:
        """Return whether any process requests the end of the run; all then raise Stopped."""
        return for_end

    def broadcast_from_rank0(self, do: Callable[[], Any]) -> Any:
        """Call `do` on rank 0 and return its result on all; with several processes the result must be JSON."""
        return do()

    def broadcast_bytes(self, data: bytes) -> bytes:
        """Return rank 0's `data` on all processes."""
        return data

    def assert_same_on_all_ranks(self, what: str, value: Any, hint: str = "") -> None:
        """Raise SsdTrainError unless `value` is equal on all processes."""

    def rank0_progress(self, progress: Progress) -> Progress:
        """Return `progress` on rank 0, a silent one elsewhere."""
        return progress

    def __enter__(self) -> "Communicator":
        return self

    def __exit__(self, kind: object, error: Optional[BaseException], trace: object) -> None:
        """Close the connections together with the others; on an error, make the others fail too."""


class ProcessGroup(Communicator):
    """Several processes; every process must make the same calls in the same order."""

    def __init__(self, peers: ControlGroup, exchange: LocalSync, local: Tuple[int, int] = (0, 1)) -> None:
        super().__init__(exchange)
        self.peers = peers
        self.rank, self.size = peers.rank_info.rank, peers.rank_info.size
        self.local_rank, self.local_size = local
        self._agreed = False

    def allreduce_any(self, for_end: bool) -> bool:
        self._agreed = bool(self.allreduce_sum([for_end])[0])
        return self._agreed

    def allreduce_sum(self, values: Sequence[float]) -> np.ndarray:
        """Sum on rank 0, so that all processes get the same bits."""
        parts = self.peers.gather(np.asarray(values, dtype="<f8").tobytes())
        summed = b"" if parts is None else np.sum([np.frombuffer(part, "<f8") for part in parts], axis=0).tobytes()
        return np.frombuffer(self.peers.broadcast(summed), "<f8")

    def broadcast_from_rank0(self, do: Callable[[], Any]) -> Any:
        return json.loads(self.peers.broadcast(json.dumps(do()).encode("utf-8") if self.is_main_process else b""))

    def broadcast_bytes(self, data: bytes) -> bytes:
        return self.peers.broadcast(data)

    def assert_same_on_all_ranks(self, what: str, value: Any, hint: str = "") -> None:
        """Compare with rank 0's `value`; the error names this host and what differs."""
        expected = self.broadcast_from_rank0(lambda: value)
        self.allreduce_sum([0])  # wait until all have compared
        if expected != value:
            names = self.peers.rank_info.names
            raise SsdTrainError(
                f"{names[self.rank]}: found {what} different from {names[0]}, expected the same on all hosts{hint}"
            )

    def rank0_progress(self, progress: Progress) -> Progress:
        return progress if self.is_main_process else Progress()

    def __exit__(self, kind: object, error: Optional[BaseException], trace: object) -> None:
        if error is None or (isinstance(error, TrainingInterrupted) and self._agreed):
            self.allreduce_sum([0])
            self.exchange.close()
            self.peers.close()
        elif isinstance(error, SsdTrainError):
            self.peers.abort(str(error), error.exit_code)
        else:
            interrupted = isinstance(error, KeyboardInterrupt)
            text = "interrupted" if interrupted else f"{type(error).__name__}: {error}"
            self.peers.abort(" ".join(text.split()), INTERRUPTED if interrupted else 1)


def init_distributed(
    config: TrainConfig, environment: Environment, progress: Progress
) -> Tuple[TrainConfig, Communicator]:
    """Connect the processes of this job; return the settings with the kv_store in use, and the cluster.

    Raises:
        ConfigError: no launcher connects the hosts, or the settings contradict it.
        PeerLost: not all processes joined in time.
    """
    engine, processes = detect_launcher()
    if engine == "parameter_server":
        kind = config.kv_store if config.kv_store.startswith("dist_") else "dist_sync"
        config = dataclasses.replace(config, kv_store=kind)
        return config, _by_server(config, environment, processes)
    if engine == "mpi":
        return config, _by_horovod(config, environment)
    if len(environment.hosts) > 1:
        raise ConfigError(
            f"hosts: found {', '.join(environment.hosts)} without a launcher, expected the estimator's "
            "distribution={'parameter_server': {'enabled': True}} or {'mpi': {'enabled': True}}"
        )
    if config.kv_store.startswith("dist_"):
        progress.warning(f"kv_store: found {config.kv_store!r} on one host; 'device' is used")
        config = dataclasses.replace(config, kv_store="device")
    return config, Communicator()


def _by_server(config: TrainConfig, environment: Environment, processes: int) -> Communicator:
    """Connect one process per host; the launcher has started the servers."""
    mx = mxnet_compat.mxnet()
    hosts = environment.hosts
    if processes != len(hosts) or environment.host not in hosts:
        raise ConfigError(
            f"hosts: found {environment.host} among {', '.join(hosts)}, expected it among {processes}, the number of "
            "workers of the parameter server"
        )
    rank_info = RankInfo(hosts.index(environment.host), len(hosts), hosts, hosts[0], config.rendezvous_port)
    peers = ControlGroup(rank_info, config.heartbeat_timeout)  # before the kvstore, which has no timeout
    store = mx.kvstore.create(config.kv_store)
    return ProcessGroup(
        peers, AsyncParameterServer(store) if config.kv_store == "dist_async" else ParameterServerSync(store)
    )


def _by_horovod(config: TrainConfig, environment: Environment) -> Communicator:
    """Connect one or several processes per host."""
    check_for_mpi(config, 1)  # before Horovod is needed, which says how many processes there are
    horovod = mxnet_compat.horovod()
    horovod.init()
    rank, size = horovod.rank(), horovod.size()
    local = (horovod.local_rank(), horovod.local_size())
    check_for_mpi(config, local[1])
    hosts = environment.hosts
    names = tuple(f"{hosts[number // local[1] % len(hosts)]} (rank {number})" for number in range(size))
    address = hosts[0] if len(hosts) > 1 else "127.0.0.1"
    peers = ControlGroup(RankInfo(rank, size, names, address, config.rendezvous_port), config.heartbeat_timeout)
    return ProcessGroup(peers, HorovodSync(horovod), local)
