"""The rows of the trading engine's tables, and the records that they are made of and read back as."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Literal, NamedTuple

from blackbird.market.decimals import EXACT
from blackbird.market.instrument import Instrument
from blackbird.trading.leg_order import BUY, Fill
from blackbird.trading.orders import CLOSE_SPREAD, OPEN_SPREAD, UNWIND, Order
from blackbird.trading.records import (
    DUST,
    Execution,
    Leftover,
    Part,
    Refusal,
    Resolution,
    Resolved,
    Traded,
    Unwind,
    Unwound,
    average_price,
)
from blackbird.trading.spreads import Pair
from database_manager import FixedTable

Side = Literal["buy", "sell"]


class OrderRow(NamedTuple):
    """One leg of an execution, as `bybit."order"` has it; `flux` is signed cash, minus for the buy leg."""

    channel: str
    symbol_name: str
    price: Decimal
    size: Decimal
    type: Side
    flux: Decimal
    ts_orderbook: int
    order_id: str | None
    action: str
    spread_id: str | None
    placed_at: int
    execution_id: int
    request_key: str | None
    fee: Decimal | None = None
    trade_id: str | None = None
    asked_price: Decimal | None = None
    asked_size: Decimal | None = None
    published_at: int | None = None
    received_at: int | None = None
    decided_at: int | None = None


class RefusedOrderRow(NamedTuple):
    """A refusal, as `bybit.refused_order` has it."""

    execution_id: int
    info: str
    answered_at: int
    order_id: str | None
    request_key: str | None
    trade_id: str | None


class FillRow(NamedTuple):
    """A fill of a real order, as `bybit.fill` has it."""

    link_id: str
    exec_id: str
    trade_id: str
    channel: str
    symbol_name: str
    side: Side
    price: Decimal
    size: Decimal
    value: Decimal
    fee: Decimal
    fee_coin: str
    exec_type: str
    ts: int


class LeftoverRow(NamedTuple):
    """A leftover of a real trade, as `bybit.leftover` has it."""

    trade_id: str
    number: int
    channel: str
    symbol_name: str
    size: Decimal
    flux: Decimal
    fee: Decimal | None
    reason: str
    since: int
    long_channel: str | None
    long_symbol: str | None
    short_channel: str | None
    short_symbol: str | None
    resolved_at: int | None
    resolution: Resolution | None


REFUSED_ORDERS = FixedTable("bybit.refused_order", RefusedOrderRow._fields)
FILLS = FixedTable("bybit.fill", FillRow._fields)
LEFTOVERS = FixedTable("bybit.leftover", LeftoverRow._fields)


# --- to the database -----------------------------------------------------------------------------


def order_rows(execution: Execution) -> tuple[OrderRow, OrderRow]:
    """Return the rows of the buy leg and of the sell leg."""
    order, traded = execution.order, execution.traded
    if traded is not None:
        return (
            _traded_row(execution, traded, "buy", traded.buy, order.buy_price, order.ts_buy),
            _traded_row(execution, traded, "sell", traded.sell, order.sell_price, order.ts_sell),
        )
    buy_fee, sell_fee = execution.fees or (None, None)
    # Exact: a unary minus would round to the 28 digits of the default context.
    paid = EXACT.multiply(order.buy_price, order.size).copy_negate()
    received = EXACT.multiply(order.sell_price, order.size)
    return (
        _order_row(execution, order.buy, order.buy_price, "buy", paid, order.ts_buy, buy_fee),
        _order_row(execution, order.sell, order.sell_price, "sell", received, order.ts_sell, sell_fee),
    )


def _order_row(
    execution: Execution,
    leg: Instrument,
    price: Decimal,
    side: Side,
    flux: Decimal,
    ts_orderbook: int,
    fee: Decimal | None,
) -> OrderRow:
    order = execution.order
    return OrderRow(
        leg.channel,
        leg.symbol,
        price,
        order.size,
        side,
        flux,
        ts_orderbook,
        order.order_id,
        order.action,
        order.spread_id,
        execution.placed_at,
        execution.execution_id,
        execution.request_key,
        fee,
        published_at=order.published_buy if side == "buy" else order.published_sell,
        received_at=order.received_buy if side == "buy" else order.received_sell,
        decided_at=order.decided_at,
    )


def _traded_row(
    execution: Execution, traded: Traded, side: Side, part: Part, asked_price: Decimal, ts_orderbook: int
) -> OrderRow:
    order = execution.order
    price = average_price(part.flux, traded.size)
    row = _order_row(execution, part.instrument, price, side, part.flux, ts_orderbook, part.fee)
    return row._replace(
        size=traded.size, trade_id=traded.trade_id, asked_price=asked_price, asked_size=order.size
    )


def unwind_rows(unwind: Unwind) -> tuple[OrderRow, OrderRow]:
    """Return the rows of what was bought and of what was sold."""
    unwound = unwind.unwound
    return (
        _unwind_row(unwind, "buy", unwound.bought, unwound.bought_at),
        _unwind_row(unwind, "sell", unwound.sold, unwound.sold_at),
    )


def _unwind_row(unwind: Unwind, side: Side, part: Part, filled_at: int) -> OrderRow:
    unwound = unwind.unwound
    return OrderRow(
        *part.instrument,
        price=average_price(part.flux, unwound.size),
        size=unwound.size,
        type=side,
        flux=part.flux,
        ts_orderbook=filled_at,
        order_id=None,
        action=UNWIND,
        spread_id=None,
        placed_at=unwind.placed_at,
        execution_id=unwind.execution_id,
        request_key=None,
        fee=part.fee,
        trade_id=unwound.trade_id,
    )


def refused_order_row(refusal: Refusal) -> RefusedOrderRow:
    """Return the row of a refusal."""
    return RefusedOrderRow(
        execution_id=refusal.execution_id,
        info=refusal.info,
        answered_at=refusal.answered_at,
        order_id=refusal.order_id,
        request_key=refusal.request_key,
        trade_id=refusal.trade_id,
    )


def fill_row(fill: Fill, trade_id: str) -> FillRow:
    """Return the row of a fill of a trade."""
    return FillRow(
        link_id=fill.link_id,
        exec_id=fill.exec_id,
        trade_id=trade_id,
        channel=fill.instrument.channel,
        symbol_name=fill.instrument.symbol,
        side="buy" if fill.side == BUY else "sell",
        price=fill.price,
        size=fill.quantity,
        value=EXACT.multiply(fill.price, fill.quantity),
        fee=fill.fee,
        fee_coin=fill.fee_coin,
        exec_type=fill.exec_type,
        ts=fill.time,
    )


def leftover_row(leftover: Leftover) -> LeftoverRow:
    """Return the row of a leftover; dust is resolved from the beginning."""
    long, short = leftover.pair or (None, None)
    return LeftoverRow(
        trade_id=leftover.trade_id,
        number=leftover.number,
        channel=leftover.instrument.channel,
        symbol_name=leftover.instrument.symbol,
        size=leftover.size,
        flux=leftover.flux,
        fee=leftover.fee,
        reason=leftover.reason,
        since=leftover.since,
        long_channel=long and long.channel,
        long_symbol=long and long.symbol,
        short_channel=short and short.channel,
        short_symbol=short and short.symbol,
        resolved_at=None if leftover.blocks else leftover.since,
        resolution=None if leftover.blocks else DUST,
    )


# --- from the database ---------------------------------------------------------------------------


def executions(rows: Iterator[OrderRow]) -> Iterator[Execution | Unwind]:
    """Return executions from rows in the order buy leg, sell leg, buy leg, sell leg."""
    for buy, sell in zip(rows, rows, strict=True):
        yield _unwind(buy, sell) if buy.action == UNWIND else _execution(buy, sell)


def _execution(buy: OrderRow, sell: OrderRow) -> Execution:
    is_real = buy.trade_id is not None
    order = Order(
        action=OPEN_SPREAD if buy.action == OPEN_SPREAD else CLOSE_SPREAD,
        buy=Instrument(buy.channel, buy.symbol_name),
        buy_price=buy.price if buy.asked_price is None else buy.asked_price,
        sell=Instrument(sell.channel, sell.symbol_name),
        sell_price=sell.price if sell.asked_price is None else sell.asked_price,
        size=buy.size if buy.asked_size is None else buy.asked_size,
        ts_buy=buy.ts_orderbook,
        ts_sell=sell.ts_orderbook,
        order_id=buy.order_id,
        spread_id=buy.spread_id,
    )
    return Execution(
        buy.execution_id,
        order,
        buy.placed_at,
        buy.request_key,
        traded=Traded(buy.trade_id, buy.size, _part(buy), _part(sell)) if buy.trade_id is not None else None,
        fees=None if is_real or (buy.fee is None and sell.fee is None) else (buy.fee, sell.fee),
    )


def _unwind(buy: OrderRow, sell: OrderRow) -> Unwind:
    unwound = Unwound(
        trade_id=buy.trade_id or "",
        size=buy.size,
        bought=_part(buy),
        sold=_part(sell),
        bought_at=buy.ts_orderbook,
        sold_at=sell.ts_orderbook,
    )
    return Unwind(buy.execution_id, buy.placed_at, unwound)


def _part(row: OrderRow) -> Part:
    return Part(Instrument(row.channel, row.symbol_name), row.flux, row.fee)


def refusals(rows: Iterable[RefusedOrderRow]) -> Iterator[Refusal]:
    """Return refusals from their rows."""
    for row in rows:
        yield Refusal(
            execution_id=row.execution_id,
            info=row.info,
            answered_at=row.answered_at,
            order_id=row.order_id,
            request_key=row.request_key,
            trade_id=row.trade_id,
        )


def leftovers(rows: Iterable[LeftoverRow]) -> Iterator[Leftover | Resolved]:
    """Return leftovers from their rows, each with what became of it."""
    for row in rows:
        yield Leftover(
            trade_id=row.trade_id,
            number=row.number,
            instrument=Instrument(row.channel, row.symbol_name),
            size=row.size,
            flux=row.flux,
            fee=row.fee,
            reason=row.reason,
            since=row.since,
            pair=pair_of_leftover(row),
        )
        if row.resolution is not None and row.resolved_at is not None and row.resolution != DUST:
            yield Resolved(row.trade_id, row.number, row.resolution, row.resolved_at)


def pair_of_leftover(row: LeftoverRow) -> Pair | None:
    """Return the pair whose opens a leftover blocks, None where it blocks every pair of its instrument."""
    if row.long_channel is None:
        return None
    return Pair(
        Instrument(row.long_channel, row.long_symbol or ""),
        Instrument(row.short_channel or "", row.short_symbol or ""),
    )
