"""Messages that wait on the disk until the broker has them, and what they were made of.

SQLite, with every transaction on the disk (fsync) before it counts: a message that was put is there after a power cut,
and a picture whose message is there is never looked at again. Both are one transaction.
"""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Iterable, List, NamedTuple, Sequence

_TABLES = """
CREATE TABLE IF NOT EXISTS messages (number INTEGER PRIMARY KEY AUTOINCREMENT, payload TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS done (source TEXT PRIMARY KEY);
"""


# SQLite answers "locked" at once, whatever the timeout, when two connections look through what a kill left behind
_opening = threading.Lock()


class Message(NamedTuple):
    """A message in the order in which it was put."""

    number: int
    payload: str


class Outbox:
    """At most `limit` messages in the file `path`. Each thread opens its own."""

    def __init__(self, path: Path, limit: int) -> None:
        self._limit = limit
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(str(path), timeout=30)
        with _opening:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_TABLES)

    def put(self, source: str, payload: str) -> bool:
        """Keep the message made of `source`, such as a picture's name, size and time; False where there is no room. A
        source whose message was put before is left alone."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            if self.is_done(source):
                return True
            if len(self) >= self._limit:
                return False
            self._db.execute("INSERT INTO done VALUES (?)", (source,))
            self._db.execute("INSERT INTO messages (payload) VALUES (?)", (payload,))
        return True

    def is_done(self, source: str) -> bool:
        """Whether a message was made of `source`, sent since or not."""
        return self._db.execute("SELECT 1 FROM done WHERE source = ?", (source,)).fetchone() is not None

    def oldest(self, count: int) -> List[Message]:
        """The first messages that wait."""
        rows = self._db.execute("SELECT number, payload FROM messages ORDER BY number LIMIT ?", (count,))
        return [Message(*row) for row in rows]

    def remove(self, numbers: Sequence[int]) -> None:
        """The broker has these."""
        with self._db:
            self._db.executemany("DELETE FROM messages WHERE number = ?", [(number,) for number in numbers])

    def forget(self, sources: Iterable[str]) -> None:
        """These sources are gone, and will not be asked for again."""
        with self._db:
            self._db.executemany("DELETE FROM done WHERE source = ?", [(source,) for source in sources])

    def sources(self) -> List[str]:
        """All sources that messages were made of."""
        return [source for (source,) in self._db.execute("SELECT source FROM done")]

    def __len__(self) -> int:
        return int(self._db.execute("SELECT COUNT(*) FROM messages").fetchone()[0])

    @property
    def is_full(self) -> bool:
        """Whether the next message would find no room."""
        return len(self) >= self._limit

    def close(self) -> None:
        """Close the file."""
        self._db.close()
