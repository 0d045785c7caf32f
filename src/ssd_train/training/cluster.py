"""Cluster: the processes that train one model together. One alone is the trivial form; several have engines behind it.

gradients       through exchange.py: MXNet's parameter server or Horovod
all else        through peers.py: counts, losses, the leader's decisions, and the watch over each other
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

INTERRUPTED = 130  # what the command line returns after Ctrl-C


class Cluster:
    """This process alone.

    rank, size                  number of this process, of how many; 0 leads: it alone writes, tells and scores
    local_rank, local_size      the same among those of this machine, which share its devices and its mini-batch
    exchange                    how gradients come together
    """

    rank, size = 0, 1
    local_rank, local_size = 0, 1

    def __init__(self, exchange: Optional[OneHost] = None) -> None:
        self.exchange = exchange or OneHost()

    @property
    def is_leader(self) -> bool:
        """Whether this process writes, tells and scores for all."""
        return self.rank == 0

    def total(self, values: Sequence[float]) -> np.ndarray:
        """The sum of everybody's values, float64 (N,)."""
        return np.asarray(values, dtype=np.float64)

    def total_of_step(self, values: Sequence[float]) -> np.ndarray:
        """The sum over those who make a step together: all, or with dist_async this process alone."""
        return self.total(values) if self.exchange.together else np.asarray(values, dtype=np.float64)

    def any_asks(self, for_end: bool) -> bool:
        """Whether any process asks for the end of the run; `for_end`: whether this one does. All then raise Stopped."""
        return for_end

    def by_leader(self, do: Callable[[], Any]) -> Any:
        """What `do` returns on the leader, everywhere; where there are others it has to be fit for JSON."""
        return do()

    def share_bytes(self, data: bytes) -> bytes:
        """What the leader has given, everywhere."""
        return data

    def require_equal(self, what: str, value: Any, hint: str = "") -> None:
        """A SsdTrainError unless all have the leader's `value`."""

    def heard(self, progress: Progress) -> Progress:
        """`progress` on the leader; elsewhere one that is silent."""
        return progress

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, kind: object, error: Optional[BaseException], trace: object) -> None:
        """All leave together; one that fails tells the others, who then end too."""


class Joined(Cluster):
    """Several processes, each of which makes every call, in the same order."""

    def __init__(self, peers: Peers, exchange: OneHost, local: Tuple[int, int] = (0, 1)) -> None:
        super().__init__(exchange)
        self.peers = peers
        self.rank, self.size = peers.place.rank, peers.place.size
        self.local_rank, self.local_size = local
        self._agreed = False

    def any_asks(self, for_end: bool) -> bool:
        """Whether one of all asks, told to everybody, so that all leave after the same step."""
        self._agreed = bool(self.total([for_end])[0])
        return self._agreed

    def total(self, values: Sequence[float]) -> np.ndarray:
        """The sum over all processes, float64 (N,), taken by the leader so that everybody has the same bits."""
        parts = self.peers.gather(np.asarray(values, dtype="<f8").tobytes())
        summed = b"" if parts is None else np.sum([np.frombuffer(part, "<f8") for part in parts], axis=0).tobytes()
        return np.frombuffer(self.peers.share(summed), "<f8")

    def by_leader(self, do: Callable[[], Any]) -> Any:
        """What `do` returned on the leader, sent to all as JSON."""
        return json.loads(self.peers.share(json.dumps(do()).encode("utf-8") if self.is_leader else b""))

    def share_bytes(self, data: bytes) -> bytes:
        """What the leader has given, sent to all."""
        return self.peers.share(data)

    def require_equal(self, what: str, value: Any, hint: str = "") -> None:
        """Compare with the leader's `value`; the SsdTrainError names this host and what differs."""
        expected = self.by_leader(lambda: value)
        self.total([0])  # nobody goes on before all have compared
        if expected != value:
            names = self.peers.place.names
            raise SsdTrainError(
                f"{names[self.rank]}: found other {what} than on {names[0]}, expected the same on all hosts{hint}"
            )

    def heard(self, progress: Progress) -> Progress:
        """`progress` on the leader; elsewhere one that is silent."""
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
    """The processes of this job, waited for, and the settings with the kv_store that joins them.

    Raises:
        ConfigError: the hosts are joined by nothing, or by something else than the settings say; PeerLost: not all
        came.
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
            f"hosts: found {', '.join(environment.hosts)} and nothing that joins them, expected the estimator's "
            "distribution={'parameter_server': {'enabled': True}} or {'mpi': {'enabled': True}}"
        )
    if config.kv_store.startswith("dist_"):
        progress.warn(f"kv_store: found {config.kv_store!r} on one host, where it means 'device'")
        config = dataclasses.replace(config, kv_store="device")
    return config, Cluster()


def _by_server(config: TrainConfig, environment: Environment, processes: int) -> Cluster:
    """One process a host, beside which the launcher has started servers."""
    mx = framework.mxnet()
    hosts = environment.hosts
    if processes != len(hosts) or environment.host not in hosts:
        raise ConfigError(
            f"hosts: found {environment.host} among {', '.join(hosts)}, expected it among {processes}: so many workers "
            "has the parameter server"
        )
    place = Place(hosts.index(environment.host), len(hosts), hosts, hosts[0], config.rendezvous_port)
    peers = Peers(place, config.heartbeat_timeout)  # first: it does not wait for ever
    store = mx.kvstore.create(config.kv_store)
    return Joined(peers, ServerSteps(store) if config.kv_store == "dist_async" else ServerSums(store))


def _by_horovod(config: TrainConfig, environment: Environment) -> Cluster:
    """One or several processes a host."""
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
            f"mini_batch_size: found {config.mini_batch_size}, expected a multiple of {local[1]}, which is how many "
            "processes share it on a host"
        )
    hosts = environment.hosts
    names = tuple(f"{hosts[number // local[1] % len(hosts)]} (rank {number})" for number in range(size))
    address = hosts[0] if len(hosts) > 1 else "127.0.0.1"
    peers = Peers(Place(rank, size, names, address, config.rendezvous_port), config.heartbeat_timeout)
    return Joined(peers, HorovodSums(horovod), local)
