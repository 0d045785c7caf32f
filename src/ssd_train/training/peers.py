"""The hosts of a job joined in a star around its leader: what they tell each other beside gradients.

Counts, losses, scores, and the leader's decisions are small and go through sockets of our own, because MXNet's
parameter server has only sums of arrays. Nothing is pickled. As with MXNet's and Horovod's own connections, whoever
reaches the leader's port could take part: it belongs into a private network, as a SageMaker job's is.
"""

from __future__ import annotations

import time
from typing import List, Optional

from ssd_train.errors import PeerLost
from ssd_train.training.meeting import JOIN_SECONDS, Place, meet, receive, send
from ssd_train.training.watchdog import Watchdog, end_at_exit


class Peers:
    """The connections of one process: the leader has one to each of the others, these one to the leader."""

    def __init__(self, place: Place, peer_timeout: float, join_seconds: float = JOIN_SECONDS) -> None:
        """Wait until all have joined.

        Raises:
            PeerLost: not all have within `join_seconds`; ConfigError: one is of another version, or of another job, or
            a second one of its rank.
        """
        self.place = place
        deadline = time.monotonic() + join_seconds
        self._talk, watch = meet(place, deadline)
        named = {place.names[rank]: link for rank, link in watch.items()}
        self.watchdog = Watchdog(named, place.names[place.rank], peer_timeout)
        self.watchdog.start()

    def gather(self, payload: bytes) -> Optional[List[bytes]]:
        """What all have given, by rank, on the leader; None elsewhere."""
        if self.place.rank:
            self._send(0, payload)
            return None
        return [payload, *(self._receive(rank) for rank in range(1, self.place.size))]

    def share(self, payload: bytes) -> bytes:
        """What the leader has given, everywhere."""
        if self.place.rank:
            return self._receive(0)
        for rank in self._talk:
            self._send(rank, payload)
        return payload

    def leave(self) -> None:
        """Go in good order, after all have come here."""
        self.gather(b"")
        self.share(b"")
        self.watchdog.leave()
        self._close()

    def fail(self, message: str, code: int) -> None:
        """Tell the others why this process cannot go on; it will end with exit code `code`, and so will they."""
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
        self.watchdog.known.wait(1.0)  # it may have been told why
        message = self.watchdog.lost or f"host {self.place.names[rank]} is gone: {error}"
        return PeerLost(message, self.watchdog.code)

    def _close(self) -> None:
        for link in self._talk.values():
            link.close()
