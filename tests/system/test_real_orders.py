"""Real orders end to end: the engine as a process, on broker and database, with the local exchange's account.

Each test has a short form, and a long one with figures:
    .venv/bin/python -m pytest -m acceptance tests/system/test_real_orders.py
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from blackbird.engine.admission import trade_id_of
from local_exchange.process import ExchangeProcess
from tests.support.bybit_account import KEY, SECRET
from tests.support.crashing_engine import POINTS, UNEQUAL_POINTS
from tests.support.group_traders import GroupTrader, Trading
from tests.support.live_system import ServerPair
from tests.support.order_client import OrderClient, state_at_start
from tests.support.real_system import (
    COINS,
    EXCHANGE,
    MANY_COINS,
    Message,
    RealSystem,
    Truth,
    dumps,
    exchange_arguments,
    first_orders,
    percentile,
    perp,
    spot,
    trade_of,
    unhedged_ms,
)
from tests.support.workspace import Workspace, wait_for, workspace

T = TypeVar("T")
Start = Callable[..., RealSystem]
Report = Callable[[str], None]
STEP = Decimal("0.001")
REPORT = "ACCEPTANCE_REPORT"


class Length:
    """How long a test is to be, and where its figures go."""

    def __init__(self, report: Report, *, is_long: bool) -> None:
        self.is_long = is_long
        self._report = report

    def pick(self, short: T, long: T) -> T:
        return long if self.is_long else short

    def report(self, text: str) -> None:
        """Say a figure of a long run."""
        if self.is_long:
            self._report(text)


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """Say a figure on the terminal, and in the file that ACCEPTANCE_REPORT names."""
    terminal = request.config.pluginmanager.get_plugin("terminalreporter")

    def say(text: str) -> None:
        line = f"{request.node.name}: {text}"
        if terminal is not None:
            terminal.write_line(line)
        if REPORT in os.environ:
            with Path(os.environ[REPORT]).open("a") as file:
                file.write(f"{line}\n")

    return say


@pytest.fixture(params=["short", pytest.param("long", marks=pytest.mark.acceptance)])
def length(request: pytest.FixtureRequest, report: Report) -> Length:
    return Length(report, is_long=request.param == "long")


@pytest.fixture
def start(place: Workspace) -> Iterator[Start]:
    """Start an exchange with these arguments and an engine with these settings."""
    exchanges: list[ExchangeProcess] = []

    def start_system(*arguments: str, engine: bool = True, **settings: str) -> RealSystem:
        exchanges.append(ExchangeProcess(*EXCHANGE, *arguments))
        system = RealSystem(place, exchanges[-1], **settings)
        if engine:
            system.start()
        return system

    yield start_system
    for exchange in exchanges:
        exchange.stop()


def is_synced(system: RealSystem, since: float) -> bool:
    return system.journal_synced_at() > since


def has_received(system: RealSystem, before: int) -> bool:
    return len(system.exchange.get("/orders")) > before


def is_acked(reply: Message) -> bool:
    return bool(reply["status"] == "ACK")


# 2. Intent first.


def test_what_the_exchange_has_received_is_in_the_journal(start: Start, length: Length) -> None:
    system = start(engine=False)
    kills = length.pick(3, 100)
    for _ in range(kills):
        system.exchange.fault("slow_reply", ms=2000)
        engine = system.start()
        before = len(system.exchange.get("/orders"))
        order = system.opening(size="0.01")
        system.client.send(order, order["order_id"])
        wait_for(partial(has_received, system, before), "a first request")
        engine.kill()
        received = {one["link_id"] for one in system.exchange.get("/orders")[before:]}
        recorded = system.recorded_link_ids()
        assert [link_id for link_id in received if link_id not in recorded] == []
        system.exchange.fault("clear")
    system.start()
    truth = system.check()
    length.report(f"{kills} kills, {len(truth.orders)} requests, all in the journal")


# 3. Both at once.


def test_both_legs_are_sent_at_once_whatever_one_of_them_waits_for(start: Start, length: Length) -> None:
    system = start()
    slow, trades = length.pick(1500, 300), length.pick(4, 500)
    # The first of the two to be sent is the bought one.
    system.exchange.fault("slow_reply", ms=slow, channel="spot", share=length.pick(1, 0.2))
    for _ in range(trades):
        assert is_acked(system.trade(system.opening(size="0.01")))
    gaps = [
        abs(legs["b"]["time_ns"] - legs["s"]["time_ns"]) / 1e6
        for legs in first_orders(system.check()).values()
    ]
    assert len(gaps) == trades
    assert max(gaps) < slow, "one leg was sent after the other was answered"
    length.report(
        f"{trades} trades, both requests within {percentile(gaps, 0.5):.1f} ms (p50),"
        f" {percentile(gaps, 0.99):.1f} ms (p99)"
    )
    if length.is_long:
        assert percentile(gaps, 0.99) <= 20


# 4. Unhedged time.


def unhedged_times(truth: Truth) -> list[float]:
    by_trade: dict[str, list[Message]] = {}
    for fill in truth.fills:
        by_trade.setdefault(trade_of(fill["orderLinkId"]), []).append(fill)
    return [unhedged_ms(fills, STEP) for fills in by_trade.values()]


def test_leg_that_does_not_fill_is_made_equal_again(start: Start, length: Length) -> None:
    system = start("--fill-delay", "5,5")
    chance, trades = random.Random(4), length.pick(8, 300)
    for number in range(trades):
        link, kind = chance.choice(["-b1", "-s1"]), chance.choice(["no_fill", "part_fill"])
        system.exchange.fault(kind, link=link, count=1)
        reply = system.trade(system.opening(size="0.1"))
        expected = "ACK" if kind == "part_fill" else "NOT ACK"
        assert reply["status"] == expected, (number, link, kind, reply)
    truth = system.check()
    times = unhedged_times(truth)
    assert system.open_leftovers() == []
    length.report(
        f"{trades} trades with a leg filled in part or not at all: unhedged for"
        f" {percentile(times, 0.5):.1f} ms (p50), {percentile(times, 0.99):.1f} ms (p99)"
    )
    if length.is_long:
        assert percentile(times, 0.5) <= 50
        assert percentile(times, 0.99) <= 250


def test_leg_whose_request_is_lost_is_made_equal_again(start: Start, length: Length) -> None:
    system = start()
    trades = length.pick(2, 20)
    for number in range(trades):
        link = ("-b1", "-s1")[number % 2]
        # The second sending of the same order is lost too.
        system.exchange.fault("lost_request", link=link, how="hang", count=2)
        reply = system.trade(system.opening(size="0.1"))
        assert not is_acked(reply)
    times = unhedged_times(system.check())
    assert system.open_leftovers() == []
    length.report(f"{trades} trades with a leg lost: unhedged for at most {max(times) / 1000:.2f} s")
    if length.is_long:
        assert max(times) <= 6000


# 5. Price bound.


PRICE_TOLERANCE = Decimal("0.0005")


def check_limits(order: Message, truth: Truth) -> None:
    """Check the limits of an order's legs against its prices."""
    legs = first_orders(truth).get(trade_id_of(order["order_id"]), {})
    for leg, price in (("b", order["buy_price"]), ("s", order["sell_price"])):
        if leg in legs:
            limit, tick = Decimal(legs[leg]["body"]["price"]), Decimal("0.1")
            assert abs(limit - price) <= price * PRICE_TOLERANCE + tick, (order, legs)
    if len(legs) == 2 and order["action"] == "Open Spread":
        assert Decimal(legs["b"]["body"]["price"]) <= Decimal(legs["s"]["body"]["price"])


