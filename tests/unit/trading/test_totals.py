"""What is summed up as orders are executed, against sums over all of them."""

from __future__ import annotations

import random
from decimal import Decimal

from blackbird.market.decimals import EXACT
from blackbird.trading.engine import TradingEngine
from blackbird.trading.orders import CLOSE_SPREAD, OPEN_SPREAD, Order
from blackbird.trading.spreads import Pair
from tests.support.market import DATED, PERP, SPOT

PAIRS = (Pair(PERP, SPOT), Pair(SPOT, PERP), Pair(DATED, SPOT))


def new_engine() -> TradingEngine:
    return TradingEngine(limit=Decimal(10**12), unique_order=False, clock=lambda: 1234)


def order(
    action: str, pair: Pair, size: Decimal, prices: tuple[Decimal, Decimal], spread_id: str | None = None
) -> Order:
    buy, sell = pair if action == OPEN_SPREAD else (pair.short, pair.long)
    return Order(
        action=action,  # type: ignore[arg-type]  # one of the two
        buy=buy,
        buy_price=prices[0],
        sell=sell,
        sell_price=prices[1],
        size=size,
        ts_buy=1,
        ts_sell=1,
        spread_id=spread_id,
    )


def test_totals_and_holdings_are_the_sums_over_all_orders_and_open_spreads() -> None:
    rng = random.Random(11)
    engine = new_engine()
    cash: dict[Pair, Decimal] = {}
    for number in range(400):
        pair = rng.choice(PAIRS)
        prices = Decimal(rng.randint(9000, 9999)) / 100, Decimal(rng.randint(9000, 9999)) / 100
        size = Decimal(rng.randint(1, 50)) / 8
        spreads = engine.spreads.of_pairs([pair])
        kind = rng.randrange(3)
        if kind == 0 or not spreads:
            sent = order(OPEN_SPREAD, pair, size, prices, spread_id=f"s{number}")
        elif kind == 1:
            spread = rng.choice(spreads)
            sent = order(CLOSE_SPREAD, pair, min(size, spread.quantity), prices, spread_id=spread.spread_id)
        else:
            sent = order(CLOSE_SPREAD, pair, size, prices)
        record = engine.execute(sent)
        assert engine.answer_of(record).acked
        cash[pair] = cash.get(pair, Decimal(0)) + sent.size * (sent.sell_price - sent.buy_price)
        for each, holding in engine.spreads.holdings.items():
            held = engine.spreads.of_pairs([each])
            assert list(holding.spreads.values()) == held
            assert holding.quantity == sum(spread.quantity for spread in held)
            assert holding.credit == sum(spread.quantity * spread.spread for spread in held)
    assert {pair: traded.cash for pair, traded in engine.totals.pairs.items()} == cash
    assert sum(cash.values()) == engine.pnl
    turnover = sum(traded.turnover for traded in engine.totals.pairs.values())
    assert turnover == sum(engine.totals.turnover().values())
    assert sum(traded.opened + traded.closed for traded in engine.totals.pairs.values()) == 400


def test_what_is_closed_beyond_all_that_was_open_is_counted_apart() -> None:
    engine = new_engine()
    pair = PAIRS[0]
    engine.execute(order(OPEN_SPREAD, pair, Decimal(2), (Decimal(100), Decimal(105)), spread_id="s"))
    engine.execute(order(CLOSE_SPREAD, pair, Decimal(5), (Decimal(101), Decimal(104))))
    traded = engine.totals.pairs[pair]
    assert traded.cash == 2 * 5 + 5 * 3
    assert traded.cash_without_spread == 3 * 3
    assert not engine.spreads.holdings


def test_a_spread_knows_when_it_was_opened_and_how_large_it_was() -> None:
    engine = new_engine()
    engine.execute(order(OPEN_SPREAD, PAIRS[0], Decimal(2), (Decimal(100), Decimal(105)), spread_id="s"))
    engine.execute(order(CLOSE_SPREAD, PAIRS[0], Decimal("0.5"), (Decimal(100), Decimal(105)), spread_id="s"))
    (spread,) = engine.spreads
    assert (spread.opened, spread.quantity) == (Decimal(2), Decimal("1.5"))
    assert spread.opened_ms == 1234


def test_sums_stay_exact_beyond_the_digits_of_the_default_context() -> None:
    engine = new_engine()
    size = Decimal("1.00000000000000000000000000000000001")
    prices = Decimal("100.00000000000000000001"), Decimal("105.00000000000000000003")
    engine.execute(order(OPEN_SPREAD, PAIRS[0], EXACT.multiply(size, Decimal(2)), prices, spread_id="s"))
    engine.execute(order(CLOSE_SPREAD, PAIRS[0], size, prices, spread_id="s"))
    (holding,) = engine.spreads.holdings.values()
    assert holding.quantity == size
    assert holding.credit == EXACT.multiply(size, EXACT.subtract(prices[1], prices[0]))
