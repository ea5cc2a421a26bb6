"""The order desk of the local exchange without a network: random orders, exact books."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Coroutine
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_exchange import LocalExchange, SyntheticMarket
from local_exchange.instrument import Instrument
from local_exchange.private.api import ApiError
from local_exchange.private.exchange import PrivateExchange
from local_exchange.private.matching import walk
from local_exchange.private.orders import Order
from local_exchange.private.rules import InstrumentRules, default_rules
from local_exchange.private.settings import PrivateSettings

FEES = {"linear": Decimal("0.00055"), "spot": Decimal("0.001")}
Row = dict[str, Any]


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def exchange_of(**settings: Any) -> LocalExchange:
    coins = dict.fromkeys(("BTC", "USDT", "USDC"), Decimal(1_000_000))
    at_once = {"fill_delay": (0.0, 0.0), "push_delay": (0.0, 0.0)}
    private = PrivateSettings(balances=coins, **{**at_once, **settings})
    return LocalExchange(SyntheticMarket(pairs=1, rate=0, levels=30), private=private)


async def matched(private: PrivateExchange) -> None:
    """Wait until no order waits to be matched."""
    while private.desk.waiting:
        await asyncio.sleep(0)


def random_order(rng: random.Random) -> Row:
    category, symbol = rng.choice([("spot", "BTCUSDT"), ("linear", "BTCPERP"), ("linear", "BTCUSDT")])
    order: Row = {"category": category, "symbol": symbol, "side": rng.choice(["Buy", "Sell"])}
    order["qty"] = str(Decimal(rng.randint(1, 400)) / 1000)
    if rng.random() < 0.5:
        tick = Decimal("0.1") * rng.randint(-200, 200)
        return order | {
            "orderType": "Limit",
            "price": str(Decimal(64_000) + tick),
            "timeInForce": rng.choice(["IOC", "FOK", "GTC"]),
        }
    unit = {"marketUnit": rng.choice(["baseCoin", "quoteCoin"])} if category == "spot" else {}
    if unit.get("marketUnit") == "quoteCoin":
        order["qty"] = str(rng.randint(5, 9000))
    return order | unit | {"orderType": "Market"}


def expected_account(fills: list[Row]) -> tuple[dict[str, Decimal], dict[str, Decimal]]:
    """Work wallets and positions out from the executions alone, apart from the exchange's own books."""
    coins = dict.fromkeys(("BTC", "USDT", "USDC"), Decimal(1_000_000))
    positions: dict[str, Decimal] = {}
    for fill in fills:
        size, value, fee = (Decimal(fill[name]) for name in ("execQty", "execValue", "execFee"))
        sign = 1 if fill["side"] == "Buy" else -1
        assert value == size * Decimal(fill["execPrice"])
        if fill["category"] == "spot":
            coins["BTC"] += sign * size
            coins["USDT"] -= sign * value
            assert fee == FEES["spot"] * (size if sign > 0 else value)
        else:
            symbol = fill["symbol"]
            positions[symbol] = positions.get(symbol, Decimal(0)) + sign * size
            coins["USDT" if symbol.endswith("USDT") else "USDC"] += Decimal(fill["execPnl"])
        coins[fill["feeCurrency"]] -= fee
    return coins, positions


async def trade_at_random(seed: int, count: int) -> None:
    rng = random.Random(seed)
    exchange = exchange_of()
    private = exchange.private
    for _ in range(count):
        with contextlib.suppress(ApiError):
            private.desk.create(random_order(rng))
        if rng.random() < 0.5:
            await matched(private)
        market = exchange.source
        assert isinstance(market, SyntheticMarket)
        market.step("spot", "BTCUSDT", 2)
        market.step("linear", "BTCPERP", 2)
        market.step("linear", "BTCUSDT", 2)
    await matched(private)
    coins, positions = expected_account(private.store.fills())
    assert {coin: wallet.balance for coin, wallet in private.account.wallets.items()} == coins
    assert {one.symbol: one.size for one in private.account.positions.values()} == positions
    for order in private.store.orders:
        assert order.filled <= order.qty or order.in_quote
        assert all(
            one.price <= order.price if order.is_buy else one.price >= order.price for one in order.executions
        )
        assert order.is_open == (order.time_in_force == "GTC" and order.unfilled > 0)
    assert sum(bool(order.executions) for order in private.store.orders) > count / 4
    private.desk.stop()
    private.stream.stop()


def test_wallets_and_positions_are_the_sum_of_the_executions() -> None:
    for seed in range(3):
        run(trade_at_random(seed, 150))


def test_refused_order_is_not_kept_and_its_link_id_stays_free() -> None:
    async def work() -> None:
        private = exchange_of().private
        order = {"category": "linear", "symbol": "BTCPERP", "side": "Buy", "orderType": "Market"}
        for quantity in ("0.0001", "0"):
            with pytest.raises(ApiError, match="10001"):
                private.desk.create({**order, "qty": quantity, "orderLinkId": "free"})
        assert private.store.orders == []
        assert private.desk.create({**order, "qty": "0.001", "orderLinkId": "free"}).link_id == "free"
        private.desk.stop()
        private.stream.stop()

    run(work())


