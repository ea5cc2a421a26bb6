"""What the fills of a real trade come to: the size that both legs have, what was unwound, what is left over.

Exact: a fill that is cut has price x part in each of them, so that no sum of cash or of sizes loses anything.
Fills count net of fees that were taken in base coin, since that is what can be sold again; such a fee is
booked as a fee, at the price of its fill.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from typing import NamedTuple

import msgspec

from blackbird.market.decimals import EXACT, ZERO
from blackbird.market.instrument import Instrument
from blackbird.trading.instrument_rules import InstrumentRules, round_down
from blackbird.trading.leg_order import BUY, SELL, Fill, Side
from blackbird.trading.orders import Order
from blackbird.trading.records import (
    ACCEPTED,
    DUST,
    TRADED_AWAY,
    Amendment,
    Leftover,
    Part,
    Resolution,
    Resolved,
    Traded,
    Unwound,
    average_price,
    sum_of_fees,
)
from blackbird.trading.spreads import Pair, pair_of

BOUGHT_NOT_SOLD = "bought and not sold again"
SOLD_NOT_BOUGHT = "sold and not bought back"
FILLED_LATE = "filled after the trade was booked"

# Shares of a fee, and of the cash of a leftover that is traded away in steps, are rounded to this; the rest
# has what is missing, so that the sum stays.
_SHARE_STEP = Decimal("1E-20")
_ROUNDING = EXACT.copy()
_ROUNDING.clear_traps()
_ROUNDING.rounding = ROUND_HALF_EVEN

Rules = Mapping[Instrument, InstrumentRules]


class Settlement(NamedTuple):
    """What a trade's fills come to; `traded` is None where both legs have nothing in common."""

    traded: Traded | None
    unwound: tuple[Unwound, ...]
    leftovers: tuple[Leftover, ...]


def settle(
    order: Order, trade_id: str, matched: Decimal, fills: Iterable[Fill], rules: Rules, since: int
) -> Settlement:
    """Return what all `fills` of a trade come to, in any order, those that went on and back included.

    `matched` is the size that is booked as the order's, at most what each leg has in its direction. The fills
    of a leg are cut at it in the order of their times: what comes after it was unwound, as far as there are
    fills the other way, and the rest is left over, `since` that millisecond.
    """
    all_fills = list(fills)
    buy = _settle_leg(order.buy, BUY, matched, all_fills, rules[order.buy])
    sell = _settle_leg(order.sell, SELL, matched, all_fills, rules[order.sell])
    legs = (buy, sell)
    unwound = (_unwound(trade_id, *leg.unwound) for leg in legs if leg.unwound is not None)
    left = (lots for leg in legs for lots in leg.left if lots)
    leftovers = (
        _leftover(trade_id, number, lots, rules, pair_of(order), since) for number, lots in enumerate(left, 1)
    )
    traded = Traded(trade_id, matched, buy.matched.part(), sell.matched.part()) if matched else None
    return Settlement(traded, tuple(unwound), tuple(leftovers))


def trade_away(
    leftover: Leftover, fills: Iterable[Fill], rules: InstrumentRules, number: int, at: int
) -> Amendment:
    """Return what becomes of a leftover by `fills` that were to trade it away; those may be none.

    What is still left is a leftover of its own, with the `number` that no other of its trade has.
    """
    there = list(fills)
    back = _Lots.of(leftover.instrument, SELL if leftover.size > ZERO else BUY, there, rules)
    if not back:
        return Amendment(leftover.trade_id, (), (), (), tuple(there), at)
    gone, left = _Lots.of_leftover(leftover).cut(back.size)
    back, too_much = back.cut(gone.size)
    unwound = _unwound(leftover.trade_id, gone, back)
    rest = [
        _leftover(
            leftover.trade_id, number, lots, {leftover.instrument: rules}, leftover.pair, leftover.since
        )
        for lots in (left, too_much)
        if lots
    ]
    resolved = Resolved(leftover.trade_id, leftover.number, TRADED_AWAY, at)
    return Amendment(leftover.trade_id, (resolved,), (unwound,), tuple(rest), tuple(there), at)


