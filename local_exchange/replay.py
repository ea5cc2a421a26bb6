"""Replay of a recorded market, with fresh numbers or exactly as recorded.

A recording is lines of JSON, perhaps gzipped, each `{"t": nanoseconds since the first line,
"category": channel, "message": the push}`. What `--record` writes is such a file too.
"""

from __future__ import annotations

import gzip
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from local_exchange.instrument import DEPTHS, Feed, Instrument, Side, Subscription, now_ms
from local_exchange.source import BATCH, Source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

logger = logging.getLogger(__name__)

# Farther behind than this, the replay plays on from now instead of catching up.
LATENESS = 1.0
# Pause between the last line and the first one of the next round, in seconds of the recording.
ROUND_PAUSE = 0.05
# Deltas kept unapplied before a book is brought up to date without being asked for.
UNAPPLIED = 256


class RecordingError(ValueError):
    """A file that is not a recording; the text names the line."""


@dataclass(slots=True)
class Line:
    """One line of a recording."""

    seconds: float
    feed: Feed
    kind: str
    bids: str
    asks: str
    u: int
    seq: int
    ts: int
    cts: int
    raw: bytes


class Recorded(Instrument):
    """An instrument of a recording.

    The recorded pushes go out without touching the book; the book follows when it is needed.
    """

    def __init__(self, channel: str, symbol: str) -> None:
        super().__init__(channel, symbol)
        # Depths in the recording; all others are cut from the deepest of them.
        self.recorded: set[int] = set()
        self.unapplied: list[Line] = []
        # Whether a line of it was played.
        self.begun = False
        self.ts = 0

    @property
    def source_depth(self) -> int:
        """Depth whose pushes keep the book."""
        return max(self.recorded)

    def take(self, line: Line) -> None:
        """Keep a push of the deepest recorded topic for the book."""
        self.begun = True
        if line.kind == "snapshot" and not self.following:
            self.unapplied.clear()
        self.unapplied.append(line)
        if self.following or len(self.unapplied) >= UNAPPLIED:
            self.catch_up()

    def catch_up(self) -> None:
        """Apply what the book has not seen yet."""
        for line in self.unapplied:
            for side, sign, text in ((self.bids, -1, line.bids), (self.asks, 1, line.asks)):
                levels = json.loads(f"[{text}]")
                if line.kind == "snapshot":
                    side.replace((sign * float(price), price, size) for price, size in levels)
                    continue
                for price, size in levels:
                    if float(size):
                        side.put(sign * float(price), price, size)
                    else:
                        side.remove(sign * float(price))
        self.unapplied.clear()

    def side(self, *, bid: bool) -> Side:
        """Return one side of the book, as it is now."""
        self.catch_up()
        return super().side(bid=bid)

    def window(self, depth: int) -> tuple[str, str]:
        """Render the best bids and asks of the book as it is now."""
        self.catch_up()
        return super().window(depth)


