"""The trading rules once more, from their text alone: plain lists and dicts, everything looked up anew.

Nothing of the system is imported here. Slow on purpose; the tests compare the system with it order by order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal, localcontext
from typing import Any, NamedTuple

Leg = tuple[str, str]
LevelTexts = Iterable[tuple[str, str] | list[str]]

BIDS = "b"
ASKS = "a"


class NaiveOrder(NamedTuple):
    """`spread` is the number of the spread, counted from 0 in the order of opening."""

    action: str
    buy: Leg
    buy_price: Decimal
    sell: Leg
    sell_price: Decimal
    size: Decimal
    spread: int


class NaiveBook:
    """What the exchange reported, and beside it what was consumed of each level."""

    def __init__(self) -> None:
        self.reported: dict[str, dict[Decimal, Decimal]] = {BIDS: {}, ASKS: {}}
        self.consumed: dict[str, dict[Decimal, Decimal]] = {BIDS: {}, ASKS: {}}
        self.in_sync = False
        self.u = 0
        self.newest: tuple[int, int, int] = (0, 0, 0)  # cts, seq, u of the newest message believed
        self.cts = 0
        self.received_ms = 0
        self.stale_in_a_row = 0
        self._best: dict[str, tuple[Decimal, Decimal] | None] = {}  # found already since the last change

    def apply(self, message: dict[str, Any], received_ms: int) -> str:
        self._best.clear()
        data = message["data"]
        u = data["u"]
        age = (message["cts"], data["seq"], u)
        levels = {side: [(Decimal(p), Decimal(s)) for p, s in data[side]] for side in (BIDS, ASKS)}
        if message["type"] == "snapshot":
            older = all(mine > other for mine, other in zip(self.newest, age, strict=True))
            if older and received_ms <= self.received_ms:
                return "stale"
            fresh = {side: {p: s for p, s in dict(levels[side]).items() if s != 0} for side in levels}
            if self.in_sync and u == self.u and (u != 1 or fresh == self.reported):
                self.received_ms = max(self.received_ms, received_ms)
                return "duplicate"
            for side in (BIDS, ASKS):
                for price in list(self.consumed[side]):
                    if fresh[side].get(price) != self.reported[side].get(price):
                        del self.consumed[side][price]
            self.reported = fresh
            self.in_sync = True
        else:
            if not self.in_sync:
                return "awaiting_snapshot"
            if u > self.u + 1:
                self.newest = age
                self.in_sync = False
                return "gap"
            if u != self.u + 1:
                if u == 1:
                    self.in_sync = False
                    return "gap"
                self.stale_in_a_row += 1
                if self.stale_in_a_row >= 10 and received_ms > self.received_ms + 2000:
                    self.in_sync = False
                    return "gap"
                return "stale"
            for side in (BIDS, ASKS):
                for price, size in levels[side]:
                    if self.reported[side].get(price, Decimal(0)) != size:
                        self.consumed[side].pop(price, None)
                    if size == 0:
                        self.reported[side].pop(price, None)
                    else:
                        self.reported[side][price] = size
        self.u = u
        self.newest = age
        self.cts = message["cts"]
        self.received_ms = received_ms
        self.stale_in_a_row = 0
        bid, ask = self.best(BIDS), self.best(ASKS)
        if bid and ask and bid[0] >= ask[0]:
            self.in_sync = False
            return "gap"
        return "applied"

    def available(self, side: str) -> dict[Decimal, Decimal]:
        consumed = self.consumed[side]
        return {
            price: size - consumed.get(price, 0)
            for price, size in self.reported[side].items()
            if size != consumed.get(price)
        }

    def best(self, side: str) -> tuple[Decimal, Decimal] | None:
        if side not in self._best:
            self._best[side] = self._find_best(side)
        return self._best[side]

    def _find_best(self, side: str) -> tuple[Decimal, Decimal] | None:
        consumed = self.consumed[side]
        prices = [price for price, size in self.reported[side].items() if size != consumed.get(price)]
        if not prices:
            return None
        price = max(prices) if side == BIDS else min(prices)
        return price, self.reported[side][price] - consumed.get(price, 0)

    def consume(self, side: str, price: Decimal, size: Decimal) -> None:
        self._best.clear()
        self.consumed[side][price] = self.consumed[side].get(price, Decimal(0)) + size
        assert self.consumed[side][price] <= self.reported[side][price], "more consumed than displayed"


class NaiveSpread:
    def __init__(self, number: int, long: Leg, short: Leg, entry: Decimal, left: Decimal) -> None:
        self.number = number
        self.long = long
        self.short = short
        self.entry = entry
        self.remaining = left


class NaiveMarket:
    """All books, groups and spreads. `ask` is the trading engine: it returns "" for ACK, or the refusal."""

    def __init__(self, ask: Callable[[NaiveOrder], str], stale_after_ms: int = 0) -> None:
        self.ask = ask
        self.stale_after_ms = stale_after_ms
        self.now = 0
        self.books: dict[Leg, NaiveBook] = {}
        self.groups: list[tuple[str, list[Leg]]] = []
        self.spreads: list[NaiveSpread] = []
        self.opened = 0
        self.orders: list[NaiveOrder] = []
        self.opens_stopped: set[tuple[Leg, Leg]] = set()
        self.closes_stopped: set[tuple[Leg, Leg]] = set()
        self.beyond_risk: set[tuple[Leg, Leg]] = set()
        self.subscribed: set[Leg] = set()
        self.removed: set[Leg] = set()

    def on_map(self, legs: Iterable[Leg]) -> None:
        now_named = set(legs)
        for leg in (self.subscribed | set(self.books)) - now_named:
            self.removed.add(leg)
            self.books.pop(leg, None)
            self._leave(leg)
            self._changed(leg)
        self.removed -= now_named
        self.subscribed = now_named

    def on_message(self, message: dict[str, Any], received_ms: int = 0) -> str:
        leg = (message["channel"], message["data"]["s"])
        if leg in self.removed:
            return "removed"
        book = self.books.setdefault(leg, NaiveBook())
        outcome = book.apply(message, received_ms)
        group = self._group_of(leg)
        key = message["matching_key"]
        if group is None or (group != key and outcome in {"applied", "duplicate"}):
            self._leave(leg)
            for other, members in self.groups:
                if other == key:
                    members.append(leg)
                    break
            else:
                self.groups.append((key, [leg]))
        if outcome == "applied":
            self._changed(leg)
            self._scan(leg)
        return outcome

    def _group_of(self, leg: Leg) -> str | None:
        for key, members in self.groups:
            if leg in members:
                return key
        return None

    def _leave(self, leg: Leg) -> None:
        for _, members in self.groups:
            if leg in members:
                members.remove(leg)
        self.groups = [(key, members) for key, members in self.groups if members]

    def _changed(self, leg: Leg) -> None:
        self.opens_stopped = {pair for pair in self.opens_stopped if leg not in pair}
        self.closes_stopped = {pair for pair in self.closes_stopped if leg not in pair}

    def _scan(self, leg: Leg) -> None:
        members = next(members for _, members in self.groups if leg in members)
        pairs = [(a, b) for a in members for b in members if a != b and leg in (a, b)]
        for pair in pairs:
            while self._open(*pair):
                pass
        for spread in [spread for spread in self.spreads if (spread.long, spread.short) in pairs]:
            while self._close(spread):
                pass

    def _is_tradable(self, leg: Leg) -> bool:
        book = self.books.get(leg)
        if book is None or not book.in_sync:
            return False
        return not self.stale_after_ms or self.now - book.received_ms <= self.stale_after_ms

    def _open(self, long: Leg, short: Leg) -> bool:
        pair = (long, short)
        if not (self._is_tradable(long) and self._is_tradable(short)):
            return False
        ask, bid = self.books[long].best(ASKS), self.books[short].best(BIDS)
        if ask is None or bid is None or not bid[0] > ask[0]:
            return False
        if pair in self.opens_stopped or pair in self.beyond_risk:
            return False
        size = min(bid[1], ask[1])
        order = NaiveOrder("Open Spread", long, ask[0], short, bid[0], size, self.opened)
        if not self._send(order, self.opens_stopped, pair):
            return False
        self.opened += 1
        self.books[long].consume(ASKS, ask[0], size)
        self.books[short].consume(BIDS, bid[0], size)
        self.spreads.append(NaiveSpread(order.spread, long, short, bid[0] - ask[0], size))
        return True

    def _close(self, spread: NaiveSpread) -> bool:
        pair = (spread.long, spread.short)
        if spread.remaining == 0 or not (self._is_tradable(spread.long) and self._is_tradable(spread.short)):
            return False
        bid, ask = self.books[spread.long].best(BIDS), self.books[spread.short].best(ASKS)
        if bid is None or ask is None or not abs(bid[0] - ask[0]) < spread.entry:
            return False
        if pair in self.closes_stopped:
            return False
        size = min(bid[1], ask[1], spread.remaining)
        order = NaiveOrder("Close Spread", spread.short, ask[0], spread.long, bid[0], size, spread.number)
        if not self._send(order, self.closes_stopped, pair):
            return False
        self.books[spread.long].consume(BIDS, bid[0], size)
        self.books[spread.short].consume(ASKS, ask[0], size)
        spread.remaining -= size
        if spread.remaining == 0:
            self.spreads.remove(spread)
        return True

    def _send(self, order: NaiveOrder, stopped: set[tuple[Leg, Leg]], pair: tuple[Leg, Leg]) -> bool:
        self.orders.append(order)
        refusal = self.ask(order)
        if refusal:
            stopped.add(pair)
            if refusal == "risk limit exceed" and order.action == "Open Spread":
                self.beyond_risk.add(pair)
            return False
        self.beyond_risk.clear()
        return True


class NaiveEngine:
    """Refuses opens by the risk limit alone, and adds up."""

    def __init__(self, limit: Decimal) -> None:
        self.limit = limit
        self.exposure: dict[Leg, Decimal] = {}
        self.pnl = Decimal(0)
        self.answers: dict[tuple[str, str], int] = {}

    def __call__(self, order: NaiveOrder) -> str:
        with localcontext() as context:
            context.prec = 100
            bought, sold = order.buy_price * order.size, order.sell_price * order.size
            after = {
                order.buy: self.exposure.get(order.buy, Decimal(0)) + bought,
                order.sell: self.exposure.get(order.sell, Decimal(0)) - sold,
            }
            refusal = ""
            for leg, exposure in after.items():
                before = self.exposure.get(leg, Decimal(0))
                grows = abs(exposure) > self.limit and abs(exposure) > abs(before)
                if grows and order.action == "Open Spread":
                    refusal = "risk limit exceed"
            if not refusal:
                self.exposure.update(after)
                self.pnl += sold - bought
        key = (order.action, "NOT ACK" if refusal else "ACK")
        self.answers[key] = self.answers.get(key, 0) + 1
        return refusal