def by_hand(leftover: Leftover, price: Decimal | None, at: int) -> Amendment:
    """Return what becomes of a leftover by the word of a person.

    At `price` it was traded away by hand, and the fee of that is not known. Without one it is kept: it
    counts, and blocks nothing any longer.
    """
    resolution: Resolution = ACCEPTED if price is None else TRADED_AWAY
    resolved = Resolved(leftover.trade_id, leftover.number, resolution, at)
    if price is None:
        return Amendment(leftover.trade_id, (resolved,), (), (), (), at)
    own = _Lots.of_leftover(leftover)
    lot = _Lot(own.size, EXACT.multiply(price, own.size), None, at, price)
    hand = _Lots(leftover.instrument, SELL if own.side == BUY else BUY, (lot,))
    return Amendment(leftover.trade_id, (resolved,), (_unwound(leftover.trade_id, own, hand),), (), (), at)


def late_fills(
    trade_id: str, fills: Iterable[Fill], rules: Rules, pair: Pair | None, number: int, at: int
) -> Amendment:
    """Return what becomes of fills that came after their trade was booked: leftovers, from `number` on."""
    there = list(fills)
    moved = sorted({(fill.instrument, fill.side) for fill in there})
    leftovers = [
        msgspec.structs.replace(
            _leftover(trade_id, each, _Lots.of(instrument, side, there, rules[instrument]), rules, pair, at),
            reason=FILLED_LATE,
        )
        for each, (instrument, side) in enumerate(moved, number)
    ]
    return Amendment(trade_id, (), (), tuple(leftovers), tuple(there), at)


# --- fills, net of fees in base coin -------------------------------------------------------------


class _Lot(NamedTuple):
    """A fill or a part of one: `size` net of fees in base coin, its cash without sign, and its fee.

    A leftover, which is of several fills, has no `price`.
    """

    size: Decimal
    cash: Decimal
    fee: Decimal | None
    time: int
    price: Decimal | None = None

    def cut(self, size: Decimal) -> tuple[_Lot, _Lot]:
        """Return the first `size` of it, and the rest."""
        price = self.price
        cash = _share(self.cash, size, self.size) if price is None else EXACT.multiply(price, size)
        fee = rest_of_fee = None
        if self.fee is not None:
            fee = _share(self.fee, size, self.size)
            rest_of_fee = EXACT.subtract(self.fee, fee)
        left, rest = EXACT.subtract(self.size, size), EXACT.subtract(self.cash, cash)
        return self._replace(size=size, cash=cash, fee=fee), self._replace(
            size=left, cash=rest, fee=rest_of_fee
        )


class _Lots(NamedTuple):
    """What was bought, or what was sold, of an instrument, oldest first."""

    instrument: Instrument
    side: Side
    lots: tuple[_Lot, ...]

    @classmethod
    def of(cls, instrument: Instrument, side: Side, fills: Sequence[Fill], rules: InstrumentRules) -> _Lots:
        """Return the lots of the fills of `instrument` on `side`."""
        mine = (fill for fill in fills if fill.instrument == instrument and fill.side == side)
        ordered = sorted(mine, key=lambda fill: (fill.time, fill.exec_id))
        return cls(instrument, side, tuple(_lot(fill, rules) for fill in ordered))

    @classmethod
    def of_leftover(cls, leftover: Leftover) -> _Lots:
        """Return a leftover as a single lot."""
        side: Side = BUY if leftover.size > ZERO else SELL
        lot = _Lot(leftover.size.copy_abs(), leftover.flux.copy_abs(), leftover.fee, leftover.since)
        return cls(leftover.instrument, side, (lot,))

    @property
    def size(self) -> Decimal:
        return _sum(lot.size for lot in self.lots)

    @property
    def flux(self) -> Decimal:
        cash = _sum(lot.cash for lot in self.lots)
        return cash.copy_negate() if self.side == BUY else cash

    @property
    def fee(self) -> Decimal | None:
        return sum_of_fees(*(lot.fee for lot in self.lots))

    @property
    def last_at(self) -> int:
        return max((lot.time for lot in self.lots), default=0)

    def __bool__(self) -> bool:
        return bool(self.lots)

    def part(self) -> Part:
        """Return them as a part of a record."""
        return Part(self.instrument, self.flux, self.fee)

    def cut(self, size: Decimal) -> tuple[_Lots, _Lots]:
        """Return the first `size` of them, or all where they are less, and the rest."""
        first: list[_Lot] = []
        missing = size
        for index, lot in enumerate(self.lots):
            if not missing:
                return self._replace(lots=tuple(first)), self._replace(lots=self.lots[index:])
            if lot.size > missing:
                part, rest = lot.cut(missing)
                return (
                    self._replace(lots=(*first, part)),
                    self._replace(lots=(rest, *self.lots[index + 1 :])),
                )
            first.append(lot)
            missing = EXACT.subtract(missing, lot.size)
        return self._replace(lots=tuple(first)), self._replace(lots=())


