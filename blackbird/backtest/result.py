"""What a run came to, in the lines that its reader asks for; `to_json` is what `--json` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Context, Decimal

import msgspec

from blackbird.backtest.entry_buckets import EntryBucket, entry_buckets
from blackbird.backtest.ledger import ClosedSpread, Ledger, Traded
from blackbird.backtest.percentiles import percentile
from blackbird.backtest.simulation import Simulation
from blackbird.market.decimals import EXACT, ZERO
from blackbird.trading.orders import ACK, CLOSE_SPREAD, OPEN_SPREAD
from blackbird.trading.spreads import Pair

# Bybit's rates without a VIP level: https://www.bybit.com/en/help-center/article/Trading-Fee-Structure
MAKER_FEES = {"spot": Decimal("0.001"), "linear": Decimal("0.0002"), "inverse": Decimal("0.0002")}
TAKER_FEES = {"spot": Decimal("0.001"), "linear": Decimal("0.00055"), "inverse": Decimal("0.00055")}

BASIS_POINTS = Decimal(10_000)
# Quotients are figures for people: twelve digits.
_QUOTIENT = Context(prec=12)


class Orders(msgspec.Struct, frozen=True):
    """How many orders of an action got an answer."""

    action: str
    answer: str
    count: int


class Pnl(msgspec.Struct, frozen=True):
    """Profit and loss in quote coin. `total` = closed + open_at_mark - fees; `cash` is the sum of flux.

    `credit` is the entry credit of what is open, which `cash` counts as if it were earned.
    """

    closed: Decimal
    open_at_mark: Decimal
    fees: Decimal
    total: Decimal
    cash: Decimal
    credit: Decimal


class DrawdownResult(msgspec.Struct, frozen=True):
    """The largest fall of the marked curve, in quote coin, from its peak to its trough."""

    largest: Decimal
    start_ms: int
    end_ms: int


class Spreads(msgspec.Struct, frozen=True):
    """Spreads by what became of them, and what the closed ones earned and how long they were held."""

    opened: int
    closed: int
    left: int
    profitable: int  # of the closed ones, after fees
    hit_rate: float | None
    holding_p50_ms: int | None
    holding_p90_ms: int | None
    holding_max_ms: int | None
    mean_pnl: Decimal | None  # of a closed spread, after fees
    mean_bps: Decimal | None  # of what was paid for the long leg


class BreakEven(msgspec.Struct, frozen=True):
    """The fee at which nothing is earned, in basis points of each leg's value; below zero: lost without fees.

    Of the PnL of closed spreads, of all with the open ones at mark, and of the cash as it is.
    """

    closed_bps: Decimal | None
    total_bps: Decimal | None
    cash_bps: Decimal | None


class FeeLine(msgspec.Struct, frozen=True):
    """What a run would have earned at other fees: the same orders, for they depend on the settings alone."""

    name: str
    fees: Decimal
    closed: Decimal  # less the fees of everything traded
    total: Decimal


class PairResult(msgspec.Struct, frozen=True):
    """The spread of a pair, bid(short) - ask(long): as the books offered it, and as it was traded.

    Offered: the mean over the time in which it was above 0, and the highest. Traded: the means by size of
    the entries and of the exits, as ask(short) - bid(long).
    """

    long: str
    short: str
    offered_ms: int
    offered_mean: float
    offered_highest: float
    entries: int
    entry_mean: Decimal | None
    entry_bps: Decimal | None
    exits: int
    exit_mean: Decimal | None
    exit_bps: Decimal | None


class Result(msgspec.Struct, frozen=True):
    """All figures of a run. Times are milliseconds since 1970, money is quote coin."""

    source: str
    messages: int
    begin_ms: int
    end_ms: int
    orders: list[Orders]
    refusals: dict[str, int]
    withheld: dict[str, int]
    spreads: Spreads
    pnl: Pnl
    drawdown: DrawdownResult
    at_limit_ms: int
    at_limit_share: float
    turnover: Decimal
    break_even: BreakEven
    fee_table: list[FeeLine]
    pairs: list[PairResult]
    by_entry: list[EntryBucket]
    exposures: dict[str, Decimal]


_encode = msgspec.json.Encoder(decimal_format="number").encode


def to_json(result: Result) -> bytes:
    """Return the figures as indented JSON; numbers are written exactly."""
    return msgspec.json.format(_encode(result), indent=2)


def result_of(simulation: Simulation, source: str) -> Result:
    """Return the figures of a finished run."""
    ledger, marks, end_ms = simulation.ledger, simulation.marks, simulation.clock.ms
    length_ms = max(end_ms - simulation.begin_ms, 1)
    at_limit_ms = ledger.at_limit.until(end_ms)
    total = marks.total
    turnover = sum(ledger.turnover.values(), ZERO)
    gross = EXACT.add(total, ledger.fees)
    drawdown = marks.drawdown
    return Result(
        source=source,
        messages=simulation.messages,
        begin_ms=simulation.begin_ms,
        end_ms=end_ms,
        orders=[
            Orders(action, answer, count)
            for (action, answer), count in sorted(ledger.answers.items(), key=_order_of_actions)
        ],
        refusals=dict(ledger.refusals.most_common()),
        withheld=_withheld(simulation),
        spreads=_spreads(ledger),
        pnl=Pnl(ledger.closed_pnl, marks.open_at_mark, ledger.fees, total, ledger.cash, ledger.credit),
        drawdown=DrawdownResult(drawdown.largest, drawdown.start_ms, drawdown.end_ms),
        at_limit_ms=at_limit_ms,
        at_limit_share=at_limit_ms / length_ms,
        turnover=turnover,
        break_even=BreakEven(
            _bps(ledger.closed_pnl, turnover), _bps(gross, turnover), _bps(ledger.cash, turnover)
        ),
        fee_table=_fee_table(simulation, gross),
        pairs=[_pair(simulation, pair) for pair in marks.offered],
        by_entry=entry_buckets(ledger.closed, ledger.open_entries()),
        exposures={str(leg): exposure for leg, exposure in simulation.engine.risks.items()},
    )


def _order_of_actions(item: tuple[tuple[str, str], int]) -> tuple[bool, bool]:
    (action, answer), _ = item
    return action != OPEN_SPREAD, answer != ACK


def _withheld(simulation: Simulation) -> dict[str, int]:
    counts: dict[str, int] = {}
    for (reason, _), count in simulation.signal.checks.untraded.items():
        counts[str(reason)] = counts.get(str(reason), 0) + count
    return counts


def _spreads(ledger: Ledger) -> Spreads:
    closed = ledger.closed
    after_fees = [EXACT.subtract(spread.pnl, spread.fees) for spread in closed]
    profitable = sum(earned > ZERO for earned in after_fees)
    holding = sorted(spread.closed_ms - spread.opened_ms for spread in closed)
    earned = sum(after_fees, ZERO)
    return Spreads(
        opened=ledger.opened,
        closed=len(closed),
        left=ledger.left,
        profitable=profitable,
        hit_rate=profitable / len(closed) if closed else None,
        holding_p50_ms=percentile(holding, 50),
        holding_p90_ms=percentile(holding, 90),
        holding_max_ms=percentile(holding, 100),
        mean_pnl=_quotient(earned, Decimal(len(closed))),
        mean_bps=_bps(earned, _value_of(closed)),
    )


def _value_of(closed: Sequence[ClosedSpread]) -> Decimal:
    return sum((spread.value for spread in closed), ZERO)


def _fee_table(simulation: Simulation, gross: Decimal) -> list[FeeLine]:
    ledger = simulation.ledger
    rates: dict[str, Mapping[str, Decimal]] = {"no fees": {}, "maker": MAKER_FEES, "taker": TAKER_FEES}
    configured = simulation.parameters.taker_fees
    if any(configured.values()):
        rates["as set"] = configured
    lines = []
    for name, by_channel in rates.items():
        fees = ZERO
        for channel, value in ledger.turnover.items():
            if rate := by_channel.get(channel):
                fees = EXACT.add(fees, EXACT.multiply(value, rate))
        lines.append(
            FeeLine(name, fees, EXACT.subtract(ledger.closed_pnl, fees), EXACT.subtract(gross, fees))
        )
    return lines


def _pair(simulation: Simulation, pair: Pair) -> PairResult:
    ledger, offered = simulation.ledger, simulation.marks.offered[pair]
    entries = ledger.traded.get((pair, OPEN_SPREAD), Traded())
    exits = ledger.traded.get((pair, CLOSE_SPREAD), Traded())
    offered_ms, offered_mean = offered.until(simulation.clock.ms)
    return PairResult(
        long=str(pair.long),
        short=str(pair.short),
        offered_ms=offered_ms,
        offered_mean=offered_mean,
        offered_highest=offered.highest,
        entries=entries.count,
        entry_mean=_quotient(entries.difference, entries.size),
        entry_bps=_bps(entries.difference, entries.value),
        exits=exits.count,
        # An exit buys the short leg and sells the long one: what was paid for it is the difference reversed.
        exit_mean=_quotient(EXACT.minus(exits.difference), exits.size),
        exit_bps=_bps(EXACT.minus(exits.difference), exits.value),
    )


def _quotient(number: Decimal, by: Decimal) -> Decimal | None:
    return _QUOTIENT.divide(number, by) if by else None


def _bps(number: Decimal, of: Decimal) -> Decimal | None:
    return _QUOTIENT.divide(EXACT.multiply(number, BASIS_POINTS), of) if of else None
