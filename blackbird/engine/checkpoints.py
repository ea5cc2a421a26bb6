"""The trading engine's books in the database, so that a start does not read every execution."""

from __future__ import annotations

import hashlib
import logging
from decimal import Decimal

import msgspec

from blackbird.market.decimals import EXACT, ZERO
from blackbird.market.instrument import Instrument
from blackbird.runtime.clock import milliseconds
from blackbird.trading.books import Books
from database_manager import Cursor, Table

logger = logging.getLogger(__name__)

Sums = dict[Instrument, tuple[Decimal, Decimal]]

# Adding up more than so many takes longer than a start may: it is done behind the first answers.
CHECKED_AT_START = 200_000

_encode = msgspec.json.Encoder().encode  # decimals as text: exact
_decode = msgspec.json.Decoder(Books).decode

_SAVE = """
INSERT INTO bybit.checkpoint (execution_id, books, digest, made_at) VALUES (%s, %s, %s, %s)
ON CONFLICT (one_row) DO UPDATE SET execution_id = excluded.execution_id, books = excluded.books,
                                    digest = excluded.digest, made_at = excluded.made_at
"""


class Checkpoints:
    """Reads and writes the checkpoint in the transactions of others. `orders` is the table of executions."""

    def __init__(self, orders: Table) -> None:
        self._orders = orders

    def load(self, cursor: Cursor) -> Books | None:
        """Return the books of the checkpoint, None where there is none that agrees with the executions."""
        cursor.execute("SELECT execution_id, books, digest FROM bybit.checkpoint")
        row = cursor.fetchone()
        if row is None:
            return None
        execution_id, text, digest = row
        books = _books(text, digest)
        if books is None or books.execution_id != execution_id:
            logger.warning("the checkpoint is damaged: all executions are read")
            return None
        if execution_id <= CHECKED_AT_START and not self.agrees(cursor, books):
            return None
        return books

    def agrees(self, cursor: Cursor, books: Books) -> bool:
        """Return whether the executions up to `books` add up to them; remove the checkpoint if not."""
        if books.adds_up_to(self._sums(cursor, 0, books.execution_id)):
            return True
        logger.error("the checkpoint does not agree with the executions: all of them are read")
        cursor.execute("DELETE FROM bybit.checkpoint")
        return False

    def save(self, cursor: Cursor, books: Books) -> None:
        """Write a checkpoint that agrees with the executions; remove what there is where it does not."""
        if books.adds_up_to(self._sums_since_last(cursor, books.execution_id)):
            text = _encode(books).decode()
            cursor.execute(_SAVE, (books.execution_id, text, _digest(text), milliseconds()))
        else:
            cursor.execute("DELETE FROM bybit.checkpoint")
            logger.error(
                "no checkpoint: the books after execution %s do not agree with the database's executions",
                books.execution_id,
            )

    def _sums_since_last(self, cursor: Cursor, up_to: int) -> Sums:
        """Return the sums of all executions up to one, by way of the last checkpoint where that is older."""
        cursor.execute("SELECT books, digest FROM bybit.checkpoint WHERE execution_id <= %s", (up_to,))
        row = cursor.fetchone()
        last = None if row is None else _books(*row)
        if last is None:
            return self._sums(cursor, 0, up_to)
        sums = {leg.instrument: (leg.exposure, leg.position) for leg in last.legs}
        for leg, (exposure, position) in self._sums(cursor, last.execution_id, up_to).items():
            known = sums.get(leg, (ZERO, ZERO))
            sums[leg] = EXACT.add(known[0], exposure), EXACT.add(known[1], position)
        return sums

    def _sums(self, cursor: Cursor, after: int, up_to: int) -> Sums:
        """Return exposure and position of each instrument in the executions after one and up to another."""
        query = (
            "SELECT channel, symbol_name, -sum(flux), sum(CASE type WHEN 'buy' THEN size ELSE -size END)"  # noqa: S608 - a setting
            f" FROM {self._orders.name} WHERE execution_id > %s AND execution_id <= %s"
            " GROUP BY channel, symbol_name"
        )
        cursor.execute(query, (after, up_to))
        return {
            Instrument(channel, symbol): (exposure, position)
            for channel, symbol, exposure, position in cursor.fetchall()
        }


def _books(text: str, digest: str) -> Books | None:
    try:
        return _decode(text) if digest == _digest(text) else None
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