class _Leg(NamedTuple):
    matched: _Lots
    unwound: tuple[_Lots, _Lots] | None  # the leg's own side, and the other one
    left: tuple[_Lots, _Lots]


def _settle_leg(
    instrument: Instrument, side: Side, matched: Decimal, fills: Sequence[Fill], rules: InstrumentRules
) -> _Leg:
    own = _Lots.of(instrument, side, fills, rules)
    back = _Lots.of(instrument, SELL if side == BUY else BUY, fills, rules)
    if own.size < matched:
        raise ValueError(f"matched: expected at most {own.size} of {instrument}, was {matched}")
    first, rest = own.cut(matched)
    size = min(rest.size, back.size)
    unwound, left = rest.cut(size)
    unwound_back, too_much = back.cut(size)
    return _Leg(first, (unwound, unwound_back) if size else None, (left, too_much))


def _unwound(trade_id: str, one: _Lots, other: _Lots) -> Unwound:
    bought, sold = (one, other) if one.side == BUY else (other, one)
    return Unwound(trade_id, bought.size, bought.part(), sold.part(), bought.last_at, sold.last_at)


def _leftover(
    trade_id: str, number: int, lots: _Lots, rules: Rules, pair: Pair | None, since: int
) -> Leftover:
    size, flux = lots.size, lots.flux
    of_instrument = rules[lots.instrument]
    price = average_price(flux, size)
    reason = BOUGHT_NOT_SOLD if lots.side == BUY else SOLD_NOT_BOUGHT
    if not of_instrument.is_enough(round_down(size, of_instrument.step), price):
        reason = DUST
    signed = size if lots.side == BUY else size.copy_negate()
    return Leftover(trade_id, number, lots.instrument, signed, flux, lots.fee, reason, since, pair)


def _lot(fill: Fill, rules: InstrumentRules) -> _Lot:
    in_base = fill.fee if fill.fee_coin == rules.base else ZERO
    size = EXACT.add(fill.quantity, in_base.copy_negate() if fill.side == BUY else in_base)
    cash = EXACT.multiply(fill.price, size)
    return _Lot(size, cash, _fee_in_quote(fill, rules), fill.time, fill.price)


def _fee_in_quote(fill: Fill, rules: InstrumentRules) -> Decimal | None:
    """Return the fee in quote coin, None where its coin has no price here."""
    if fill.fee_coin == rules.base:
        return EXACT.multiply(fill.price, fill.fee)
    # The exchange leaves the coin out where it is the one that is settled in.
    known = fill.fee_coin in {rules.quote, rules.settle, ""} or not fill.fee
    return fill.fee if known else None


def _share(amount: Decimal, size: Decimal, whole: Decimal) -> Decimal:
    product = EXACT.multiply(amount, size)
    return _ROUNDING.divide(product, whole).quantize(_SHARE_STEP, context=_ROUNDING)


def _sum(values: Iterable[Decimal]) -> Decimal:
    total = ZERO
    for value in values:
        total = EXACT.add(total, value)
    return total
