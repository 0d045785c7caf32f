"""Progress: the interface through which the package reports messages and progress."""

from __future__ import annotations

from typing import Iterable, Iterator, TypeVar

Item = TypeVar("Item")


class Progress:
    """Silent progress; cli/arguments.py has implementations for terminals and logs."""

    def info(self, text: str) -> None:
        """Report a line to the user."""

    def warning(self, text: str) -> None:
        """Report a warning to the user, by default as a line."""
        self.info(f"warning: {text}")

    def track(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        """Yield `items` and report how many of `total` are done; `what` names them."""
        yield from items