def check_prices(system: RealSystem, truth: Truth, tolerance: Decimal) -> None:
    """Check the fills of a trade, made on the books as they are."""
    limits = {one["link_id"]: Decimal(one["body"].get("price", "0")) for one in truth.orders}
    for fill in truth.fills:
        price, link_id = Decimal(fill["execPrice"]), fill["orderLinkId"]
        book = system.books[fill["category"], fill["symbol"]]
        is_buy = fill["side"] == "Buy"
        if link_id.endswith(("-b1", "-s1")):
            assert price <= limits[link_id] if is_buy else price >= limits[link_id]
        elif is_buy:
            assert price <= book.ask * (1 + tolerance)
        else:
            assert price >= book.bid * (1 - tolerance)


def test_no_order_fills_beyond_its_bound_however_the_market_jumps(start: Start, length: Length) -> None:
    system = start()
    chance, trades = random.Random(5), length.pick(15, 2000)
    opened: list[tuple[Message, Decimal]] = []
    fills = orders = outcomes = 0
    for _ in range(trades):
        if opened and chance.random() < 0.4:
            first, size = opened.pop()
            order = system.closing(first, size)
        else:
            order = system.opening(size="0.05")
        for leg in (spot("BTC"), perp("BTC")):
            book = system.books[leg]
            jump = 1 + Decimal(chance.randint(-100, 100)) / 10_000
            system.set_book(leg, book.bid * jump, book.ask * jump)
        reply = system.trade(order)
        outcomes += is_acked(reply)
        if is_acked(reply) and order["action"] == "Open Spread":
            assert reply["sell_price"] >= reply["buy_price"]
            opened.append((order, reply["size"]))
        truth = system.truth(fills=fills, orders=orders)
        check_limits(order, truth)
        check_prices(system, truth, Decimal("0.01"))
        fills, orders = fills + len(truth.fills), orders + len(truth.orders)
        system.set_books("BTC")
    truth = system.check()
    length.report(
        f"{trades} trades on jumping books, {outcomes} executed, {len(truth.fills)} fills in bounds"
    )


