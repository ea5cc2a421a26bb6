"""Real trades made by chance: orders, and fills as an exchange with steps, fees and thin books has them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from fractions import Fraction

from blackbird.market.instrument import Instrument
from blackbird.trading.engine import TradingEngine
from blackbird.trading.instrument_rules import InstrumentRules, round_down
from blackbird.trading.leg_order import BUY, SELL, Fill, Side
from blackbird.trading.orders import CLOSE_SPREAD, OPEN_SPREAD, SELL_LEG_FAILED, Order
from blackbird.trading.records import Leftover, TradeOutcome
from blackbird.trading.settlement import settle
from tests.support.trade_model import PERP, SPOT, rules

RULES: dict[Instrument, InstrumentRules] = {SPOT: rules(SPOT), PERP: rules(PERP)}
STEP = Decimal("0.001")  # of both
NOW = 1_800_000_000_000

Sums = dict[Instrument, Fraction]


def new_engine(*, limit: str = "1e9", cooldown_ms: int = 0, unique_order: bool = True) -> TradingEngine:
    """Return an engine whose clock stands still."""
    return TradingEngine(
        limit=Decimal(limit), unique_order=unique_order, clock=lambda: NOW, pair_cooldown_ms=cooldown_ms
    )


def fill(
    instrument: Instrument,
    side: Side,
    quantity: str | Decimal,
    price: str | Decimal = "64000",
    *,
    fee: str | Decimal = "0",
    fee_coin: str | None = None,
    number: int = 1,
    link_id: str = "link",
) -> Fill:
    """Return a fill; `number` is its time and makes its id, the coin of the fee is the quote coin."""
    coin = RULES[instrument].quote if fee_coin is None else fee_coin
    return Fill(
        f"{link_id}-{number}",
        link_id,
        instrument,
        side,
        Decimal(price),
        Decimal(quantity),
        Decimal(fee),
        coin,
        NOW + number,
    )


class Chance:
    """Makes orders and fills; the same seed makes the same ones."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._number = 0

    def order(self, engine: TradingEngine) -> Order:
        """Return an open, or a close of something that is open."""
        self._number += 1
        listed = list(engine.spreads)
        price = self._price()
        if listed and self._random.random() < 0.5:
            spread = self._random.choice(listed)
            part = round_down(spread.quantity * self._random.randint(1, 4) / 4, STEP) or spread.quantity
            legs = spread.pair.short, spread.pair.long
            return self._order(CLOSE_SPREAD, legs, price, part, spread.spread_id)
        legs = (SPOT, PERP) if self._random.random() < 0.5 else (PERP, SPOT)
        return self._order(OPEN_SPREAD, legs, price, STEP * self._random.randint(1, 200), None)

    def _order(
        self,
        action: str,
        legs: tuple[Instrument, Instrument],
        price: Decimal,
        size: Decimal,
        spread_id: str | None,
    ) -> Order:
        has_id = self._random.random() < 0.8
        return Order(
            CLOSE_SPREAD if action == CLOSE_SPREAD else OPEN_SPREAD,
            legs[0],
            price,
            legs[1],
            price + self._random.randint(-20, 50),
            size,
            NOW + self._number,
            NOW,
            order_id=f"order {self._number}" if has_id else None,
            spread_id=spread_id,
        )

    def outcome(self, order: Order) -> TradeOutcome:
        """Return what became of a trade whose legs were filled, and taken back, as far as chance had it."""
        trade_id = f"trade {self._number}"
        fills = [
            *self._leg(order.buy, BUY, order, f"{trade_id}-b1"),
            *self._leg(order.sell, SELL, order, f"{trade_id}-s1"),
        ]
        net = net_sizes(fills)
        both = min(net.get(order.buy, Fraction(0)), -net.get(order.sell, Fraction(0)))
        matched = Decimal(int(max(both, Fraction(0)) / Fraction(STEP))) * STEP
        if order.action == OPEN_SPREAD and self._random.random() < 0.1:
            matched = Decimal(0)
        for leg, side, sign in ((order.buy, SELL, 1), (order.sell, BUY, -1)):
            fills += self._unwinding(
                leg, side, sign * net.get(leg, Fraction(0)) - Fraction(matched), trade_id
            )
        self._random.shuffle(fills)
        settled = settle(order, trade_id, matched, fills, RULES, NOW)
        return TradeOutcome(
            trade_id,
            order,
            None if order.order_id else f"request {self._number}",
            settled.traded,
            None if settled.traded else SELL_LEG_FAILED,
            settled.unwound,
            settled.leftovers,
            tuple(fills),
            NOW + self._number,
        )

    def retry(self, leftover: Leftover) -> list[Fill]:
        """Return fills that trade a leftover away, some of it, or nothing."""
        self._number += 1
        side: Side = SELL if leftover.size > 0 else BUY
        return self._unwinding(
            leftover.instrument,
            side,
            abs(Fraction(leftover.size)),
            f"{leftover.trade_id} again {self._number}",
        )

    def _leg(self, leg: Instrument, side: Side, order: Order, link_id: str) -> list[Fill]:
        step = RULES[leg].step
        quantity = order.size
        if side == BUY and leg == SPOT:
            quantity = round_down(order.size / Decimal("0.999"), step) + step
        share = self._random.choice([0, 25, 60, 100, 100, 100, 100])
        return self._fills(leg, side, round_down(quantity * share / 100, step), link_id)

    def _unwinding(self, leg: Instrument, side: Side, surplus: Fraction, trade_id: str) -> list[Fill]:
        step = RULES[leg].step
        quantity = Decimal(max(int(surplus / Fraction(step)), 0)) * step
        if not RULES[leg].is_enough(quantity, Decimal(64_000)):
            return []
        share = self._random.choice([0, 50, 100, 100])
        return self._fills(leg, side, round_down(quantity * share / 100, step), f"{trade_id}-u{side}")

    def _fills(self, leg: Instrument, side: Side, quantity: Decimal, link_id: str) -> list[Fill]:
        step = RULES[leg].step
        fills: list[Fill] = []
        while quantity > 0:
            part = min(quantity, max(round_down(quantity * self._random.randint(10, 100) / 100, step), step))
            quantity -= part
            price = self._price()
            fee, coin = self._fee(leg, side, part, price)
            self._number += 1
            fills.append(
                fill(leg, side, part, price, fee=fee, fee_coin=coin, number=self._number, link_id=link_id)
            )
        return fills

    def _fee(self, leg: Instrument, side: Side, quantity: Decimal, price: Decimal) -> tuple[Decimal, str]:
        if self._random.random() < 0.05:
            return Decimal("0.0123"), "MNT"
        if leg == SPOT and side == BUY:
            return quantity * Decimal("0.001"), "BTC"
        return (quantity * price * Decimal("0.00055")).quantize(Decimal("1E-8")), RULES[leg].quote

    def _price(self) -> Decimal:
        return 64_000 + Decimal(self._random.randint(-3000, 3000)) / 10


