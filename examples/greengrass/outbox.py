"""Outbox: messages stored in SQLite until the broker has acknowledged them, and the keys of processed images.

One transaction, synced to disk, stores a message and the key of its image: after a power cut, a stored message is still
there, and its image is not processed again.
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


# SQLite raises "database is locked" despite the timeout if two connections recover the journal of a killed process
_opening = threading.Lock()


class Message(NamedTuple):
    number: int
    payload: str


class Outbox:
    """At most `limit` messages in the SQLite file `path`. Each thread needs its own instance."""

    def __init__(self, path: Path, limit: int) -> None:
        self._limit = limit
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(str(path), timeout=30)
        with _opening:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_TABLES)

    def put(self, source: str, payload: str) -> bool:
        """Store the message of the image with key `source`, unless the key is stored already; return False if full."""
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
        """Return whether a message of `source` was stored, even if it has been sent since."""
        return self._db.execute("SELECT 1 FROM done WHERE source = ?", (source,)).fetchone() is not None

    def oldest(self, count: int) -> List[Message]:
        """Return the first `count` messages in the order of storing."""
        rows = self._db.execute("SELECT number, payload FROM messages ORDER BY number LIMIT ?", (count,))
        return [Message(*row) for row in rows]

    def remove(self, numbers: Sequence[int]) -> None:
        """Delete messages by number."""
        with self._db:
            self._db.executemany("DELETE FROM messages WHERE number = ?", [(number,) for number in numbers])

    def forget(self, sources: Iterable[str]) -> None:
        """Delete the keys of images that will not be read again."""
        with self._db:
            self._db.executemany("DELETE FROM done WHERE source = ?", [(source,) for source in sources])

    def sources(self) -> List[str]:
        """Return the keys of all processed images."""
        return [source for (source,) in self._db.execute("SELECT source FROM done")]

    def __len__(self) -> int:
        return int(self._db.execute("SELECT COUNT(*) FROM messages").fetchone()[0])

    @property
    def is_full(self) -> bool:
        """Whether the limit is reached."""
        return len(self) >= self._limit

    def close(self) -> None:
        self._db.close()
