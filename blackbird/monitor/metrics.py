"""The metrics, in Prometheus' text format, out of the same statuses as the page.

Names and units follow https://prometheus.io/docs/practices/naming/: base units, `_total` for counters. No
label is unbounded: instruments, groups and services, never an order or a spread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from blackbird.market.decimals import EXACT, ZERO
from blackbird.market.instrument import Instrument
from blackbird.monitor import cards
from blackbird.monitor.sources import Sources
from blackbird.status.histogram import BUCKETS, Counts
from blackbird.status.messages import CollectorStatus, EngineStatus, SignalStatus, Status, StorageStatus

# What an answer is called that is about a field of an order: its text names the field and what was found.
_INVALID = "invalid order"
_LEG = ("channel", "symbol")
# What a service said longer ago is left out, rather than shown as if it were so now.
FORGET_SECONDS = 5.0


class Metrics:
    """Answers a scrape; `clock` returns milliseconds since 1970."""

    def __init__(self, sources: Callable[[], Sources], clock: Callable[[], int]) -> None:
        self._sources = sources
        self._clock = clock
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Return nothing: what there is depends on who was heard."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Return the metrics of all that was heard; of a service that was not heard there are none."""
        sources, now = self._sources(), self._clock()
        yield from _health(sources, now)
        yield from _processes(sources)
        yield from _queues(sources)
        yield from _database(sources)
        for status in sources.board.statuses.values():
            if now - status.published_ms > max(FORGET_SECONDS, sources.stale_seconds) * 1000:
                continue
            if status.collector is not None:
                yield from _collector(status.collector)
            if status.signal is not None:
                yield from _signal(status.signal, now)
            if status.engine is not None:
                yield from _engine(sources, status.engine)
            if status.storage is not None:
                yield from _storage(status.storage)


def _gauge(name: str, text: str, labels: Iterable[str] = ()) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"blackbird_{name}", text, labels=list(labels))


def _counter(name: str, text: str, labels: Iterable[str] = ()) -> CounterMetricFamily:
    return CounterMetricFamily(f"blackbird_{name}", text, labels=list(labels))


