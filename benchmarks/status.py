"""What a status of the signal engine costs: its processor time, and how long it keeps updates waiting."""

from __future__ import annotations

import asyncio
import statistics
import time

import msgspec

from benchmarks.results import Row, check, progress
from blackbird.market.book_message import BookData, BookMessage
from blackbird.market.instrument import Instrument
from blackbird.runtime.clock import milliseconds
from blackbird.runtime.failure_log import FailureLog
from blackbird.signals.ack_tracker import AckTracker
from blackbird.signals.group_lane import GroupLanes, LaneContext
from blackbird.signals.order_log import OrderLog
from blackbird.signals.order_manager import OrderManager
from blackbird.signals.signal_status import SignalStatusSource
from blackbird.status.histogram import Histogram, MillisecondHistogram
from blackbird.trading.signal import Signal

LEVELS = 50
PER_SECOND = 2
OBSERVATIONS = 200_000


def run(*, quick: bool = False) -> list[Row]:
    """Return one row for each number of books, and one for what is counted per message."""
    repetitions = 20 if quick else 100
    rows = [_observing(), _tallying()]
    for books in (2, 20, 400):
        progress(f"a status of {books} books")
        rows.append(asyncio.run(_statuses(books, repetitions)))
    return rows


async def _statuses(books: int, repetitions: int) -> Row:
    source = _source(books)
    encode = msgspec.json.Encoder().encode
    body = encode(await source.describe())
    begin = time.process_time()
    for _ in range(repetitions):
        body = encode(await source.describe())
    seconds = (time.process_time() - begin) / repetitions
    status = await source.describe()
    check(len(status.books) == books, "every book is described")
    check(len(status.pairs) == books // 2, "every pair is described")
    pauses = [await _longest_pause(source) for _ in range(repetitions)]
    return Row(
        f"status of {books} books, {len(body) / 1000:.1f} kB",
        f"{seconds * 1e6:.0f} us",
        "2 % of a core at 2/s",
        ratio=seconds * PER_SECOND / 0.02,
        most=1.0,
        note=f"updates wait for at most {statistics.median(pauses) * 1000:.2f} ms of it",
    )


async def _longest_pause(source: SignalStatusSource) -> float:
    """Return the longest time for which one status keeps the event loop, in processor time."""
    longest = 0.0
    describing = asyncio.create_task(source.describe())
    while not describing.done():
        begin = time.thread_time()
        await asyncio.sleep(0)
        longest = max(longest, time.thread_time() - begin)
    return longest


def _observing() -> Row:
    histogram = Histogram()
    begin = time.process_time()
    for _ in range(OBSERVATIONS):
        histogram.observe(0.0031)
    return _per_message("a duration into a histogram", begin, 0.5)


def _tallying() -> Row:
    histogram = MillisecondHistogram()
    tally = histogram.tally
    begin = time.process_time()
    for _ in range(OBSERVATIONS):
        tally[3] += 1
    row = _per_message("a message's age into a tally", begin, 0.2)
    check(histogram.counts().total == OBSERVATIONS, "everything is counted")
    return row


def _per_message(what: str, begin: float, most: float) -> Row:
    microseconds = (time.process_time() - begin) / OBSERVATIONS * 1e6
    return Row(what, f"{microseconds:.2f} us", f"{most} us", ratio=microseconds / most, most=1.0)


def _source(books: int) -> SignalStatusSource:
    """Return what describes a signal engine with so many books in groups of two, none of which cross."""
    signal, failures, orders = Signal(clock=milliseconds), FailureLog(), OrderManager()
    acks = AckTracker(lambda _: None)
    lanes = GroupLanes(LaneContext(signal, orders, acks, failures, lambda *_: None))
    now = milliseconds()
    for number in range(books):
        instrument = Instrument("linear" if number % 2 else "spot", f"COIN{number // 2}USDT")
        data = BookData(instrument.symbol, _side(-1), _side(1), 10, 10)
        topic = f"orderbook.50.{instrument.symbol}"
        message = BookMessage(topic, "snapshot", now, data, now, instrument.channel, f"g{number // 2}")  # type: ignore[arg-type]  # one of the channels
        signal.on_book(message, now)
    return SignalStatusSource(
        signal, lanes, OrderLog(), failures, is_connected=lambda: True, snapshots_requested=lambda: 0
    )


def _side(sign: int) -> msgspec.Raw:
    levels = [(f"{1000 + sign * (level + 1) / 10:.1f}", f"{level + 1}.5") for level in range(LEVELS)]
    return msgspec.Raw(msgspec.json.encode(levels))
