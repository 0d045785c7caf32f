"""How long work tells where it is, without knowing who listens: a terminal, a log, or nobody."""

from __future__ import annotations

from typing import Iterable, Iterator, TypeVar

Item = TypeVar("Item")


class Progress:
    """Listens to long work. This one is silent; `cli.console` has those that write."""

    def say(self, text: str) -> None:
        """A line for the user."""

    def warn(self, text: str) -> None:
        """A line about something that is not as it should be, said once."""

    def track(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        """Yield `items`, of which there are `total`, and tell how many have passed."""
        yield from items