# 7. Round trips.


@pytest.mark.parametrize("long_leg", ["spot", "perpetual"])
def test_round_trips_end_flat_though_the_fee_is_taken_in_base_coin(
    start: Start, length: Length, long_leg: str
) -> None:
    system = start()
    trips = length.pick(4, 200)
    legs: dict[str, Any] = {"buy": spot("BTC"), "sell": perp("BTC")}
    if long_leg == "perpetual":
        system.set_book(spot("BTC"), Decimal(64200), Decimal("64200.1"))
        legs = {"buy": perp("BTC"), "sell": spot("BTC")}
    before = system.truth().wallets["BTC"]
    for _ in range(trips):
        opening = system.opening(size="0.1", **legs)
        reply = system.trade(opening)
        assert is_acked(reply), reply
        reply = system.trade(system.closing(opening, reply["size"]))
        assert is_acked(reply), reply
    truth = system.check()
    assert truth.positions == {}
    assert system.client.open_spreads() == []
    left = truth.wallets["BTC"] - before
    assert 0 <= left < trips * Decimal("0.000001") * 2
    assert "170131" not in {one["outcome"] for one in truth.orders}
    length.report(f"{trips} round trips long {long_leg}: flat, {left} BTC left as dust")


# 8. Lost replies.


def check_sendings(truth: Truth, orders: list[Message], skew_ms: int = 100) -> int:
    """Check that orders were sent again only under their own id and in time; return how many were."""
    expiries = {trade_id_of(order["order_id"]): order["expires_at"] for order in orders}
    counts: dict[str, int] = {}
    for one in truth.orders:
        link_id = one["link_id"]
        counts[link_id] = counts.get(link_id, 0) + 1
        if link_id.endswith(("-b1", "-s1")):
            late = one["time_ns"] / 1e6 - expiries[trade_id_of_link(link_id)]
            assert late <= skew_ms, f"{link_id} sent {late:.0f} ms late"
        assert not link_id.endswith(("-b2", "-s2")) or one["outcome"], link_id
    return sum(count > 1 for count in counts.values())


def trade_id_of_link(link_id: str) -> str:
    return link_id.split("-")[1]


def test_orders_with_lost_replies_are_answered_with_the_truth(start: Start, length: Length) -> None:
    system = start()
    count = length.pick(16, 500)
    for fault in ("lost_reply", "lost_request"):
        system.exchange.fault(fault, share=0.2)
        system.exchange.fault(fault, share=0.05, how="hang")
    for lag in (300, 1000, 3000):
        system.exchange.fault("order_lag", ms=lag, share=0.2)
    system.exchange.fault("late_fill", ms=300, share=0.3)
    orders: list[Message] = []
    replies: dict[str, Message] = {}
    in_flight = 8
    while len(orders) < count:
        batch = [system.opening(COINS[number % len(COINS)], size="0.1") for number in range(in_flight)]
        orders += batch
        replies |= system.client.settle(batch, in_flight=in_flight, again=1.0, seconds=120)
    truth = system.check(60)
    system.check_answers(replies)
    for order in orders:
        assert system.trade(order) == replies[order["order_id"]], "asked again, its first answer"
    assert system.open_leftovers() == [], "nothing was filled that was not waited for"
    again = check_sendings(truth, orders)
    acked = sum(is_acked(reply) for reply in replies.values())
    length.report(f"{len(orders)} orders, {acked} executed, {again} sent again, all answered with the truth")


# 9. Crashes.

