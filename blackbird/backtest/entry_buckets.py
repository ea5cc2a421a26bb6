"""PnL by entry spread: whether the wide entries earn more than the narrow ones, and whether they close."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import msgspec

from blackbird.backtest.ledger import ClosedSpread, Entry
from blackbird.backtest.percentiles import percentile
from blackbird.market.decimals import EXACT, ZERO

MOST_BUCKETS = 10
_BASIS_POINTS = 10_000
_NARROWEST_BPS = Decimal("0.001")
_WIDER = (Decimal(2), Decimal("2.5"), Decimal(2))  # 1, 2, 5, 10


class EntryBucket(msgspec.Struct, frozen=True):
    """Spreads opened at `low_bps` <= entry spread < `high_bps` of the long leg's price.

    PnL is of the closed ones, after fees, in quote coin; `left` are open.
    """

    low_bps: Decimal
    high_bps: Decimal
    closed: int
    left: int
    pnl: Decimal
    hit_rate: float | None  # of the closed ones, after fees
    holding_p50_ms: int | None


def entry_buckets(closed: Sequence[ClosedSpread], left: Sequence[Entry]) -> list[EntryBucket]:
    """Return the buckets that have spreads, lowest first; all are as wide, a round number of basis points."""
    entries = [*(spread.entry for spread in closed), *left]
    if not entries:
        return []
    width = _width([_bps(entry) for entry in entries])
    closed_in: dict[int, list[ClosedSpread]] = {}
    left_in: dict[int, int] = {}
    for spread in closed:
        closed_in.setdefault(_number(spread.entry, width), []).append(spread)
    for entry in left:
        number = _number(entry, width)
        left_in[number] = left_in.get(number, 0) + 1
    return [
        _bucket(number, width, closed_in.get(number, []), left_in.get(number, 0))
        for number in sorted(closed_in.keys() | left_in.keys())
    ]


def _bps(entry: Entry) -> Decimal:
    return entry.spread * _BASIS_POINTS / entry.long_price


def _number(entry: Entry, width: Decimal) -> int:
    # Decimals divide towards zero; an entry below zero belongs into the bucket below.
    number, rest = EXACT.divmod(
        EXACT.multiply(entry.spread, Decimal(_BASIS_POINTS)), EXACT.multiply(entry.long_price, width)
    )
    return int(number) - (rest < 0)


def _width(bps: Sequence[Decimal]) -> Decimal:
    lowest, highest = min(bps), max(bps)
    width, step = _NARROWEST_BPS, 0
    # One more bucket than whole widths, as the lowest need not begin one.
    while (highest - lowest) / width > MOST_BUCKETS - 1:
        width *= _WIDER[step % len(_WIDER)]
        step += 1
    return width.normalize()


def _bucket(number: int, width: Decimal, closed: Sequence[ClosedSpread], left: int) -> EntryBucket:
    after_fees = [EXACT.subtract(spread.pnl, spread.fees) for spread in closed]
    return EntryBucket(
        low_bps=number * width,
        high_bps=(number + 1) * width,
        closed=len(closed),
        left=left,
        pnl=sum(after_fees, ZERO),
        hit_rate=sum(earned > ZERO for earned in after_fees) / len(closed) if closed else None,
        holding_p50_ms=percentile(sorted(each.closed_ms - each.opened_ms for each in closed), 50),
    )
