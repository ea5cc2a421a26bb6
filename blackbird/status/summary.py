"""What a service did between two of its statuses, in one line for a log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from decimal import Decimal

from blackbird.status.histogram import Counts
from blackbird.status.messages import (
    CollectorStatus,
    EngineStatus,
    SignalStatus,
    Status,
    StorageStatus,
    WhyNot,
)


def summary(before: Status, now: Status) -> str:
    """Return what the service did since `before`, an earlier status of the same process."""
    seconds = (now.published_ms - before.published_ms) / 1000 or 1.0
    parts: list[str] = []
    if now.collector is not None and before.collector is not None:
        parts = _collector(before.collector, now.collector, seconds)
    elif now.signal is not None and before.signal is not None:
        parts = _signal(before.signal, now.signal, seconds)
    elif now.engine is not None and before.engine is not None:
        parts = _engine(before.engine, now.engine)
    elif now.storage is not None and before.storage is not None:
        parts = _storage(before.storage, now.storage, seconds)
    if now.broker != "connected":
        parts.insert(0, "no broker")
    if failures := sum(now.failures.values()):
        parts.append(f"{failures} programming errors survived")
    cpu = (now.cpu_seconds - before.cpu_seconds) / seconds
    parts.append(f"cpu {cpu:.0%}, {now.resident_bytes / 1e6:.0f} MB")
    return "; ".join(parts)


def _collector(before: CollectorStatus, now: CollectorStatus, seconds: float) -> list[str]:
    up = sum(stream.up for stream in now.streams)
    parts = [
        f"{up} of {len(now.streams)} streams up",
        f"{_rate(now.pushes - before.pushes, seconds)} pushes/s",
    ]
    if now.publisher != "connected":
        parts.append(f"broker {now.publisher}")
    if now.pending:
        parts.append(f"{now.pending} not confirmed")
    if dropped := now.dropped - before.dropped:
        parts.append(f"{dropped} dropped")
    parts += _quantiles("exchange to here", now.push_age.since(before.push_age))
    return parts + _quantiles("confirmed in", now.confirm.since(before.confirm))


def _signal(before: SignalStatus, now: SignalStatus, seconds: float) -> list[str]:
    usable = sum(book.state == "in sync" for book in now.books)
    updates = sum(now.updates.values()) - sum(before.updates.values())
    parts = [f"{usable} of {len(now.books)} books usable", f"{_rate(updates, seconds)} updates/s"]
    parts.append(f"orders {_answers(before.answers, now.answers)}")
    parts.append(f"{now.spreads_open} spreads open" if now.may_trade else "open spreads unknown")
    reasons = Counter(pair.why for pair in now.pairs if pair.why is not WhyNot.TRADING)
    if reasons:
        parts.append("not trading: " + ", ".join(f"{count} {why}" for why, count in reasons.most_common(3)))
    parts += _quantiles("exchange to here", now.tick_age.since(before.tick_age))
    parts += _quantiles("answered in", now.answer_time.since(before.answer_time))
    return parts + _quantiles("books traded on heard of", now.book_age.since(before.book_age), " ago")


def _engine(before: EngineStatus, now: EngineStatus) -> list[str]:
    parts: list[str] = [] if now.state == "active" else [now.state]
    parts.append(f"orders {_answers(before.answers, now.answers)}")
    parts.append(f"{now.spreads_open} spreads open")
    parts.append(
        f"PnL {_money(now.pnl)}, of it closed {_money(now.pnl - now.credit - now.cash_without_spread)}"
    )
    largest = max((abs(leg.exposure) for leg in now.legs), default=Decimal(0))
    parts.append(f"exposure {_money(largest)} of {_money(now.limit)}")
    if now.journal_records:
        parts.append(f"{now.journal_records} not stored yet")
    return parts + _quantiles("answered in", now.answer_time.since(before.answer_time))


def _storage(before: StorageStatus, now: StorageStatus, seconds: float) -> list[str]:
    parts: list[str] = [] if now.state == "storing" else [now.state]
    parts.append(f"{_rate(now.stored - before.stored, seconds)} messages/s")
    parts.append(f"{_rate(now.rows - before.rows, seconds)} rows/s")
    if now.waiting:
        parts.append(f"{now.waiting} wait")
    if dead := now.dead_letters - before.dead_letters:
        parts.append(f"{dead} dead letters")
    return parts + _quantiles("batches written in", now.batch_write.since(before.batch_write))


def _answers(before: Mapping[str, Mapping[str, int]], now: Mapping[str, Mapping[str, int]]) -> str:
    counts: Counter[str] = Counter()
    for action, answers in now.items():
        for answer, count in answers.items():
            counts[answer] += count - before.get(action, {}).get(answer, 0)
    return ", ".join(f"{count} {answer}" for answer, count in counts.most_common() if count) or "none"


def _quantiles(what: str, counts: Counts, after: str = "") -> list[str]:
    median, most = counts.quantile(0.5), counts.quantile(0.99)
    if median is None or most is None:
        return []
    return [f"{what} p50 {_milliseconds(median)} p99 {_milliseconds(most)} ms{after}"]


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.3g}" if seconds < 1 else f"{seconds * 1000:.0f}"


def _rate(count: int, seconds: float) -> str:
    rate = count / seconds
    return f"{rate:,.1f}" if rate < 100 else f"{rate:,.0f}"


def _money(amount: Decimal) -> str:
    return f"{amount:,.2f}"
