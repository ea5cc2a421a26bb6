"""The last status of each service, and what two of them make: rates and recent latencies."""

from __future__ import annotations

import functools
import operator
from collections import deque
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from blackbird.market.fields import InvalidMessage
from blackbird.market.instrument import Instrument
from blackbird.market.order_book import LevelView
from blackbird.monitor.processes import Process, Processes, process_of
from blackbird.status.histogram import Counts
from blackbird.status.messages import BookStatus, Direction, PairStatus, SignalStatus, Status

SERVICES = ("collector", "signal", "engine", "storage")
# Rates are over this time.
RATE_SECONDS = 5.0
# Quantiles are over this time: of fewer observations the 99th percentile means little.
LATENCY_SECONDS = 60.0
LATENCY_STEP_SECONDS = 5.0

_decode = msgspec.json.Decoder(Status).decode


class Ladder(NamedTuple):
    """The best levels of a book, and when its service sent them (milliseconds)."""

    bids: Sequence[LevelView]
    asks: Sequence[LevelView]
    sent_ms: int


class Latency(NamedTuple):
    """Quantiles in seconds, None where nothing was observed."""

    median: float | None
    high: float | None  # 99th percentile


class _Sample(NamedTuple):
    at_ms: int
    counters: Mapping[str, float]


class _Past:
    """What a process said earlier: counters of the last seconds, histograms of the last minute."""

    def __init__(self) -> None:
        self.samples: deque[_Sample] = deque()
        self.histograms: deque[tuple[int, Mapping[str, Counts]]] = deque()
        self.newest: Mapping[str, Counts] = {}

    def add(self, status: Status) -> None:
        """Note a newer status of the same process."""
        now = status.published_ms
        self.samples.append(_Sample(now, _counters(status)))
        # One sample that is older than the time stays: the rate is measured from it.
        while len(self.samples) > 2 and self.samples[1].at_ms <= now - RATE_SECONDS * 1000:
            self.samples.popleft()
        self.newest = _histograms(status)
        if not self.histograms or now - self.histograms[-1][0] >= LATENCY_STEP_SECONDS * 1000:
            self.histograms.append((now, self.newest))
        while len(self.histograms) > 2 and self.histograms[1][0] <= now - LATENCY_SECONDS * 1000:
            self.histograms.popleft()

    def rate(self, counter: str) -> float | None:
        """Return how much a counter rises per second, None before there are two statuses."""
        if len(self.samples) < 2:
            return None
        first, last = self.samples[0], self.samples[-1]
        seconds = (last.at_ms - first.at_ms) / 1000
        if seconds <= 0 or counter not in last.counters:
            return None
        return (last.counters[counter] - first.counters.get(counter, 0.0)) / seconds

    def observed(self, histogram: str) -> Counts | None:
        """Return what was observed in the last minute, None where the process has no such histogram."""
        now = self.newest.get(histogram)
        if now is None or len(self.histograms) < 2:
            return now
        return now.since(self.histograms[0][1][histogram])


