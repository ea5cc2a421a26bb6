"""The account as the trading engine sees it: private stream and look-ups against the local exchange."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest

from blackbird.bybit.account import Pushed
from blackbird.bybit.account_rows import Position
from blackbird.bybit.connection import Connector
from blackbird.bybit.exchange import Exchange, ExchangeUrls
from blackbird.bybit.look_ups import LookUpFailed
from blackbird.bybit.margin import Margin
from blackbird.bybit.private_stream import PING_SECONDS
from blackbird.bybit.rest import Credentials
from blackbird.bybit.start_checks import check_account
from blackbird.market.instrument import Instrument
from blackbird.runtime.clock import milliseconds
from blackbird.runtime.process import InvalidSetup
from blackbird.trading.leg_order import Fill, Final, LegOrder, NotFound, Taken
from blackbird.trading.orders import Refused
from blackbird.trading.sizing import MARGIN, MarginTerms
from local_exchange.process import ExchangeProcess
from tests.support.bybit_account import KEY, PATIENCE, SECRET, Trader

PERP = Instrument("linear", "BTCPERP")
USDT_PERP = Instrument("linear", "BTCUSDT")
SPOT = Instrument("spot", "BTCUSDT")
UNLIMITED = (
    *("--orders-per-second", "linear=0", "--orders-per-second", "spot=0"),
    *("--lookups-per-second", "0", "--ip-requests", "0"),
)
BIDS = [["63999.0", "0.100"], ["63998.0", "0.200"], ["63000.0", "9.000"]]
ASKS = [["64001.0", "0.100"], ["64002.0", "0.200"], ["65000.0", "9.000"]]
OURS = "1f3c9a7e-"


@pytest.fixture(scope="module")
def quiet() -> Iterator[ExchangeProcess]:
    with ExchangeProcess("--rate", "0", *UNLIMITED) as exchange:
        yield exchange


@pytest.fixture
def local(quiet: ExchangeProcess) -> Iterator[ExchangeProcess]:
    trader = Trader(quiet)
    for category in ("linear", "spot"):
        trader.set_book(category, BIDS, ASKS)
    yield quiet
    quiet.fault("clear")
    trader.set_book("linear", BIDS, ASKS)
    trader.flatten()


class Client:
    """An Exchange on the running loop, and what it handed out."""

    def __init__(self, local: ExchangeProcess) -> None:
        self.local = local
        self.events: list[Pushed] = []
        self.exchange = Exchange(
            ExchangeUrls(local.rest_url, local.private_url),
            Credentials(KEY, SECRET),
            Connector(ping_seconds=PING_SECONDS).connect,
            link_prefix=OURS,
            base_fee=Decimal("0.002"),
            orders_per_second={"linear": 1000, "spot": 1000},
            now=milliseconds,
            on_event=self.events.append,
        )
        self.account = self.exchange.account

    def events_of(self, link_id: str, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if event.link_id == link_id and isinstance(event, kind)]

    async def until(self, condition: Callable[[], object], what: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                while not condition():
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError(f"not within {PATIENCE} s: {what}") from None

    async def over(self, link_id: str) -> Final:
        await self.until(lambda: self.events_of(link_id, Final), f"the end of {link_id}")
        end: Final = self.events_of(link_id, Final)[0]
        await self.until(lambda: self.filled(link_id) == end.cumulative, f"the fills of {link_id}")
        return end

    def filled(self, link_id: str) -> Decimal:
        return sum((fill.quantity for fill in self.events_of(link_id, Fill)), Decimal(0))

    async def look_up(self, link_id: str, instrument: Instrument = PERP) -> list[Any]:
        return await self.account.look_up(link_id, instrument)

    async def buy(self, name: str, instrument: Instrument = PERP, quantity: str = "0.15") -> str:
        """Send a limit order to buy that walks over two levels; return its link id."""
        order = LegOrder(OURS + name, instrument, "Buy", Decimal(quantity), limit=Decimal(64010))
        sent = await self.exchange.legs.send(order, None)
        assert isinstance(sent, Taken)
        return order.link_id


@asynccontextmanager
async def client_of(local: ExchangeProcess) -> AsyncIterator[Client]:
    client = Client(local)
    running = asyncio.create_task(client.exchange.run())
    try:
        assert await client.exchange.wait_until_connected(PATIENCE)
        yield client
    finally:
        running.cancel()
        await asyncio.wait([running])


def run(local: ExchangeProcess, work: Callable[[Client], Awaitable[None]]) -> None:
    async def main() -> None:
        async with client_of(local) as client:
            await work(client)

    asyncio.run(main())


def start(local: ExchangeProcess, **keys: str) -> str | None:
    """Do the start checks and return whose account it is."""

    credentials = Credentials(keys.get("key", KEY), keys.get("secret", SECRET))
    return asyncio.run(check_account(local.rest_url, credentials, milliseconds)).user_id


def test_fills_and_the_end_of_an_order_are_handed_out_as_they_are_pushed(local: ExchangeProcess) -> None:
    async def work(client: Client) -> None:
        await client.account.prepare(PERP)
        link_id = await client.buy("pushed")
        assert await client.over(link_id) == Final(link_id, Decimal("0.15"))
        fills = sorted(client.events_of(link_id, Fill), key=lambda fill: fill.price)
        assert [(fill.price, fill.quantity) for fill in fills] == [
            (Decimal(64001), Decimal("0.1")),
            (Decimal(64002), Decimal("0.05")),
        ]
        assert {(fill.instrument, fill.side, fill.fee_coin) for fill in fills} == {(PERP, "Buy", "USDC")}
        assert fills[0].fee == Decimal("3.520055")
        assert abs(fills[0].time - milliseconds()) < 60_000
        await client.until(lambda: client.account.position(PERP) == Decimal("0.15"), "the position")

    run(local, work)


@pytest.mark.parametrize("fault", ["private_repeat", "private_shuffle"])
def test_each_fill_is_handed_out_once_in_any_order(local: ExchangeProcess, fault: str) -> None:
    async def work(client: Client) -> None:
        local.fault(fault)
        for number in range(5):
            link_id = await client.buy(f"{fault}-{number}", quantity="0.02")
            await client.over(link_id)
        # Pushed after everything else: all that was pushed twice has come by then.
        local.fault("deposit", coin="USDT", amount="1")
        usdt = Trader(local).balance("USDT")
        await client.until(lambda: client.account.balance("USDT") == usdt, "the deposit")
        fills = [event.exec_id for event in client.events if isinstance(event, Fill)]
        assert len(fills) == len(set(fills)) >= 5

    run(local, work)


def test_spot_buy_pays_in_base_coin_and_the_fee_is_learnt(local: ExchangeProcess) -> None:
    async def work(client: Client) -> None:
        await client.account.prepare(SPOT)
        assert client.account.base_fee(SPOT) == Decimal("0.002"), "believed"
        await client.over(await client.buy("spot-1", SPOT, "0.01"))
        [fill] = client.events_of(OURS + "spot-1", Fill)
        assert (fill.fee, fill.fee_coin) == (Decimal("0.00001"), "BTC")
        assert client.account.base_fee(SPOT) == Decimal("0.001")
        assert client.account.base_fee(PERP) == 0
        local.fault("fee_coin", coin="MNT", price="0.8")
        await client.over(await client.buy("spot-2", SPOT, "0.01"))
        assert client.account.base_fee(SPOT) == 0

    run(local, work)


def test_taxes_come_on_top_of_the_fee(local: ExchangeProcess) -> None:
    async def work(client: Client) -> None:
        local.fault("extra_fee", rate="0.0001")
        link_id = await client.buy("taxed", quantity="0.01")
        await client.over(link_id)
        [fill] = client.events_of(link_id, Fill)
        assert fill.fee == Decimal("0.3520055") + Decimal("0.064001")

    run(local, work)


def test_orders_of_others_and_funding_are_not_handed_out(
    local: ExchangeProcess, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(client: Client) -> None:
        local.fault("manual_trade", symbol="BTCPERP", side="Buy", qty="0.05")
        await client.until(lambda: client.account.position(PERP) == Decimal("0.05"), "the trade by hand")
        local.fault("funding", symbol="BTCPERP", rate="0.0001")
        assert "from outside" not in caplog.text
        local.fault("adl", symbol="BTCPERP", qty="0.02")
        await client.until(lambda: client.account.position(PERP) == Decimal("0.03"), "deleveraging")
        await client.until(lambda: "position changed from outside" in caplog.text, "that it is said")
        assert client.events == []

    run(local, work)


def test_orders_are_looked_up_in_every_state(local: ExchangeProcess) -> None:
    async def work(client: Client) -> None:
        assert await client.look_up(OURS + "never") == [NotFound(OURS + "never")]
        link_id = await client.buy("found")
        await client.over(link_id)
        taken, *fills, end = await client.look_up(link_id)
        assert isinstance(taken, Taken)
        assert sorted(fill.exec_id for fill in fills) == sorted(
            fill.exec_id for fill in client.events_of(link_id, Fill)
        )
        assert end == Final(link_id, Decimal("0.15"))
        local.fault("realtime_wiped")
        assert await client.look_up(link_id) == [taken, *fills, end], "from the history"
        local.fault("late_fill", ms=600, count=1)
        waiting = await client.buy("waiting", quantity="0.01")
        assert [type(event) for event in await client.look_up(waiting)] == [Taken]
        await client.over(waiting)
        local.fault("no_fill", count=1)
        none = await client.buy("none", quantity="0.01")
        await client.over(none)
        assert (await client.look_up(none))[1:] == [Final(none, Decimal(0))]

    run(local, work)


@pytest.mark.parametrize("path", ["/v5/order/realtime", "/v5/order/history", "/v5/execution/list"])
@pytest.mark.parametrize(
    ("fault", "given"),
    [
        ("http", {"status": 500}),
        ("refuse", {"code": 10016}),
        ("empty_object", {}),
        ("json_list", {}),
        ("lost_reply", {}),
        ("rate_limit", {}),
    ],
)
def test_look_up_that_fails_is_not_a_look_up_that_finds_nothing(
    local: ExchangeProcess, path: str, fault: str, given: dict[str, Any]
) -> None:
    async def work(client: Client) -> None:
        local.fault(fault, path=path, count=1, **given)
        with pytest.raises(LookUpFailed):
            await client.look_up(OURS + "never")
        assert await client.look_up(OURS + "never") == [NotFound(OURS + "never")]

    run(local, work)


def test_stream_that_is_dropped_is_subscribed_again_and_what_was_missed_is_asked_for(
    local: ExchangeProcess,
) -> None:
    async def work(client: Client) -> None:
        await client.account.prepare(PERP)
        before = milliseconds()
        assert not client.exchange.was_down_since(before)
        local.fault("private_drop", how="rst", seconds=0.3)
        await client.until(lambda: not client.exchange.stream.is_connected, "the end of the connection")
        assert client.exchange.was_down_since(before)
        local.fault("manual_trade", symbol="BTCPERP", side="Sell", qty="0.04")
        await client.until(lambda: client.exchange.stream.is_connected, "the next connection")
        assert client.exchange.was_down_since(before), "something may have been missed"
        await client.until(lambda: client.account.position(PERP) == Decimal("-0.04"), "the position")
        assert client.exchange.trouble() is None
        await client.over(await client.buy("after-drop", quantity="0.01"))

    run(local, work)


def test_stream_without_pushes_is_replaced_once_a_look_up_shows_it(local: ExchangeProcess) -> None:
    async def work(client: Client) -> None:
        local.fault("private_silence")
        started = milliseconds()
        assert not client.exchange.was_down_since(started)
        link_id = await client.buy("unheard", quantity="0.01")

        async def found() -> bool:
            await asyncio.sleep(0.1)
            await client.look_up(link_id)
            return client.exchange.was_down_since(started)

        async with asyncio.timeout(PATIENCE):
            while not await found():
                pass
        await client.until(lambda: client.exchange.stream.is_connected, "the next connection")
        await client.over(await client.buy("heard", quantity="0.01"))

    run(local, work)


def test_balance_is_what_is_free_and_not_reserved(local: ExchangeProcess) -> None:
    async def work(client: Client) -> None:
        account, trader = client.account, Trader(local)
        assert account.balance("BTC") == trader.balance("BTC")
        assert account.balance("DOGE") == 0
        account.reserve("t1", {"BTC": Decimal("0.3"), "USDT": Decimal(5)})
        account.reserve("t2", {"BTC": Decimal("0.2")})
        assert account.balance("BTC") == trader.balance("BTC") - Decimal("0.5")
        account.release("t1")
        account.release("t1")
        assert account.balance("BTC") == trader.balance("BTC") - Decimal("0.2")
        local.fault("deposit", coin="BTC", amount="1.5")
        expected = trader.balance("BTC") - Decimal("0.2")
        await client.until(lambda: account.balance("BTC") == expected, "the deposit")

    run(local, work)


def test_rules_are_those_of_the_exchange_and_renewed_on_demand(local: ExchangeProcess) -> None:
    async def work(client: Client) -> None:
        spot, perp = await client.account.prepare(SPOT), await client.account.prepare(PERP)
        assert (spot.base, spot.quote, spot.step, spot.tick) == (
            *("BTC", "USDT"),
            *(Decimal("0.000001"), Decimal("0.1")),
        )
        assert (perp.settle, perp.step, perp.least_value, perp.most_quantity) == (
            "USDC",
            *(Decimal("0.001"), Decimal(5), Decimal(1190)),
        )
        local.fault("rules", channel="linear", symbol="BTCPERP", step="0.01")
        order = LegOrder(OURS + "old-step", PERP, "Buy", Decimal("0.001"), limit=Decimal(64010))
        await client.exchange.legs.send(order, None)
        await client.until(
            lambda: (rules := client.account.rules(PERP)) is not None and rules.step == Decimal("0.01"),
            "the new step",
        )

    run(local, work)


@pytest.mark.parametrize(
    ("instrument", "why"),
    [
        (Instrument("inverse", "BTCUSD"), "expected spot or linear"),
        (Instrument("spot", "NOPEUSDT"), "unknown to the exchange"),
        (Instrument("linear", "NOPEPERP"), "unknown to the exchange"),
        (Instrument("linear", "ETHPERP"), "not listed as trading"),
        (USDT_PERP, "the account is in hedge mode for it: switch it to one-way mode"),
    ],
)
def test_instrument_that_cannot_be_traded_is_refused_with_the_reason(
    local: ExchangeProcess, instrument: Instrument, why: str
) -> None:
    async def work(client: Client) -> None:
        local.fault("status", channel="linear", symbol="ETHPERP", status="Closed")
        local.fault("hedge_mode")
        for _ in range(2):
            with pytest.raises(Refused) as refused:
                await client.account.prepare(instrument)
            assert str(refused.value) == f"instrument not tradable: {instrument}: {why}"
        local.fault("hedge_mode", on=False)
        if instrument == USDT_PERP:
            assert (await client.account.prepare(USDT_PERP)).settle == "USDT"

    run(local, work)


def test_instrument_that_cannot_be_asked_for_is_an_error(local: ExchangeProcess) -> None:
    async def work(client: Client) -> None:
        for path in ("/v5/market/instruments-info", "/v5/position/list"):
            local.fault("http", path=path, status=502, count=1)
            with pytest.raises(LookUpFailed):
                await client.account.prepare(PERP)
        await client.account.prepare(PERP)

    run(local, work)


def test_trouble_is_said_while_the_stream_is_down(local: ExchangeProcess) -> None:
    async def work(client: Client) -> None:
        local.fault("http", path="/v5/account/wallet-balance", status=500)
        local.fault("private_drop")
        unknown = "what the account has is not known"
        await client.until(
            lambda: client.exchange.stream.is_connected and client.exchange.trouble() == unknown, "trouble"
        )
        local.fault("clear")
        await client.until(lambda: client.exchange.trouble() is None, "the end of it")

    run(local, work)


# Start checks.


def test_account_that_may_trade_passes_the_checks(local: ExchangeProcess) -> None:
    assert start(local) == "100000001"


@pytest.mark.parametrize("ms", [700, -700])
def test_clock_that_is_off_ends_the_start(local: ExchangeProcess, ms: int) -> None:
    local.fault("clock", ms=ms)
    expected = "REAL_ORDER_SENDING: expected this machine's clock within 500 ms"
    with pytest.raises(InvalidSetup, match=expected):
        start(local)


@pytest.mark.parametrize(
    ("keys", "code"), [({"key": "key-of-another"}, 10003), ({"secret": "secret-of-another"}, 10004)]
)
def test_key_that_is_refused_ends_the_start_and_is_never_shown(
    local: ExchangeProcess, caplog: pytest.LogCaptureFixture, keys: dict[str, str], code: int
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(InvalidSetup, match=f"^API_KEY: expected a key that may trade, .*{code}") as error:
        start(local, **keys)
    shown = caplog.text + str(error.value)
    for secret in (KEY, SECRET, *keys.values()):
        assert secret not in shown


def test_exchange_that_does_not_answer_is_waited_for(local: ExchangeProcess) -> None:
    local.fault("http", path="/v5/market/time", status=502, count=1)
    local.fault("lost_reply", path="/v5/account/info", count=1)
    assert start(local) is not None


def test_key_that_tells_nothing_of_itself_is_taken(local: ExchangeProcess) -> None:
    local.fault("refuse", path="/v5/user/query-api", code=10032, text="Demo trading are not supported.")
    assert start(local) is None


def test_margin_that_is_free_and_what_an_order_needs_of_it_follow_the_account(local: ExchangeProcess) -> None:
    async def work(client: Client) -> None:
        account = client.account
        assert account.margin(PERP, "Buy") is None, "not known before it was asked for"
        await account.prepare(PERP)
        assert account.margin(PERP, "Buy") == MarginTerms(Decimal(0), Decimal("0.1011"))
        assert account.margin(SPOT, "Buy") is None
        free = account.balance(MARGIN)
        assert free > 0
        link_id = await client.buy("margin")
        await client.over(link_id)
        await client.until(lambda: account.position(PERP) == Decimal("0.15"), "the position")
        await client.until(lambda: account.balance(MARGIN) < free - 900, "the margin that it binds")
        assert account.margin(PERP, "Buy") == MarginTerms(Decimal(0), Decimal("0.1011"))
        assert account.margin(PERP, "Sell") == MarginTerms(Decimal("0.15"), Decimal("0.1011"))
        bound = account.balance(MARGIN)
        account.reserve("trade", {MARGIN: Decimal(100)})
        assert account.balance(MARGIN) == bound - 100
        account.release("trade")
        # Prices change it too, which is not pushed.
        client.local.post(
            "/book", channel="linear", symbol="BTCPERP", b=[["69999.0", "9"]], a=[["70001.0", "9"]]
        )
        account.doubt()
        await client.until(lambda: account.balance(MARGIN) > bound, "what it is now")

    run(local, work)


def test_margin_is_not_known_where_the_exchange_does_not_say_it() -> None:
    margin = Margin()
    margin.take(Position("BTCPERP", 0, Decimal(1)))
    margin.free = Decimal(1)
    assert margin.terms(PERP, "Buy") is None, "no leverage in portfolio margin mode"
    margin.take(Position("BTCPERP", 0, Decimal(1), Decimal(10)))
    assert margin.terms(PERP, "Buy") is not None
    margin.free = None
    assert margin.terms(PERP, "Buy") is None, "nothing is said in isolated margin mode"