def net_sizes(fills: Iterable[Fill]) -> Sums:
    """Return what fills have moved of each instrument, less fees in base coin."""
    sums: Sums = {}
    for each in fills:
        moved = Fraction(each.quantity) * (1 if each.side == BUY else -1)
        if each.fee_coin == "BTC":
            moved -= Fraction(each.fee)
        sums[each.instrument] = sums.get(each.instrument, Fraction(0)) + moved
    return sums


def net_cash(fills: Iterable[Fill]) -> Sums:
    """Return the signed cash of fills of each instrument, with what base-coin fees are worth given back."""
    sums: Sums = {}
    for each in fills:
        value = Fraction(each.quantity) * Fraction(each.price) * (-1 if each.side == BUY else 1)
        if each.fee_coin == "BTC":
            value += Fraction(each.fee) * Fraction(each.price)
        sums[each.instrument] = sums.get(each.instrument, Fraction(0)) + value
    return sums


def outcomes(seed: int, count: int, engine: TradingEngine) -> Iterator[TradeOutcome]:
    """Return outcomes of orders that the engine lets pass, each to be booked before the next is made."""
    chance = Chance(seed)
    for _ in range(count):
        yield chance.outcome(chance.order(engine))


def all_fills(booked: Iterable[TradeOutcome]) -> Sequence[Fill]:
    """Return the fills of several trades."""
    return [each for outcome in booked for each in outcome.fills]
