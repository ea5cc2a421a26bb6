"""Recordings of a market: lines of JSON, perhaps gzipped, as the local exchange plays and writes them.

Each line is `{"t": nanoseconds since the first line, "category": channel, "message": the push}`. A recording
that was exported from the database also has `matching_key` and `published_at` (milliseconds) of the message.
"""

from __future__ import annotations

import gzip
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Literal, cast

import msgspec

from blackbird.archive.source import SourceError, Timed
from blackbird.market.book_message import BookData, BookMessage
from blackbird.market.fields import Text, UnsignedBigint

# The group of pushes that do not say theirs: what the exchange sends has no matching key.
DEFAULT_GROUP = "a"
_GZIP = b"\x1f\x8b"


class _Push(msgspec.Struct, frozen=True, gc=False):
    """A push of the exchange's order-book topic."""

    topic: Text
    type: Literal["snapshot", "delta"]
    ts: UnsignedBigint
    data: BookData
    cts: UnsignedBigint


class _Line(msgspec.Struct, frozen=True, gc=False):
    """A line of a recording."""

    t: UnsignedBigint
    category: Literal["spot", "linear", "inverse", "option"]
    message: _Push
    matching_key: Text = DEFAULT_GROUP
    published_at: UnsignedBigint | None = None


_decode_line = msgspec.json.Decoder(_Line).decode


class Recording:
    """The messages of a recording, of all groups or of some.

    A message without `published_at` counts as published when it was recorded, the first one at its `ts`.
    """

    def __init__(self, path: Path, groups: Collection[str] = ()) -> None:
        self.name = str(path)
        self._path = path
        self._groups = frozenset(groups)
        self._file: IO[bytes] | None = None

    @property
    def total(self) -> float:
        """The size of the file in bytes."""
        return self._path.stat().st_size

    @property
    def done(self) -> float:
        """How many of its bytes have been read."""
        return 0 if self._file is None else self._file.tell()

    def __iter__(self) -> Iterator[Timed]:
        """Return the messages in file order; raises SourceError, which names the line."""
        try:
            with self._path.open("rb") as self._file:
                is_zipped = self._file.read(2) == _GZIP
                self._file.seek(0)
                lines = gzip.GzipFile(fileobj=self._file) if is_zipped else self._file
                yield from self._messages(cast("IO[bytes]", lines))
        except (OSError, EOFError) as error:
            raise SourceError(f"{self._path}: {error}") from None
        finally:
            self._file = None

    def _messages(self, lines: IO[bytes]) -> Iterator[Timed]:
        first_ms: int | None = None
        for number, text in enumerate(lines, 1):
            try:
                line = _decode_line(text)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise SourceError(
                    f"{self._path} line {number}: expected a recorded push, was {text[:80]!r}: {error}"
                ) from None
            push = line.message
            if first_ms is None:
                first_ms = push.ts - line.t // 1_000_000
            if self._groups and line.matching_key not in self._groups:
                continue
            published_at = line.published_at
            yield (
                first_ms + line.t // 1_000_000 if published_at is None else published_at,
                BookMessage(
                    push.topic, push.type, push.ts, push.data, push.cts, line.category, line.matching_key
                ),
            )
