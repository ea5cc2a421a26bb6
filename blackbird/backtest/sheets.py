"""A run's figures as tables of text, which terminal and report show alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from blackbird.backtest.entry_buckets import EntryBucket
from blackbird.backtest.result import PairResult, Result

NOTHING = "-"
Line = tuple[str, ...]


@dataclass(frozen=True)
class Sheet:
    """A table: its first column is text, the others are figures. Without `heads` it has two columns."""

    title: str
    lines: list[Line]
    heads: Line = ()


def sheets_of(result: Result) -> list[Sheet]:
    """Return the tables of a run."""
    return [
        Sheet("Run", list(_run_lines(result))),
        Sheet("PnL in quote coin", list(_pnl_lines(result))),
        Sheet("Orders", list(_order_lines(result))),
        Sheet("Spreads", list(_spread_lines(result))),
        Sheet(
            "After fees",
            [
                (line.name, money(line.fees), money(line.closed), money(line.total))
                for line in result.fee_table
            ],
            ("rates", "fees", "closed PnL", "total at mark"),
        ),
        Sheet(
            "Spread offered and traded",
            [_pair_line(pair) for pair in result.pairs],
            ("pair", "offered, mean", "highest", "for", "entries", "mean", "exits", "mean cost"),
        ),
        Sheet(
            "PnL by entry spread, after fees",
            [_bucket_line(bucket) for bucket in result.by_entry],
            (
                "entry spread, bp of the long leg",
                "closed",
                "PnL",
                "with a profit",
                "held, median",
                "left open",
            ),
        ),
    ]


def _run_lines(result: Result) -> Iterator[Line]:
    yield "market", result.source
    yield "from", moment(result.begin_ms)
    yield "to", moment(result.end_ms)
    yield "messages", f"{result.messages:,}"


def _order_lines(result: Result) -> Iterator[Line]:
    for orders in result.orders:
        yield f"{orders.action}: {orders.answer}", f"{orders.count:,}"
    if not result.orders:
        yield "orders", "none"
    for reason, count in result.refusals.items():
        yield f"refused: {reason}", f"{count:,}"
    for reason, count in result.withheld.items():
        yield f"withheld: {reason}", f"{count:,}"
    yield (
        "entries waited at the risk limit",
        f"{seconds(result.at_limit_ms)} ({result.at_limit_share:.1%} of the time)",
    )
    for leg, exposure in result.exposures.items():
        yield f"exposure {leg}", money(exposure)


def _spread_lines(result: Result) -> Iterator[Line]:
    spreads = result.spreads
    yield "opened", f"{spreads.opened:,}"
    yield "closed", f"{spreads.closed:,}"
    yield "left open", f"{spreads.left:,}"
    hits = NOTHING if spreads.hit_rate is None else f"{spreads.hit_rate:.1%} ({spreads.profitable:,})"
    yield "closed with a profit after fees", hits
    yield "holding time, median", seconds(spreads.holding_p50_ms)
    yield "holding time, 90 %", seconds(spreads.holding_p90_ms)
    yield "holding time, longest", seconds(spreads.holding_max_ms)
    yield "PnL of a closed spread, mean", f"{money(spreads.mean_pnl)} ({bps(spreads.mean_bps)})"


def _pnl_lines(result: Result) -> Iterator[Line]:
    pnl, fall, even = result.pnl, result.drawdown, result.break_even
    yield "closed", money(pnl.closed)
    yield "open at mark", money(pnl.open_at_mark)
    yield "fees", money(-pnl.fees if pnl.fees else pnl.fees)
    yield "total", money(pnl.total)
    yield "cash (sum of flux)", money(pnl.cash)
    yield "entry credit of open spreads in it", money(pnl.credit)
    yield "largest drawdown at mark", money(fall.largest)
    if fall.largest:
        yield "from its peak at", moment(fall.start_ms)
        yield "to its trough at", moment(fall.end_ms)
    yield "turnover of all legs", money(result.turnover)
    yield "break-even fee of a leg, by closed PnL", bps(even.closed_bps)
    yield "break-even fee of a leg, by total", bps(even.total_bps)
    yield "break-even fee of a leg, by cash", bps(even.cash_bps)


def _pair_line(pair: PairResult) -> Line:
    return (
        f"long {pair.long} short {pair.short}",
        f"{pair.offered_mean:,.4f}",
        f"{pair.offered_highest:,.4f}",
        seconds(pair.offered_ms),
        f"{pair.entries:,}",
        f"{money(pair.entry_mean)} ({bps(pair.entry_bps)})",
        f"{pair.exits:,}",
        f"{money(pair.exit_mean)} ({bps(pair.exit_bps)})",
    )


def _bucket_line(bucket: EntryBucket) -> Line:
    return (
        f"{bucket.low_bps:f} to {bucket.high_bps:f}".replace("-", "\u2212"),
        f"{bucket.closed:,}",
        money(bucket.pnl),
        NOTHING if bucket.hit_rate is None else f"{bucket.hit_rate:.1%}",
        seconds(bucket.holding_p50_ms),
        f"{bucket.left:,}",
    )


def money(value: Decimal | None) -> str:
    """Return an amount with four decimals and a true minus sign."""
    return NOTHING if value is None else f"{value:,.4f}".replace("-", "\u2212")


def bps(value: Decimal | None) -> str:
    """Return basis points."""
    return NOTHING if value is None else f"{value:,.3f} bp".replace("-", "\u2212")


def seconds(ms: int | None) -> str:
    """Return a length of time in seconds, from two minutes on in h:mm:ss."""
    if ms is None:
        return NOTHING
    if ms < 120_000:
        return f"{ms / 1000:,.3f} s"
    minutes, rest = divmod(ms // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def moment(ms: int) -> str:
    """Return a time of day, UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC"