class Board:
    """The newest status of each service; of several processes one that stands for all of them."""

    def __init__(self) -> None:
        self.statuses: dict[str, Status] = {}
        self.ladders: dict[Instrument, Ladder] = {}
        self.books: dict[Instrument, BookStatus] = {}
        self.directions: dict[tuple[Instrument, Instrument], Direction] = {}  # by (long, short)
        self._processes: dict[str, Processes] = {}
        self._past: dict[str, dict[Process, _Past]] = {}  # of the processes at work

    def receive(self, body: bytes) -> str:
        """Take a status message and return whose it is; raises InvalidMessage."""
        try:
            status = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidMessage(str(error)) from None
        if getattr(status, status.service) is None:
            raise InvalidMessage(f"expected the field {status.service}, was missing")
        processes = self._processes.setdefault(status.service, Processes())
        processes.receive(status)
        self.statuses[status.service] = merged = processes.merged()
        at_work = {process_of(each) for each in processes.at_work()}
        past = self._past.setdefault(status.service, {})
        for process in past.keys() - at_work:
            del past[process]
        if process_of(status) in at_work:
            past.setdefault(process_of(status), _Past()).add(status)
            if merged.signal is not None and status.signal is not None:
                self._take_books(merged.signal)
                self._take_ladders(status, status.signal)
        return status.service

    def _take_books(self, signal: SignalStatus) -> None:
        self.books = {Instrument(book.channel, book.symbol): book for book in signal.books}
        self.directions = {(each.long, each.short): each for pair in signal.pairs for each in pair.directions}

    def _take_ladders(self, status: Status, signal: SignalStatus) -> None:
        for book in signal.books:
            if book.bids is not None or book.asks is not None:
                ladder = Ladder(book.bids or (), book.asks or (), status.published_ms)
                self.ladders[Instrument(book.channel, book.symbol)] = ladder
        for instrument in self.ladders.keys() - self.books.keys():
            del self.ladders[instrument]

    # --- what was said ---------------------------------------------------------------------------

    def published_ms(self, service: str) -> int:
        """Return when a service published its newest status, 0 before the first."""
        status = self.statuses.get(service)
        return 0 if status is None else status.published_ms

    @property
    def pairs(self) -> Sequence[PairStatus]:
        """The pairs of the signal engine."""
        status = self.statuses.get("signal")
        return () if status is None or status.signal is None else status.signal.pairs

    @property
    def mode(self) -> str:
        """Where orders go, by the trading engine, else by any service: SIMULATED, DEMO, TESTNET, MAINNET."""
        for service in ("engine", *SERVICES):
            if service in self.statuses:
                return self.statuses[service].mode.upper()
        return ""

    def exit_price(self, long: Instrument, short: Instrument) -> Decimal | None:
        """Return what closing costs now, ask(short) - bid(long), None where a price is missing."""
        direction = self.directions.get((long, short))
        if direction is not None:
            return direction.exit
        sold, bought = self.books.get(long), self.books.get(short)
        if sold is None or bought is None or sold.bid is None or bought.ask is None:
            return None
        return bought.ask - sold.bid

    def rate(self, service: str, counter: str) -> float | None:
        """Return how much a counter rises per second, None before there are two statuses."""
        rates = [past.rate(counter) for past in self._past.get(service, {}).values()]
        known = [rate for rate in rates if rate is not None]
        return sum(known) if known else None

    def latency(self, service: str, histogram: str) -> Latency:
        """Return the quantiles of the last minute."""
        observed = [past.observed(histogram) for past in self._past.get(service, {}).values()]
        known = [counts for counts in observed if counts is not None]
        if not known:
            return Latency(None, None)
        counts = functools.reduce(operator.add, known)
        return Latency(counts.quantile(0.5), counts.quantile(0.99))


def _counters(status: Status) -> dict[str, float]:
    counters: dict[str, float] = {"cpu": status.cpu_seconds}
    if status.collector is not None:
        counters |= {"in": status.collector.pushes, "out": status.collector.published}
    if status.signal is not None:
        answered = _total(status.signal.answers)
        counters |= {"in": sum(status.signal.updates.values()), "out": answered}
    if status.engine is not None:
        answered = _total(status.engine.answers)
        counters |= {"in": answered, "out": answered}
    if status.storage is not None:
        counters |= {"in": status.storage.messages, "out": status.storage.rows}
    return counters


def _histograms(status: Status) -> dict[str, Counts]:
    body: Any = getattr(status, status.service)
    return {
        name: value
        for name in ("push_age", "confirm", "tick_age", "answer_time", "batch_write")
        if (value := getattr(body, name, None)) is not None
    }


def _total(answers: Mapping[str, Mapping[str, int]]) -> int:
    return sum(number for by_answer in answers.values() for number in by_answer.values())
