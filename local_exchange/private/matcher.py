"""The matcher: trades orders with the books, books what came of it, and pushes it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from local_exchange.private.account_checks import closable_by
from local_exchange.private.accounts import LinearResult
from local_exchange.private.decimals import floor_to
from local_exchange.private.matching import NOTHING, Match, walk, would_trade
from local_exchange.private.orders import Execution, Order

if TYPE_CHECKING:
    from local_exchange.private.accounts import Account
    from local_exchange.private.api import ExchangeClock
    from local_exchange.private.order_store import OrderStore
    from local_exchange.private.pushes import Push, Pushes
    from local_exchange.source import Source


@dataclass(frozen=True)
class Fate:
    """What faults have in mind for an order."""

    # Share of the quantity that is traded at most.
    share: Decimal = Decimal(1)
    # It ends as `Rejected` with this reason.
    reject_reason: str = ""


@dataclass
class Matcher:
    """Matches the orders of one account.

    How an order ends that is not or not wholly filled: https://bybit-exchange.github.io/docs/v5/enum, order
    status and reject reason.
    """

    source: Source
    account: Account
    store: OrderStore
    clock: ExchangeClock
    pushes: Pushes
    # Hands messages to the private stream.
    publish: Callable[[list[Push]], None]

    def match(self, order: Order, fate: Fate) -> None:
        """Trade an order with the book as it is now, and push what came of it."""
        if not order.is_open:
            return
        instrument = self.source.instruments[order.category, order.rules.symbol]
        self._cut_reduce_only(order)
        if order.time_in_force == "PostOnly" and would_trade(instrument, order):
            self.close(order, "Cancelled", "EC_PostOnlyWillTakeLiquidity")
            self.publish_end(order, [])
            return
        found = walk(instrument, order, fate.share) if order.qty and fate.share else NOTHING
        instrument.seq += 1
        executions = [self._execute(order, *fill, instrument.seq) for fill in found.fills]
        self._end(order, found, fate)
        if found.left:
            self.source.trade(instrument, bid=not order.is_buy, left=found.left)
        self.publish_end(order, executions)

    def _cut_reduce_only(self, order: Order) -> None:
        if order.reduce_only:
            position = self.account.position(order.rules.symbol, order.position_idx)
            order.qty = min(order.qty, closable_by(position, is_buy=order.is_buy))

    def _execute(self, order: Order, price: Decimal, size: Decimal, seq: int) -> Execution:
        """Book one level of a match."""
        rules, account, now = order.rules, self.account, self.clock.ns()
        rate = account.settings.taker_fees[order.category]
        leaves = order.unfilled - (price * size if order.in_quote else size)
        result, closed = LinearResult(Decimal(0), Decimal(0), Decimal(0)), Decimal(0)
        if order.category == "spot":
            fee, coin = account.book_spot(rules, buy=order.is_buy, price=price, size=size)
        else:
            idx = order.position_idx
            position = account.position(rules.symbol, idx)
            closed = min(size, closable_by(position, is_buy=order.is_buy))
            result = account.book_linear(rules, buy=order.is_buy, price=price, size=size, idx=idx)
            fee, coin = result.fee, rules.quote
            position.created_ms = position.created_ms or now // 1_000_000
            position.updated_ms, position.seq = now // 1_000_000, seq
        execution = Execution(
            exec_id=str(uuid.uuid4()),
            price=price,
            size=size,
            fee=fee,
            fee_rate=rate,
            fee_coin=coin,
            # Nothing of an amount in quote coin, or of a share of a step, can be filled any more.
            leaves=max(floor_to(leaves, rules.step), Decimal(0)) if not order.in_quote else Decimal(0),
            seq=seq,
            time_ms=now // 1_000_000,
            time_ns=now,
            profit=result.profit,
            closed=closed,
            extra_fee=result.extra,
            extra_rate=account.extra_fee,
        )
        self.store.add_execution(order, execution)
        account.prices.traded(order.category, rules.symbol, price)
        return execution

    def _end(self, order: Order, found: Match, fate: Fate) -> None:
        """Give an order the status that it has after its match."""
        if fate.reject_reason:
            self.close(order, "Rejected", fate.reject_reason)
        elif not order.in_quote and order.unfilled <= 0 and order.executions:
            self.close(order, "Filled", "EC_NoError")
        elif order.time_in_force in {"GTC", "PostOnly"} and order.qty:
            # It rests, and is never filled.
            order.status = "PartiallyFilled" if order.executions else "New"
            order.updated_ms = self.clock.ms()
        elif not found.fills:
            self.close(order, "Cancelled", "EC_NoImmediateQtyToFill")
        elif order.category == "spot":
            self.close(order, "PartiallyFilledCanceled", "EC_CancelForNoFullFill")
        else:
            self.close(order, "Cancelled", "EC_CancelForNoFullFill")

    def sequence(self, order: Order) -> int:
        """Return the newest sequence number of the order's instrument."""
        return self.source.instruments[order.category, order.rules.symbol].seq

    def close(self, order: Order, status: str, reason: str, cancel_type: str = "UNKNOWN") -> None:
        """Give an order its last status."""
        self.store.close(order)
        order.status = status
        order.reject_reason = reason
        order.cancel_type = cancel_type
        order.updated_ms = self.clock.ms()

    def publish_end(self, order: Order, executions: list[Execution]) -> None:
        """Push an order as it is now with what it has just traded; the position in any case."""
        seq = executions[-1].seq if executions else self.sequence(order)
        pushes = [
            *self.pushes.fast(order, executions),
            *self.pushes.executions(order, executions),
            self.pushes.order(order, seq),
        ]
        coins = [order.rules.quote]
        if order.category == "linear":
            position = self.account.position(order.rules.symbol, order.position_idx)
            pushes.append(self.pushes.position(position))
        else:
            coins.append(order.rules.base)
        if executions:
            pushes.append(self.pushes.wallet(coins, self.store.locked()))
        self.publish(pushes)
