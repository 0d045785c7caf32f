"""Communication between the processes that train one model.

Gradients go through exchange.py (MXNet's parameter server or Horovod). Counts, losses, decisions of rank 0 and
heartbeats go through peers.py.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Callable, Optional, Sequence, Tuple

import numpy as np

from ssd_train import framework
from ssd_train.config import TrainConfig
from ssd_train.environment import Environment, joined_by
from ssd_train.errors import ConfigError, SsdTrainError, Stopped
from ssd_train.progress import Progress
from ssd_train.training.exchange import HorovodSums, OneHost, ServerSteps, ServerSums
from ssd_train.training.meeting import Place
from ssd_train.training.peers import Peers

INTERRUPTED = 130  # exit code after Ctrl-C


class Cluster:
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

    def __init__(self, exchange: Optional[OneHost] = None) -> None:
        self.exchange = exchange or OneHost()

    @property
    def is_leader(self) -> bool:
        """Return whether this is rank 0."""
        return self.rank == 0

    def total(self, values: Sequence[float]) -> np.ndarray:
        """Return the sum of `values` over all processes, float64 (N,)."""
        return np.asarray(values, dtype=np.float64)

    def total_of_step(self, values: Sequence[float]) -> np.ndarray:
        """Return the sum over the processes that step together: all, or with dist_async only this one."""
        return self.total(values) if self.exchange.together else np.asarray(values, dtype=np.float64)

    def any_asks(self, for_end: bool) -> bool:
        """Return whether any process requests the end of the run; all then raise Stopped."""
        return for_end

    def by_leader(self, do: Callable[[], Any]) -> Any:
        """Call `do` on rank 0 and return its result on all; with several processes the result must be JSON."""
        return do()

    def share_bytes(self, data: bytes) -> bytes:
        """Return rank 0's `data` on all processes."""
        return data

    def require_equal(self, what: str, value: Any, hint: str = "") -> None:
        """Raise SsdTrainError unless `value` is equal on all processes."""

    def heard(self, progress: Progress) -> Progress:
        """Return `progress` on rank 0, a silent one elsewhere."""
        return progress

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, kind: object, error: Optional[BaseException], trace: object) -> None:
        """Close the connections together with the others; on an error, make the others fail too."""


class Joined(Cluster):
    """Several processes; every process must make the same calls in the same order."""

    def __init__(self, peers: Peers, exchange: OneHost, local: Tuple[int, int] = (0, 1)) -> None:
        super().__init__(exchange)
        self.peers = peers
        self.rank, self.size = peers.place.rank, peers.place.size
        self.local_rank, self.local_size = local
        self._agreed = False

    def any_asks(self, for_end: bool) -> bool:
        self._agreed = bool(self.total([for_end])[0])
        return self._agreed

    def total(self, values: Sequence[float]) -> np.ndarray:
        """Sum on rank 0, so that all processes get the same bits."""
        parts = self.peers.gather(np.asarray(values, dtype="<f8").tobytes())
        summed = b"" if parts is None else np.sum([np.frombuffer(part, "<f8") for part in parts], axis=0).tobytes()
        return np.frombuffer(self.peers.share(summed), "<f8")

    def by_leader(self, do: Callable[[], Any]) -> Any:
        return json.loads(self.peers.share(json.dumps(do()).encode("utf-8") if self.is_leader else b""))

    def share_bytes(self, data: bytes) -> bytes:
        return self.peers.share(data)

    def require_equal(self, what: str, value: Any, hint: str = "") -> None:
        """Compare with rank 0's `value`; the error names this host and what differs."""
        expected = self.by_leader(lambda: value)
        self.total([0])  # wait until all have compared
        if expected != value:
            names = self.peers.place.names
            raise SsdTrainError(
                f"{names[self.rank]}: found {what} different from {names[0]}, expected the same on all hosts{hint}"
            )

    def heard(self, progress: Progress) -> Progress:
        return progress if self.is_leader else Progress()

    def __exit__(self, kind: object, error: Optional[BaseException], trace: object) -> None:
        if error is None or (isinstance(error, Stopped) and self._agreed):
            self.total([0])
            self.exchange.close()
            self.peers.leave()
        elif isinstance(error, SsdTrainError):
            self.peers.fail(str(error), error.exit_code)
        else:
            interrupted = isinstance(error, KeyboardInterrupt)
            text = "interrupted" if interrupted else f"{type(error).__name__}: {error}"
            self.peers.fail(" ".join(text.split()), INTERRUPTED if interrupted else 1)


def join(config: TrainConfig, environment: Environment, progress: Progress) -> Tuple[TrainConfig, Cluster]:
    """Connect the processes of this job; return the settings with the kv_store in use, and the cluster.

    Raises:
        ConfigError: no launcher connects the hosts, or the settings contradict it.
        PeerLost: not all processes joined in time.
    """
    engine, processes = joined_by()
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
        progress.warn(f"kv_store: found {config.kv_store!r} on one host; 'device' is used")
        config = dataclasses.replace(config, kv_store="device")
    return config, Cluster()


def _by_server(config: TrainConfig, environment: Environment, processes: int) -> Cluster:
    """Connect one process per host; the launcher has started the servers."""
    mx = framework.mxnet()
    hosts = environment.hosts
    if processes != len(hosts) or environment.host not in hosts:
        raise ConfigError(
            f"hosts: found {environment.host} among {', '.join(hosts)}, expected it among {processes}, the number of "
            "workers of the parameter server"
        )
    place = Place(hosts.index(environment.host), len(hosts), hosts, hosts[0], config.rendezvous_port)
    peers = Peers(place, config.heartbeat_timeout)  # before the kvstore, which has no timeout
    store = mx.kvstore.create(config.kv_store)
    return Joined(peers, ServerSteps(store) if config.kv_store == "dist_async" else ServerSums(store))


def _by_horovod(config: TrainConfig, environment: Environment) -> Cluster:
    """Connect one or several processes per host."""
    if config.kv_store in ("dist_async", "dist_device_sync"):
        raise ConfigError(
            f"kv_store: found {config.kv_store!r} under mpi, which is synchronous, expected 'device', or the "
            "estimator's distribution parameter_server"
        )
    horovod = framework.horovod()
    horovod.init()
    rank, size = horovod.rank(), horovod.size()
    local = (horovod.local_rank(), horovod.local_size())
    if config.mini_batch_size % local[1]:
        raise ConfigError(
            f"mini_batch_size: found {config.mini_batch_size}, expected a multiple of {local[1]}, the number of "
            "processes that share it on a host"
        )
    hosts = environment.hosts
    names = tuple(f"{hosts[number // local[1] % len(hosts)]} (rank {number})" for number in range(size))
    address = hosts[0] if len(hosts) > 1 else "127.0.0.1"
    peers = Peers(Place(rank, size, names, address, config.rendezvous_port), config.heartbeat_timeout)
    return Joined(peers, HorovodSums(horovod), local)
