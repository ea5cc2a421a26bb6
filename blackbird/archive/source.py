"""Where the messages of a backtest come from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from blackbird.market.book_message import BookMessage

# When the collector published a message (milliseconds since 1970), and the message.
Timed = tuple[int, BookMessage]


class SourceError(Exception):
    """There is nothing to replay; the text says what was expected and what was found."""


class Source(Protocol):
    """Messages in the order in which they were published, and how far one has got with them."""

    @property
    def name(self) -> str:
        """Where the messages come from, for people."""

    @property
    def total(self) -> float:
        """How much there is to read, in units of the source's own (bytes, messages)."""

    @property
    def done(self) -> float:
        """How much of it has been read."""

    def __iter__(self) -> Iterator[Timed]:
        """Return the messages, from the first one; raises SourceError."""