def _histogram(name: str, text: str, counts: Counts) -> HistogramMetricFamily:
    total, buckets = 0, []
    bounds = [*(f"{bound:g}" for bound in BUCKETS), "+Inf"]
    for bound, count in zip(bounds, counts.counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    family = HistogramMetricFamily(f"blackbird_{name}", text)
    family.add_metric([], buckets, counts.sum)
    return family


def _total(name: str, text: str, value: float) -> CounterMetricFamily:
    family = _counter(name, text)
    family.add_metric([], value)
    return family


def _health(sources: Sources, now: int) -> Iterator[Metric]:
    up = _gauge(
        "service_up", "Whether the part was heard a moment ago (broker and database: answered).", ["service"]
    )
    age = _gauge("status_age_seconds", "How long ago the part was last heard.", ["service"])
    for name, at in cards.service_times(sources).items():
        up.add_metric([name], float(now - at <= sources.stale_seconds * 1000))
        if at:
            age.add_metric([name], max(now - at, 0) / 1000)
    yield up
    yield age
    build = _gauge("build_info", "Version and mode of each service.", ["service", "version", "mode"])
    for name, status in sources.board.statuses.items():
        build.add_metric([name, status.version, status.mode], 1)
    yield build


def _processes(sources: Sources) -> Iterator[Metric]:
    cpu = CounterMetricFamily("process_cpu_seconds", "CPU time of a service.", labels=["service"])
    memory = GaugeMetricFamily(
        "process_resident_memory_bytes", "Resident memory of a service.", labels=["service"]
    )
    start = GaugeMetricFamily(
        "process_start_time_seconds", "When a service started, since 1970.", labels=["service"]
    )
    failures = _counter("failures", "Programming errors that a service survived.", ["service"])
    for name, status in sources.board.statuses.items():
        cpu.add_metric([name], status.cpu_seconds)
        memory.add_metric([name], status.resident_bytes)
        start.add_metric([name], status.started_ms / 1000)
        failures.add_metric([name], _sum(status))
    yield from (cpu, memory, start, failures)


def _sum(status: Status) -> float:
    return float(sum(status.failures.values()))


def _queues(sources: Sources) -> Iterator[Metric]:
    messages = _gauge("queue_messages", "Messages ready for delivery in a queue of the broker.", ["queue"])
    consumers = _gauge("queue_consumers", "Consumers of a queue.", ["queue"])
    for queue, depth in sources.queues.depths.items():
        messages.add_metric([queue], depth.messages)
        consumers.add_metric([queue], depth.consumers)
    yield messages
    yield consumers


def _database(sources: Sources) -> Iterator[Metric]:
    facts = sources.facts
    if facts is None:
        return
    tables = _gauge("database_bytes", "Size of a table with its indexes.", ["table"])
    for table, size in facts.table_bytes.items():
        tables.add_metric([table], size)
    yield tables
    if facts.disk_free is not None:
        free = _gauge("disk_free_bytes", "Free space where the database keeps its files.")
        free.add_metric([], facts.disk_free)
        yield free


def _collector(collector: CollectorStatus) -> Iterator[Metric]:
    received = _counter("pushes_received", "Pushes received of the exchange.", _LEG)
    published = _counter("published", "Pushes that the broker has confirmed.", _LEG)
    dropped = _counter("dropped", "Pushes dropped because the broker was away for too long.", _LEG)
    reconnects = _counter("reconnects", "Connections to the exchange after the first.", _LEG)
    resyncs = _counter("resyncs", "Snapshots asked of the exchange after the first.", _LEG)
    up = _gauge("stream_up", "Whether the stream is connected and its book complete.", _LEG)
    silence = _gauge("stream_silence_seconds", "Time since the last push.", _LEG)
    for stream in collector.streams:
        leg = [stream.channel, stream.symbol]
        received.add_metric(leg, stream.pushes)
        published.add_metric(leg, stream.published)
        dropped.add_metric(leg, stream.dropped)
        reconnects.add_metric(leg, stream.reconnects)
        resyncs.add_metric(leg, stream.resyncs)
        up.add_metric(leg, float(stream.up))
        if stream.silence_seconds is not None:
            silence.add_metric(leg, stream.silence_seconds)
    yield from (received, published, dropped, reconnects, resyncs, up, silence)
    yield _histogram("push_age_seconds", "From the exchange's ts to the collector.", collector.push_age)
    yield _histogram(
        "publish_seconds", "From the collector's socket to the broker's confirmation.", collector.confirm
    )


def _signal(signal: SignalStatus, now: int) -> Iterator[Metric]:
    updates = _counter("book_updates", "Order-book messages by what they did to the book.", ["outcome"])
    for outcome, count in signal.updates.items():
        updates.add_metric([outcome.lower()], count)
    yield updates
    age = _gauge("book_age_seconds", "Time since the last message of the book.", _LEG)
    usable = _gauge("book_usable", "Whether the book is in sync and not too old to trade on.", _LEG)
    for book in signal.books:
        leg = [book.channel, book.symbol]
        usable.add_metric(leg, float(book.state == "in sync"))
        if book.received_ms:
            age.add_metric(leg, max(now - book.received_ms, 0) / 1000)
    yield age
    yield usable
    why = _gauge("pairs", "Pairs by the reason why they are not traded.", ["reason"])
    reasons = [str(pair.why) for pair in signal.pairs]
    for reason in sorted(set(reasons)):
        why.add_metric([reason], reasons.count(reason))
    yield why
    yield _histogram("tick_age_seconds", "From the exchange's ts to the signal engine.", signal.tick_age)
    yield _histogram("order_answer_seconds", "From an order's decision to its answer.", signal.answer_time)


def _engine(sources: Sources, engine: EngineStatus) -> Iterator[Metric]:
    orders = _counter("orders", "Answered orders.", ["action", "answer"])
    for (action, answer), count in _answers(engine).items():
        orders.add_metric([action, answer], count)
    yield orders
    exposure = _gauge("exposure_quote", "Exposure of a leg in quote coin, above zero long.", _LEG)
    position = _gauge("position_base", "Position of a leg in base coin, above zero long.", _LEG)
    for leg in engine.legs:
        exposure.add_metric([leg.channel, leg.symbol], float(leg.exposure))
        position.add_metric([leg.channel, leg.symbol], float(leg.position))
    yield exposure
    yield position
    limit = _gauge("exposure_limit_quote", "Largest exposure of a leg that is allowed.")
    limit.add_metric([], float(engine.limit))
    yield limit
    yield from _pnl(sources, engine)
    journal = _gauge("journal_records", "Decisions that are not in the database yet.")
    journal.add_metric([], engine.journal_records)
    yield journal
    yield _histogram("engine_answer_seconds", "From an order's delivery to the reply.", engine.answer_time)


def _answers(engine: EngineStatus) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for action, by_answer in engine.answers.items():
        for answer, count in by_answer.items():
            key = action or "other", _INVALID if answer.startswith(_INVALID) else answer
            found[key] = found.get(key, 0) + count
    return found


def _pnl(sources: Sources, engine: EngineStatus) -> Iterator[Metric]:
    """Return what is open and earned by group; where a pair's group is unknown its label is empty."""
    groups = {
        leg: pair.group
        for pair in sources.board.pairs
        for each in pair.directions
        for leg in (each.long, each.short)
    }
    spreads: dict[str, int] = {}
    closed = dict.fromkeys(spreads, ZERO)
    marked = dict.fromkeys(spreads, ZERO)
    unpriced: set[str] = set()
    for pair in engine.pairs:
        group = _group(groups, pair.long, pair.short)
        spreads[group] = spreads.get(group, 0) + pair.open_spreads
        gone = EXACT.add(pair.credit, pair.cash_without_spread)
        closed[group] = closed.get(group, ZERO) + EXACT.subtract(pair.cash, gone)
        exit_price = sources.board.exit_price(pair.long, pair.short)
        if not pair.quantity:
            marked.setdefault(group, ZERO)
        elif exit_price is None:
            unpriced.add(group)
        else:
            gain = EXACT.subtract(pair.credit, EXACT.multiply(exit_price, pair.quantity))
            marked[group] = marked.get(group, ZERO) + gain
    families = (
        (_gauge("open_spreads", "Open spreads.", ["group"]), spreads),
        (_gauge("pnl_closed_quote", "PnL of what is closed, without fees.", ["group"]), closed),
        (
            _gauge("pnl_open_quote", "What closing at the best prices would add, without fees.", ["group"]),
            {group: value for group, value in marked.items() if group not in unpriced},
        ),
    )
    for family, values in families:
        for group, value in values.items():
            family.add_metric([group], float(value))
        yield family


def _group(groups: dict[Instrument, str], *legs: Instrument) -> str:
    return next((groups[leg] for leg in legs if leg in groups), "")


def _storage(storage: StorageStatus) -> Iterator[Metric]:
    yield _total("rows_stored", "Price levels written.", storage.rows)
    yield _total("messages_stored", "Order-book messages of committed batches.", storage.stored)
    yield _histogram(
        "batch_write_seconds", "A batch, from its first attempt to its commit.", storage.batch_write
    )
    lag = _gauge("storage_lag_seconds", "Age of the newest stored message when it was stored.")
    if storage.stored_ms and storage.stored_cts_ms:
        lag.add_metric([], max(storage.stored_ms - storage.stored_cts_ms, 0) / 1000)
    yield lag
