"""Control messages between the hosts of a job, in a star around rank 0.

Counts, losses, scores and decisions of rank 0 are small and go through sockets of our own, because MXNet's parameter
server only adds arrays. Nothing is pickled. As with MXNet's and Horovod's connections, whoever reaches rank 0's port
could take part, so it must be in a private network, as in a SageMaker job.
"""

from __future__ import annotations

import time
from typing import List, Optional

from ssd_train.errors import PeerLost
from ssd_train.training.meeting import JOIN_SECONDS, Place, meet, receive, send
from ssd_train.training.watchdog import Watchdog, end_at_exit


class Peers:
    """The connections of one process: rank 0 has one to each worker, a worker one to rank 0."""

    def __init__(self, place: Place, heartbeat_timeout: float, join_seconds: float = JOIN_SECONDS) -> None:
        """Wait until all processes have joined.

        Raises:
            PeerLost: not all processes joined within `join_seconds`.
            ConfigError: a process is of another version or job, or has the rank of another.
        """
        self.place = place
        deadline = time.monotonic() + join_seconds
        self._talk, watch = meet(place, deadline)
        named = {place.names[rank]: link for rank, link in watch.items()}
        self.watchdog = Watchdog(named, place.names[place.rank], heartbeat_timeout)
        self.watchdog.start()

    def gather(self, payload: bytes) -> Optional[List[bytes]]:
        """Return the payloads of all processes by rank on rank 0; None elsewhere."""
        if self.place.rank:
            self._send(0, payload)
            return None
        return [payload, *(self._receive(rank) for rank in range(1, self.place.size))]

    def share(self, payload: bytes) -> bytes:
        """Return rank 0's payload on all processes."""
        if self.place.rank:
            return self._receive(0)
        for rank in self._talk:
            self._send(rank, payload)
        return payload

    def leave(self) -> None:
        """Close the connections after all processes have called this."""
        self.gather(b"")
        self.share(b"")
        self.watchdog.leave()
        self._close()

    def fail(self, message: str, code: int) -> None:
        """Tell the others why this process fails; they end with exit code `code`, as this one will."""
        self.watchdog.tell(message, code)
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

    def _lost(self, rank: int, error: OSError) -> PeerLost:
        self.watchdog.known.wait(1.0)  # the reason may still arrive
        message = self.watchdog.lost or f"host {self.place.names[rank]} is gone: {error}"
        return PeerLost(message, self.watchdog.code)

    def _close(self) -> None:
        for link in self._talk.values():
            link.close()