class Replay(Source):
    """Plays a recording, over and over unless told otherwise.

    Fresh numbers: `ts` and `cts` are now, `u` is one above the last of its topic, `seq` rises by
    the recorded steps. When the last line is followed by the first again, each topic continues
    with its recorded snapshot, `u` one above the last: a book that follows the protocol goes on.

    Args:
        path: the recording.
        speed: how many times as fast as recorded; 0: as fast as the sockets take it.
        once: stop after the last line; the books stay, and can be subscribed.
        verbatim: messages exactly as recorded, once; only the recorded depths are served.

    Raises:
        RecordingError: the file is not a recording.
        OSError: it can't be read.
    """

    def __init__(self, path: Path, *, speed: float = 1.0, once: bool = False, verbatim: bool = False) -> None:
        super().__init__()
        self.speed = speed
        self.timed = speed > 0
        self.once = once or verbatim
        self.verbatim = verbatim
        if verbatim:
            logger.info(
                "played as recorded, with the recorded ts, cts, u and seq: a client that knows newer ones of"
                " these topics, as after playing this recording before, ignores what is older"
            )
        self.lines = list(self._load(path))
        if not self.lines:
            raise RecordingError(f"{path}: expected at least one order-book message, was empty")
        self.position = 0
        # The line at `_from` seconds of the recording is due at `_origin`.
        self._origin: float | None = None
        self._from = 0.0
        self._seq_offset = 0
        self._seq_span = 1000 + max(line.seq for line in self.lines)

    def _load(self, path: Path) -> Iterator[Line]:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        decoder = json.JSONDecoder()
        begun = set()
        with gzip.open(path, "rt") if zipped else path.open() as file:
            for number, text in enumerate(file, 1):
                try:
                    line = self._line(decoder, text)
                except (KeyError, TypeError, ValueError, AttributeError) as error:
                    raise RecordingError(
                        f"{path}, line {number}: expected an order-book message, was {text[:80]!r} ({error})"
                    ) from error
                # A delta before its topic's first snapshot has no book to change.
                if line.kind == "snapshot" or line.feed in begun:
                    begun.add(line.feed)
                    yield line

    def _line(self, decoder: json.JSONDecoder, text: str) -> Line:
        parsed: dict[str, Any] = decoder.decode(text)
        message = parsed["message"]
        raw = b""
        if self.verbatim:
            start = text.index('"message":') + len('"message":')
            while text[start] == " ":
                start += 1
            raw = text[start : decoder.raw_decode(text, start)[1]].encode()
        data = message["data"]
        if message["type"] not in {"snapshot", "delta"}:
            raise ValueError(f"expected type snapshot or delta, was {message['type']}")
        return Line(
            parsed["t"] / 1e9,
            self._recorded_feed(parsed["category"], message["topic"]),
            message["type"],
            _levels(data["b"]),
            _levels(data["a"]),
            data["u"],
            data["seq"],
            message["ts"],
            message["cts"],
            raw,
        )

    def _recorded_feed(self, channel: str, topic: str) -> Feed:
        kind, depth, symbol = topic.split(".", 2)
        if kind != "orderbook" or int(depth) not in DEPTHS[channel]:
            raise ValueError(f"expected an order book that Bybit serves, was {topic}")
        instrument = self.instruments.get((channel, symbol))
        if instrument is None:
            instrument = self.instruments[channel, symbol] = Recorded(channel, symbol)
        _recorded(instrument).recorded.add(int(depth))
        return instrument.feed(int(depth))

    def play(self, now: float) -> float | None:
        """Push the lines that are due."""
        if self._origin is None:
            self._origin = now
        lines, speed = self.lines, self.speed
        for _ in range(BATCH):
            if self.position == len(lines):
                if self.once:
                    return None
                self._wind_back()
            line = lines[self.position]
            if speed:
                wait = self._origin + (line.seconds - self._from) / speed - now
                if wait > 0:
                    return wait
                if wait < -LATENESS:
                    self._origin -= wait
            self.position += 1
            self._push(line)
        return 0.0

    def _wind_back(self) -> None:
        self.position = 0
        self.rounds += 1
        if self.rounds == 1:
            logger.info(
                "the recording is played and begins again: each topic goes on with its first snapshot, u one"
                " above the last, ts and cts of now; said once, further rounds are counted"
            )
        self._seq_offset += self._seq_span
        if self.speed and self._origin is not None:
            self._origin += (self.lines[-1].seconds + ROUND_PAUSE - self._from) / self.speed
        self._from = 0.0

    def _push(self, line: Line) -> None:
        feed = line.feed
        instrument = _recorded(feed.instrument)
        if self.verbatim:
            instrument.ts, instrument.cts, instrument.seq = line.ts, line.cts, line.seq
            feed.u = line.u
            if feed.depth == instrument.source_depth:
                instrument.take(line)
            feed.send(line.raw)
            return
        ts = instrument.cts = now_ms()
        instrument.seq = line.seq + self._seq_offset
        if feed.depth == instrument.source_depth:
            instrument.take(line)
            instrument.push_changes(ts)
        if feed.subscriptions:
            feed.publish(line.kind, line.bids, line.asks, ts)

    def set_rate(self, rate: float) -> None:
        """Change the speed from the present position on."""
        self.speed = rate
        self.timed = rate > 0
        self._origin = None
        if self.position < len(self.lines):
            self._from = self.lines[self.position].seconds

    def depths(self, instrument: Instrument) -> tuple[int, ...]:
        """Return the depths served: all of the channel's, or the recorded ones if verbatim."""
        return tuple(_recorded(instrument).recorded) if self.verbatim else super().depths(instrument)

    def follow(self, instrument: Instrument) -> None:
        """Let only the depths that are not in the recording follow the book."""
        recorded = _recorded(instrument)
        recorded.catch_up()
        recorded.follow(feed for feed in recorded.used_feeds() if feed.depth not in recorded.recorded)

    def renew(self, feed: Feed) -> None:
        """Give a topic that had no sockets the next update id, unless it is recorded."""
        if not self.verbatim:
            super().renew(feed)

    def open(self, subscription: Subscription) -> None:
        """Send the book as it is now, once the first line of the instrument was played."""
        instrument = _recorded(subscription.feed.instrument)
        if instrument.begun:
            subscription.feed.send_snapshot_to(subscription, instrument.ts if self.verbatim else now_ms())

    def trade(self, instrument: Instrument, *, bid: bool, left: dict[float, str]) -> None:
        """Leave the book as it was recorded: this market does not notice that somebody trades."""

    def repeat(self, feed: Feed) -> None:
        """Push the last update of a quiet topic again, unchanged if verbatim."""
        if self.verbatim:
            feed.send(feed.last_payload)
        else:
            super().repeat(feed)


def _recorded(instrument: Instrument) -> Recorded:
    return cast("Recorded", instrument)


def _levels(levels: list[list[str]]) -> str:
    return ",".join([f'["{price}","{size}"]' for price, size in levels])
