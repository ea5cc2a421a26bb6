"""The order desk: takes orders, to be matched a little later, and cancels them.

https://bybit-exchange.github.io/docs/v5/order/create-order: an answer without error means that an order was
accepted; what becomes of it is told by the private stream and by look-ups.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from local_exchange.private.account_checks import allow
from local_exchange.private.api import CREATE, ApiError, ExchangeClock
from local_exchange.private.matcher import Fate, Matcher
from local_exchange.private.order_request import OrderRequest, parse_order
from local_exchange.private.orders import Order

if TYPE_CHECKING:
    from local_exchange.fault_rules import FaultRules, Rule
    from local_exchange.private.account_checks import Allowance
    from local_exchange.private.accounts import Account
    from local_exchange.private.order_store import OrderStore
    from local_exchange.private.pushes import Push, Pushes
    from local_exchange.private.rules import RuleBook


@dataclass
class OrderDesk:
    """Takes the orders of one account, and hands them to the matcher when it is their time."""

    rule_book: RuleBook
    account: Account
    store: OrderStore
    clock: ExchangeClock
    faults: FaultRules
    pushes: Pushes
    matcher: Matcher
    rng: random.Random
    # Hands messages to the private stream.
    publish: Callable[[list[Push]], None]
    _matching: set[asyncio.TimerHandle] = field(default_factory=set)

    def create(self, given: dict[str, Any]) -> Order:
        """Take an order, to be matched in some milliseconds.

        Raises:
            ApiError: it is refused.
        """
        prices = self.account.prices
        request = parse_order(given, self.rule_book, prices, is_known=self.store.is_known)
        can_lend = not self.faults.has("no_loan")
        allowance = allow(request, self.account, self.store.locked(), can_lend=can_lend)
        if allowance.borrowed:
            self.account.borrow(allowance.locked_coin, allowance.borrowed)
        order = self._order(request, allowance)
        lag = self._meet("order_lag", order)
        if lag is not None:
            order.visible_ns = order.created_ns + int(lag.given["ms"] * 1_000_000)
        self.store.add(order)
        fate, late = self._fate(order), self._meet("late_fill", order)
        delay = self.rng.uniform(*self.account.settings.fill_delay)
        self._announce(order)
        self._later(late.given["ms"] / 1000 if late else delay, lambda: self.matcher.match(order, fate))
        return order

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something later, unless the exchange ends first."""

        def act() -> None:
            self._matching.discard(handle)
            action()

        handle = asyncio.get_running_loop().call_later(seconds, act)
        self._matching.add(handle)

    @property
    def waiting(self) -> int:
        """How many orders wait to be matched."""
        return len(self._matching)

    def stop(self) -> None:
        """Match nothing more."""
        for handle in self._matching:
            handle.cancel()
        self._matching.clear()

    def cancel(self, category: str, order_id: str, link_id: str) -> Order:
        """Cancel an order.

        Raises:
            ApiError: there is no such order, or it is closed.
        """
        order = self.store.find(category, order_id, link_id)
        if order is None or not order.is_open:
            if category == "spot":
                raise ApiError(170213, "Order does not exist.")
            raise ApiError(110001, "order not exists or too late to cancel")
        self.matcher.close(order, "Cancelled", "EC_PerCancelRequest", "CancelByUser")
        self.matcher.publish_end(order, [])
        return order

    def _meet(self, fault: str, order: Order) -> Rule | None:
        facts = {"path": CREATE, "side": order.side, "link": order.link_id}
        return self.faults.meet(fault, order.category, order.rules.symbol, facts=facts)

    def _order(self, request: OrderRequest, allowance: Allowance) -> Order:
        now = self.clock.ns()
        linear = request.rules.category == "linear"
        return Order(
            rules=request.rules,
            order_id=str(uuid.uuid4()) if linear else str(2_281_309_546_159_014_400 + len(self.store.orders)),
            link_id=request.link_id,
            side=request.side,
            order_type=request.order_type,
            qty=allowance.qty,
            price=request.price,
            time_in_force=request.time_in_force,
            created_ms=now // 1_000_000,
            created_ns=now,
            position_idx=request.position_idx,
            reduce_only=request.reduce_only,
            is_leverage=request.is_leverage,
            market_unit=request.market_unit,
            slippage=request.slippage,
            last_price=request.last_price,
            updated_ms=now // 1_000_000,
            visible_ns=now,
            locked_coin=allowance.locked_coin,
            locked_per_unit=allowance.locked_per_unit,
        )

    def _fate(self, order: Order) -> Fate:
        rejected = self._meet("reject_after_accept", order)
        if rejected is not None:
            return Fate(Decimal(str(rejected.given["part"])), rejected.given["reason"])
        if self._meet("no_fill", order) is not None:
            return Fate(Decimal(0))
        part = self._meet("part_fill", order)
        return Fate() if part is None else Fate(Decimal(str(part.given["part"])))

    def _announce(self, order: Order) -> None:
        """Push the order as new, which the exchange does not do for each; and the position, which it does."""
        pushes = []
        if order.time_in_force in {"GTC", "PostOnly"} or self.rng.random() < 0.5:
            pushes.append(self.pushes.order(order, self.matcher.sequence(order)))
        if order.category == "linear":
            position = self.account.position(order.rules.symbol, order.position_idx)
            pushes.append(self.pushes.position(position))
        self.publish(pushes)