def spot_order(**changes: Any) -> Order:
    rules = default_rules("spot", "BTCUSDT")
    assert isinstance(rules, InstrumentRules)
    fields: Row = {
        "rules": rules,
        "order_id": "1",
        "link_id": "",
        "side": "Buy",
        "order_type": "Limit",
        "qty": Decimal(1),
        "price": Decimal(101),
        "time_in_force": "IOC",
        "created_ms": 0,
        "created_ns": 0,
        **changes,
    }
    return Order(**fields)


def book(*asks: tuple[str, str]) -> Instrument:
    instrument = Instrument("spot", "BTCUSDT")
    for price, size in asks:
        instrument.asks.put(float(price), price, size)
    return instrument


def test_walk_takes_whole_steps_within_the_limit_and_writes_what_is_left() -> None:
    asks = book(("100", "0.4"), ("100.5", "0.0000004"), ("101", "0.35"), ("101.1", "9"))
    found = walk(asks, spot_order(qty=Decimal("0.6")))
    assert found.fills == ((Decimal(100), Decimal("0.4")), (Decimal(101), Decimal("0.2")))
    assert found.left == {100.0: "", 101.0: "0.15"}
    assert walk(asks, spot_order(qty=Decimal("0.6"), price=Decimal(99))).fills == ()
    assert walk(asks, spot_order(qty=Decimal("0.8"), time_in_force="FOK")).fills == ()
    half = walk(asks, spot_order(qty=Decimal("0.5")), Decimal("0.5"))
    assert half.fills == ((Decimal(100), Decimal("0.25")),)


def test_amount_in_quote_coin_buys_as_many_steps_as_it_pays_for() -> None:
    order = spot_order(qty=Decimal(50), order_type="Market")
    found = walk(book(("100", "0.4"), ("101", "9")), order)
    assert found.fills == ((Decimal(100), Decimal("0.4")), (Decimal(101), Decimal("0.099009")))


@given(
    st.lists(st.tuples(st.integers(1, 500), st.integers(1, 10_000_000)), min_size=1, max_size=20),
    st.integers(1, 20_000_000),
    st.integers(1, 500),
)
def test_walk_never_takes_more_than_is_there_or_wanted(
    levels: list[tuple[int, int]], wanted: int, limit: int
) -> None:
    sizes = {price: Decimal(size) / 1_000_000 for price, size in levels}
    instrument = book(*((str(price), f"{size:f}") for price, size in sizes.items()))
    quantity = Decimal(wanted) / 1_000_000
    found = walk(instrument, spot_order(qty=quantity, price=Decimal(limit)))
    taken = sum((size for _, size in found.fills), Decimal(0))
    there = sum((size for price, size in sizes.items() if price <= limit), Decimal(0))
    assert taken == min(quantity, there)
    assert [price for price, _ in found.fills] == sorted(price for price, _ in found.fills)
    for price, size in found.fills:
        left = found.left[float(price)]
        assert Decimal(left or 0) == sizes[int(price)] - size


def test_what_was_traded_away_is_pushed_and_comes_back_with_the_next_pushes() -> None:
    async def work() -> None:
        exchange = exchange_of()
        market = exchange.source
        assert isinstance(market, SyntheticMarket)
        instrument = market.instruments["linear", "BTCPERP"]
        feed = market.feed("linear", "orderbook.50.BTCPERP")
        assert feed is not None
        pushed: list[bytes] = []
        market.subscribe(feed, 1, pushed.append)
        feed.begun = True
        levels = len(instrument.asks.places)
        best = instrument.asks.levels[instrument.asks.places[0]][0]
        order = {"category": "linear", "symbol": "BTCPERP", "side": "Buy", "orderType": "Market"}
        exchange.private.desk.create({**order, "qty": "0.3"})
        await matched(exchange.private)
        assert len(instrument.asks.places) < levels
        assert f'["{best}","0"]'.encode() in pushed[0]
        market.step("linear", "BTCPERP", 2 * levels)
        assert len(instrument.asks.places) == levels
        exchange.private.stream.stop()

    run(work())


def test_instrument_that_was_traded_on_fills_up_though_nobody_is_subscribed() -> None:
    async def work() -> None:
        exchange = exchange_of()
        market = exchange.source
        market.set_rate(1000)
        asks = market.instruments["linear", "BTCPERP"].asks
        levels = len(asks.places)
        market.play(0.0)
        order = {"category": "linear", "symbol": "BTCPERP", "side": "Buy", "orderType": "Market"}
        exchange.private.desk.create({**order, "qty": "0.3"})
        await matched(exchange.private)
        assert len(asks.places) < levels
        for tick in range(1, 100):
            market.play(tick / 100)
        assert len(asks.places) == levels
        exchange.private.stream.stop()

    run(work())
