"""Asks the exchange about orders, wallets and positions.

https://bybit-exchange.github.io/docs/v5/order/open-order, .../order/order-list, .../order/execution,
.../position, .../account/wallet-balance. What is not found is an empty list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from blackbird.bybit.account_rows import (
    TRADE,
    InvalidRow,
    Position,
    Row,
    Wallet,
    read_fill,
    read_free_margin,
    read_order,
    read_position,
    read_wallets,
)
from blackbird.bybit.rest import Call, Refusal, Rest, RestError
from blackbird.market.instrument import Instrument
from blackbird.trading.leg_order import Fill, Final, NotFound, Taken

# "Order does not exist", which look-ups by id are said to answer now and then instead of an empty list.
NO_SUCH_ORDER = 110001
PAGE = 100
MOST_PAGES = 50


class LookUpFailed(Exception):
    """The exchange has not answered a look-up, or not with what was asked for: nothing is known."""


class FoundOrder(NamedTuple):
    """What look-ups have found of an order: the events, and the rows of its fills."""

    events: Sequence[Taken | Fill | Final | NotFound]
    fill_rows: Sequence[Row] = ()


class Balances(NamedTuple):
    """Every coin of the account, and what of its margin is free in USD, None where that is not said."""

    wallets: Sequence[Wallet]
    free_margin: Decimal | None


class LookUps:
    """The look-ups of one account."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest

    async def order(self, link_id: str, instrument: Instrument, settle_coin: str) -> FoundOrder:
        """Return what is found of an order; raises LookUpFailed.

        Recently closed orders are forgotten by `realtime` when the exchange restarts, and are in `history`
        then; the executions are asked for in any case.
        """
        try:
            return await self._order(link_id, instrument, settle_coin)
        except (RestError, InvalidRow) as error:
            raise LookUpFailed(f"look-up of {link_id}: {error}") from None

    async def _order(self, link_id: str, instrument: Instrument, settle_coin: str) -> FoundOrder:
        row = await self._order_row(link_id, instrument)
        fill_rows = await self._fill_rows(link_id, instrument)
        if row is None:
            # It may have closed between the two, or be missing from one of them.
            row = await self._order_row(link_id, instrument) if fill_rows else None
        if row is None and not fill_rows:
            return FoundOrder([NotFound(link_id)])
        fills = [read_fill(each, instrument.channel, settle_coin) for each in fill_rows]
        if row is None:
            return FoundOrder([Taken(link_id), *fills], fill_rows)
        return FoundOrder([Taken(link_id, str(row.get("orderId", ""))), *fills, *_end(row)], fill_rows)

    async def _order_row(self, link_id: str, instrument: Instrument) -> Row | None:
        category, symbol = instrument
        query = {"category": category, "symbol": symbol, "orderLinkId": link_id}
        rows = await self._rows(lambda session: session.get_open_orders(**query))
        if not rows:
            rows = await self._rows(lambda session: session.get_order_history(**query))
        found = [row for row in rows if row.get("orderLinkId") == link_id]
        if rows and not found:
            raise RestError(f"expected the order {link_id}, was another")
        return found[0] if found else None

    async def _fill_rows(self, link_id: str, instrument: Instrument) -> list[Row]:
        """Return the trades of an order; an answer with a cursor may have another page."""
        category, symbol = instrument
        query: dict[str, Any] = {
            "category": category,
            "symbol": symbol,
            "orderLinkId": link_id,
            "limit": PAGE,
        }
        rows: list[Row] = []
        for _ in range(MOST_PAGES):
            result = await self._rest.call(_executions(query))
            page = _list(result)
            rows += [
                row for row in page if row.get("orderLinkId") == link_id and row.get("execType") == TRADE
            ]
            query["cursor"] = result.get("nextPageCursor")
            if len(page) < PAGE or not query["cursor"]:
                break
        return list({row.get("execId"): row for row in rows}.values())

    async def _rows(self, call: Call) -> list[Row]:
        try:
            return _list(await self._rest.call(call))
        except Refusal as refusal:
            if refusal.code == NO_SUCH_ORDER:
                return []
            raise

    async def balances(self) -> Balances:
        """Return what the account has; raises RestError."""
        result = await self._rest.call(lambda session: session.get_wallet_balance(accountType="UNIFIED"))
        try:
            rows = _list(result)
            wallets = [wallet for row in rows for wallet in read_wallets(row)]
            return Balances(wallets, read_free_margin(rows[0]) if rows else None)
        except InvalidRow as error:
            raise RestError(str(error)) from None

    async def positions(self, symbol: str) -> list[Position]:
        """Return the rows of a perpetual: one where it is in one-way mode; raises RestError."""
        result = await self._rest.call(
            lambda session: session.get_positions(category="linear", symbol=symbol)
        )
        try:
            positions = [read_position(row) for row in _list(result)]
        except InvalidRow as error:
            raise RestError(str(error)) from None
        if not positions:
            raise RestError(f"expected a position of {symbol}, was none")
        return positions


def _executions(query: Mapping[str, Any]) -> Call:
    given = {name: value for name, value in query.items() if value}
    return lambda session: session.get_executions(**given)


def _end(row: Row) -> list[Final]:
    event = read_order(row)
    return [event] if isinstance(event, Final) else []


def _list(result: Mapping[str, Any]) -> list[Row]:
    rows = result.get("list")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RestError("expected a list of rows, was something else")
    return rows