FILLS: dict[str, list[tuple[str, Message]]] = {
    "both fill": [],
    "one fills": [("no_fill", {"link": "-s1"})],
    "part": [("part_fill", {"link": "-b1", "part": 0.5})],
    "none": [("no_fill", {})],
}
CRASHES = [
    *((point, fills) for point in POINTS for fills in FILLS),
    *((point, fills) for point in UNEQUAL_POINTS for fills in ("one fills", "part")),
]


@pytest.mark.parametrize(
    ("point", "fills"),
    [
        ("one leg sent", "both fill"),
        ("some fills", "part"),
        ("not booked", "both fill"),
        ("answered", "none"),
        ("unwinding sent", "one fills"),
    ],
)
def test_engine_that_is_killed_answers_with_the_truth_once_it_is_back(
    start: Start, point: str, fills: str
) -> None:
    check_crash(start(engine=False), point, fills, pause=0)


@pytest.mark.acceptance
@pytest.mark.parametrize(("point", "fills"), CRASHES)
def test_engine_that_is_killed_anywhere_answers_with_the_truth_once_it_is_back(
    start: Start, point: str, fills: str, report: Report
) -> None:
    system = start(engine=False)
    infos = [check_crash(system, point, fills, pause) for pause in [0, 5] * 5]
    report(f"killed at `{point}`, {fills}: {len(infos)} times, {', '.join(sorted(set(infos)))}")


def check_crash(system: RealSystem, point: str, fills: str, pause: int) -> str:
    """Kill the engine at a point of a trade, start it again, and return what it answers."""
    for fault, given in FILLS[fills]:
        system.exchange.fault(fault, **given)
    engine = system.start_crashing(point)
    order = system.opening(size="0.1")
    system.client.send(order, order["order_id"])
    if (point, fills) == ("some fills", "none"):
        # Nothing is pushed that it could die of.
        system.client.wait(order["order_id"])
        engine.kill()
    assert engine.process.wait(30) == -9, engine.output
    system.exchange.fault("clear")
    time.sleep(pause)
    engine = system.start()
    system.client.wait(order["order_id"], seconds=60)
    reply = system.client.answer(order["order_id"])
    system.check()
    system.check_answers({order["order_id"]: reply})
    assert system.client.ask(order) == reply
    assert engine.stop() == 0
    return str(reply["info"])


def test_fill_that_comes_after_its_trade_was_booked_and_a_restart_is_left_over(start: Start) -> None:
    system = start()
    system.exchange.fault("no_fill", count=2)
    order = system.opening(size="0.1")
    assert system.trade(order)["info"] == "not filled"
    link_id = next(one["link_id"] for one in system.truth().orders if one["body"]["symbol"] == "BTCPERP")
    system.check()
    system.running.kill()
    engine = system.start()
    # The exchange has filled it all the same, and says so now.
    system.exchange.fault("manual_trade", channel="linear", symbol="BTCPERP", side="Sell", qty="0.1")
    [fill] = wait_for(
        lambda: [one for one in system.exchange.get("/fills") if one["symbol"] == "BTCPERP"], "the fill"
    )
    push = {"topic": "execution", "creationTime": 0, "data": [{**fill, "orderLinkId": link_id}]}
    for _ in range(2):
        assert system.exchange.fault("send", channel="private", text=dumps(push)) == 1
    wait_for(system.open_leftovers, "the leftover")
    assert not is_acked(system.trade(system.opening(size="0.1")))
    engine.kill()
    system.start()
    system.exchange.fault("send", channel="private", text=dumps(push))
    assert system.trade(system.opening(size="0.1")) == {
        "status": "NOT ACK",
        "info": "leftover of an earlier trade",
    }
    assert is_acked(system.trade(system.opening("ETH")))
    [(trade_id, *leftover)] = system.open_leftovers()
    assert trade_id == trade_of(link_id)
    assert leftover == ["linear", "BTCPERP", Decimal("-0.1"), "filled after the trade was booked"]
    held = system.place.query("SELECT held_size FROM bybit.position WHERE symbol_name = 'BTCPERP'")
    assert held == [(system.truth().positions["BTCPERP"],)]
    assert system.place.query("SELECT count(*) FROM bybit.fill WHERE link_id = %s", link_id) == [(1,)]


# 10. Everything at once.

REFUSALS = (110007, 170131, 110094, 170140, 110003, 170134, 110074, 170151, 10001, 10029)


