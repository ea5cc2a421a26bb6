"""The trading engine's journal: what was decided and is not yet in the database, on this machine's disk.

An order is answered once its outcome is here. From then on it survives the death of the process; at most the
last `SYNC_SECONDS` and one sync can be missing after a power cut, never a part of a record.

A trade at the exchange is here from before its first order is sent, synced, until its outcome is.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import msgspec

from blackbird.trading.leftover_trade import OpenTrade
from blackbird.trading.records import Record

SYNC_SECONDS = 0.1

_encode = msgspec.json.Encoder().encode  # decimals as text: exact
_decode = msgspec.json.Decoder(Record).decode
_decode_trade = msgspec.json.Decoder(OpenTrade).decode


class JournalInUse(Exception):
    """Another trading engine on this machine has the journal open."""


class Journal:
    """Records that wait to be stored, oldest first: an SQLite file that belongs to one process at a time.

    `identity` tells it from every other journal: who has opened it knows that its last owner is dead.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the journal; raises JournalInUse."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = path.with_suffix(".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise JournalInUse(f"another trading engine has {path} open") from None
        self.path = path
        self.identity = _identity(self._lock.fileno())
        self._database = _open(path)
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS record (id INTEGER PRIMARY KEY, body BLOB NOT NULL)"
        )
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS open_trade (trade_id TEXT PRIMARY KEY, body BLOB NOT NULL)"
        )
        self._syncer = _open(path)
        self.records: int = self._database.execute("SELECT count(*) FROM record").fetchone()[0]

    def append(self, records: Sequence[Record], ended: str | None = None) -> None:
        """Add records, and remove the trade `ended` that they are the outcome of: all or none.

        Raises sqlite3.Error where the disk takes nothing.
        """
        rows = [(record.execution_id, _encode(record)) for record in records]
        self._database.execute("BEGIN")
        try:
            self._database.executemany("INSERT INTO record VALUES (?, ?)", rows)
            if ended is not None:
                self._database.execute("DELETE FROM open_trade WHERE trade_id = ?", (ended,))
            self._database.execute("COMMIT")
        except sqlite3.Error:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise
        self.records += len(rows)

    def pending(self, limit: int) -> list[Record]:
        """Return the oldest records, at most `limit`."""
        rows = self._database.execute("SELECT body FROM record ORDER BY id LIMIT ?", (limit,))
        return [_decode(body) for (body,) in rows]

    def forget(self, stored: int) -> None:
        """Drop the records up to execution id `stored`: the database has them."""
        self.records -= self._database.execute("DELETE FROM record WHERE id <= ?", (stored,)).rowcount

    def put_trade(self, trade: OpenTrade) -> None:
        """Write what is known of a trade over what was; raises sqlite3.Error."""
        self._database.execute(
            "INSERT OR REPLACE INTO open_trade VALUES (?, ?)", (trade.trade_id, _encode(trade))
        )

    def open_trades(self) -> list[OpenTrade]:
        """Return the trades without an outcome, oldest first."""
        rows = self._database.execute("SELECT body FROM open_trade")
        return sorted((_decode_trade(body) for (body,) in rows), key=lambda trade: trade.intended_at)

    def sync(self) -> None:
        """Bring what is written to the disk itself; it waits for the disk, so call it from another thread."""
        self._syncer.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        """Close the file and release its lock."""
        self._syncer.close()
        self._database.close()
        self._lock.close()


def _identity(lock: int) -> str:
    """Return what no other journal of a running machine has: boot, file system, lock file."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    status = os.fstat(lock)
    return f"{boot} {status.st_dev} {status.st_ino}"


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1)
    # With a write-ahead log a commit is one write to the page cache: enough to survive the process. NORMAL
    # syncs at checkpoints, which `sync` runs; a torn log is cut at its last whole transaction.
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    database.execute("PRAGMA wal_autocheckpoint = 0")
    return database