def spoil(exchange: ExchangeProcess) -> None:
    """Let a share of everything go wrong."""
    exchange.fault("part_fill", share=0.2)
    exchange.fault("no_fill", share=0.1)
    exchange.fault("reject_after_accept", share=0.015)
    exchange.fault("reject_after_accept", share=0.015, part=0.3)
    exchange.fault("lost_reply", share=0.03)
    exchange.fault("lost_reply", share=0.005, how="hang")
    exchange.fault("lost_request", share=0.015)
    exchange.fault("rate_limit", share=0.02)
    exchange.fault("private_repeat", share=0.01)
    exchange.fault("private_shuffle", share=0.01)
    for code in REFUSALS:
        exchange.fault("refuse", code=code, share=0.05 / len(REFUSALS))


class Chaos:
    """What happens to processes and connections while orders are traded, spread over the run."""

    def __init__(
        self, system: RealSystem, chance: random.Random, events: dict[str, int], orders: int
    ) -> None:
        self._system = system
        names = [name for name, count in events.items() for _ in range(count)]
        chance.shuffle(names)
        places = range(orders // (len(names) + 1), orders, orders // (len(names) + 1))
        self._due = list(zip(places, names, strict=False))

    def step(self, sent: int) -> None:
        """Let happen what is due after so many orders."""
        while self._due and sent >= self._due[0][0]:
            getattr(self, self._due.pop(0)[1])()

    def kill(self) -> None:
        self._system.running.kill()
        self._system.start()

    def stop(self) -> None:
        assert self._system.running.stop() == 0, self._system.running.output
        self._system.start()

    def drop(self) -> None:
        self._system.exchange.fault("private_drop", how="rst")

    def restart(self) -> None:
        self._system.exchange.fault("private_restart", seconds=1)


class ServerChaos(Chaos):
    """Restarts broker and database besides, which are the test's own."""

    def __init__(self, servers: ServerPair, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._servers = servers

    def broker(self) -> None:
        self._servers.setup("stop", "broker")
        self._servers.setup("start", "broker")

    def database(self) -> None:
        self._servers.setup("stop", "database")
        self._servers.setup("start", "database")


@pytest.fixture(scope="session")
def servers() -> Iterator[ServerPair]:
    with tempfile.TemporaryDirectory(prefix="blackbird-servers-") as folder:
        # The servers' own users have to get in.
        Path(folder).chmod(0o755)
        pair = ServerPair(Path(folder))
        try:
            pair.setup("start")
            yield pair
        finally:
            pair.setup("stop")


def test_books_agree_after_hundreds_of_orders_of_which_many_fail(start: Start) -> None:
    events = {"kill": 2, "stop": 1, "drop": 2, "restart": 1}
    trade_in_chaos(start(), Chaos, events, 150)


@pytest.mark.acceptance
def test_books_agree_after_thousands_of_orders_of_which_many_fail(
    servers: ServerPair, tmp_path: Path, report: Report
) -> None:
    events = {"kill": 20, "stop": 10, "drop": 20, "restart": 3, "broker": 2, "database": 2}
    exchange_process = ExchangeProcess(*exchange_arguments(MANY_COINS))
    with workspace(tmp_path, **servers.settings) as place, exchange_process as exchange:
        system = RealSystem(place, exchange, MANY_COINS)
        system.start()
        report(trade_in_chaos(system, partial(ServerChaos, servers), events, 5000))


def trade_in_chaos(
    system: RealSystem, make_chaos: Callable[..., Chaos], events: dict[str, int], count: int
) -> str:
    """Have so many orders sent while these events happen, check everything, and return the figures."""
    chance = random.Random(10)
    chaos = make_chaos(system, chance, events, count)
    trading = Trading(
        system,
        [GroupTrader(system, coin, random.Random(f"10 {coin}")) for coin in system.coins for _ in range(2)],
    )
    began = time.monotonic()
    spoil(system.exchange)
    while trading.sent < count:
        assert time.monotonic() - began < max(count, 600), f"{trading.sent} orders sent so far"
        trading.step(begin=True)
        chaos.step(trading.sent)
        if chance.random() < 0.05:
            shift = Decimal(chance.randint(-20, 20)) / 10_000
            system.set_books(chance.choice(system.coins), shift=shift)
    system.exchange.fault("clear")
    trading.settle(120)
    took = time.monotonic() - began
    truth = system.check(120)
    assert len({trade_of(one["link_id"]) for one in truth.orders}) >= count
    system.check_answers(trading.replies)
    check_known_answers(system, trading)
    infos = Counter(reply["info"].partition(":")[0] for reply in trading.replies.values())
    return (
        f"{len(trading.orders)} orders, of which {trading.sent} were sent, in {took:.0f} s,"
        f" {len(truth.fills)} fills, {len(truth.orders)} requests,"
        f" {len(system.open_leftovers())} leftovers open, events {events}; answers: {dict(infos)}"
    )


def check_known_answers(system: RealSystem, trading: Trading) -> None:
    """Check that a new engine gives the answers that were given, and has the exposures of the rows."""
    assert system.running.stop() == 0
    # From its start on the new engine trades leftovers away.
    stopped_at = time.time_ns() // 1_000_000
    engine = system.start()
    again = OrderClient(system.place)
    for order_id, reply in random.Random(1).sample(sorted(trading.replies.items()), 100):
        assert again.ask(trading.orders[order_id]) == reply
    pnl, exposures = state_at_start(engine)
    rows = system.place.query(
        'SELECT channel, symbol_name, -sum(flux) FROM bybit."order" WHERE placed_at <= %s'
        " GROUP BY channel, symbol_name",
        stopped_at,
    )
    assert {leg: exposure for leg, exposure in exposures.items() if exposure} == {
        (channel, symbol): exposure for channel, symbol, exposure in rows if exposure
    }
    assert pnl == -sum(exposure for _, _, exposure in rows)


# 11. Runaway.


def test_account_without_the_coin_sends_nothing(start: Start, length: Length) -> None:
    system = start()
    system.exchange.fault("deposit", coin="BTC", amount="-10000")
    seconds, asked = length.pick(1.0, 60.0), 0
    wait_for(lambda: not is_acked(system.trade(short_spot(system))), "the wallet without the coin")
    sent = len(system.exchange.get("/orders"))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert system.trade(short_spot(system)) == {"status": "NOT ACK", "info": "not enough BTC"}
        asked += 1
    assert len(system.exchange.get("/orders")) == sent
    length.report(f"{asked} orders in {seconds:.0f} s without the coin: none sent, `not enough BTC`")


def test_account_without_margin_sends_nothing(start: Start) -> None:
    empty = (word for coin in (*COINS, "USDT", "USDC") for word in ("--balance", f"{coin}=0"))
    system = start(*empty, "--balance", "BTC=1", "--leverage", "0.5")
    system.set_book(spot("BTC"), Decimal(64200), Decimal("64200.1"))
    # The perpetual that hedges the sale needs twice its value, and takes up all of the margin.
    reply = system.trade(system.opening(size="1", buy=perp("BTC"), sell=spot("BTC")))
    assert is_acked(reply)
    assert Decimal("0.4") < reply["size"] < Decimal("0.6")
    # There is money for the spot leg, and nothing to hedge it with.
    refused = {"status": "NOT ACK", "info": "not enough margin"}
    wait_for(lambda: system.trade(system.opening("ETH", size="1")) == refused, "the margin used up")
    sent = len(system.exchange.get("/orders"))
    for _ in range(3):
        assert system.trade(system.opening("ETH", size="1")) == refused
    assert len(system.exchange.get("/orders")) == sent
    assert system.truth().wallets["USDT"] > 20_000
    system.check()


def short_spot(system: RealSystem) -> Message:
    return system.opening(size="0.1", buy=perp("BTC"), sell=spot("BTC"), buy_price=Decimal(63000))


def test_pair_whose_leg_is_refused_is_not_tried_again_at_the_next_push(start: Start, length: Length) -> None:
    system = start(PAIR_COOLDOWN_MS="1000")
    system.exchange.fault("refuse", code=170131, text="Insufficient balance.", channel="spot")
    seconds, replies = length.pick(1.0, 60.0), []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        replies.append(system.trade(system.opening(size="0.1"))["info"])
    taken = len([one for one in system.exchange.get("/orders") if one["link_id"].endswith("-s1")])
    assert taken <= seconds + 2
    assert "cooling down" in replies
    assert system.check().positions == {}
    length.report(f"{len(replies)} orders in {seconds:.0f} s with a refused leg: {taken} sent")


# 15. Start checks.


@pytest.mark.parametrize(
    ("settings", "clock", "line"),
    [
        ({"API_KEY": "key-of-another"}, 0, "API_KEY: expected a key that may trade, was refused"),
        ({"API_SECRET": "secret-of-another"}, 0, "API_KEY: expected a key that may trade, was refused"),
        ({}, 900, "REAL_ORDER_SENDING: expected this machine's clock within 500 ms"),
        ({"DUMP_ORDER_TO_DB": "false"}, 0, "DUMP_ORDER_TO_DB: expected true"),
        ({"BYBIT_WS_URL": ""}, 0, "BYBIT_REST_URL, BYBIT_WS_URL: expected"),
        ({"BYBIT_REST_URL": "https://api.bybit.com"}, 0, "BYBIT_REST_URL: expected"),
        ({"BYBIT_ENVIRONMENT": "mainnet"}, 0, "REAL_MONEY: expected true"),
    ],
)
def test_engine_that_must_not_trade_ends_with_one_line_and_no_secret(
    start: Start, place: Workspace, settings: dict[str, str], clock: int, line: str
) -> None:
    system = start(engine=False)
    system.exchange.fault("clock", ms=clock)
    engine = place.start("trading_engine", **{**system.settings, "LOG_LEVEL": "DEBUG", **settings})
    assert engine.process.wait(30) == 78, engine.output
    said = [each for each in engine.output.splitlines() if each.startswith("setting ")]
    assert len(said) == 1
    assert said[0].startswith(f"setting {line}")
    assert system.exchange.get("/orders") == []
    for secret in (KEY, SECRET, "key-of-another", "secret-of-another"):
        assert secret not in engine.output


def test_no_secret_is_logged_while_orders_fail(start: Start) -> None:
    system = start(LOG_LEVEL="DEBUG")
    for code, text in ((10004, f"error sign! origin_string[1790000000000{KEY}2000{{}}]"), (10003, "invalid")):
        system.exchange.fault("refuse", code=code, text=text, count=2)
        assert not is_acked(system.trade(system.opening()))
    system.exchange.fault("private_drop")
    system.exchange.fault("auth_refused", count=1)
    wait_for(lambda: is_acked(system.trade(system.opening())), "an order executed on a new connection")
    system.check()
    assert KEY not in system.running.output
    assert SECRET not in system.running.output


# 16. An exchange that hangs.


def test_engine_goes_on_while_the_exchange_hangs(start: Start, length: Length) -> None:
    system = start(RABBITMQ_HEARTBEAT="1")
    engine = system.running
    connections = engine.broker_connections()
    # From here on its rules are known.
    assert is_acked(system.trade(system.opening(size="0.1")))
    system.exchange.fault("lost_request", how="hang", path="*")
    sent = len(system.exchange.get("/orders"))
    waiting = system.opening(size="0.1")
    system.client.send(waiting, waiting["order_id"])
    wait_for(lambda: has_received(system, sent), "the order at the exchange")
    other = OrderClient(system.place)
    took: list[float] = []
    synced: list[float] = []
    deadline = time.monotonic() + length.pick(3.5, 10)
    while time.monotonic() < deadline:
        began = time.monotonic()
        assert len(other.open_spreads()) == 1
        took.append((time.monotonic() - began) * 1000)
        late = system.opening("ETH", expires_at=1000)
        before = system.journal_synced_at()
        assert other.ask(late) == {"status": "NOT ACK", "info": "expired"}
        answered = time.time()
        wait_for(partial(is_synced, system, before), "the journal on the disk")
        synced.append(max(0.0, system.journal_synced_at() - answered) * 1000)
    assert engine.broker_connections() == connections
    assert waiting["order_id"] not in system.client.replies, "not answered before it is known"
    began = time.monotonic()
    assert engine.stop() == 0
    ended = time.monotonic() - began
    assert ended <= 5
    system.exchange.fault("clear")
    system.start()
    system.client.wait(waiting["order_id"])
    reply = system.client.answer(waiting["order_id"])
    system.check()
    system.check_answers({waiting["order_id"]: reply})
    length.report(
        f"while the exchange hangs open spreads are listed in {percentile(took, 0.5):.1f} ms (p50),"
        f" {percentile(took, 0.99):.1f} ms (p99), answers are on the disk after"
        f" {percentile(synced, 0.99):.0f} ms (p99); SIGTERM took {ended:.1f} s"
    )
    if length.is_long:
        assert percentile(took, 0.99) <= 50
        assert percentile(synced, 0.99) <= 200
