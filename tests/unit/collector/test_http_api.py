"""The collector's HTTP side on subscriptions and a system that a test sets as it likes."""

from __future__ import annotations

import asyncio
import re
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
from fastapi import FastAPI

from blackbird.bybit.stream import SubscriptionStatus
from blackbird.collector.http_api import create_app
from blackbird.collector.publisher import BrokerState
from blackbird.collector.system_view import EngineNotAsked, QueueDepth
from blackbird.market.instrument import Instrument
from blackbird.trading.orders import OpenSpread

ORIGIN = "http://127.0.0.1:8000"
SPOT = Instrument("spot", "BTCUSDT")
PERP = Instrument("linear", "BTCPERP")
OTHER = Instrument("linear", "BTCUSDT")


class FakePublishing:
    def __init__(self) -> None:
        self.dropped = 0
        self.backlog = 3
        self.state = BrokerState.CONNECTED


class FakeFeeds:
    """Subscriptions without streams; the exchange answers `status` and `reason`."""

    def __init__(self) -> None:
        self.matching_key: dict[tuple[str, str], str] = {}
        self.is_saved = True
        self.status = SubscriptionStatus.ACCEPTED
        self.reason = ""
        self.streams_down: list[str] = []

    def group(self, matching_key: str) -> list[Instrument]:
        return [Instrument(*each) for each, key in self.matching_key.items() if key == matching_key]

    async def subscribe(self, instrument: Instrument, matching_key: str) -> tuple[SubscriptionStatus, str]:
        if self.status is not SubscriptionStatus.REFUSED or instrument in self.matching_key:
            self.matching_key[instrument] = matching_key
        return self.status, self.reason

    async def unsubscribe(self, instrument: Instrument) -> None:
        self.matching_key.pop(instrument, None)

    def listed(self) -> dict[str, list[dict[str, str]]]:
        listed: dict[str, list[dict[str, str]]] = {}
        for (channel, symbol), key in self.matching_key.items():
            listed.setdefault(channel, []).append({"symbol": symbol, "matching_key": key})
        return listed

    def down(self) -> list[str]:
        return self.streams_down


class FakeSystem:
    """The other services as a test says they are."""

    def __init__(self) -> None:
        self.age: float | None = 0.25
        self.queues = {"orders": QueueDepth(1, 4, 2, falling_at=0.0)}
        self.services_down: list[str] = []
        self.spreads: list[OpenSpread] = []
        self.silent: EngineNotAsked | None = None
        self.questions = 0

    def down(self) -> list[str]:
        return self.services_down

    async def open_spreads(self) -> list[OpenSpread]:
        self.questions += 1
        if self.silent is not None:
            raise self.silent
        return self.spreads


class Scene:
    def __init__(self) -> None:
        self.feeds = FakeFeeds()
        self.system = FakeSystem()
        self.publisher = FakePublishing()
        self.app = create_app(self.feeds, self.publisher, self.system)

    def ask(self, method: str, path: str, body: object = None) -> httpx.Response:
        return request(self.app, method, path, body)

    def subscribe(self, instrument: Instrument, key: str) -> tuple[int, Any]:
        channel, symbol = instrument
        body = {"channel": channel, "symbol": symbol, "matching_key": key}
        answer = self.ask("POST", "/subscribe", body)
        return answer.status_code, answer.json()

    def unsubscribe(self, instrument: Instrument) -> tuple[int, Any]:
        channel, symbol = instrument
        answer = self.ask("POST", "/unsubscribe", {"channel": channel, "symbol": symbol})
        return answer.status_code, answer.json()

    def open(self, count: int, quantity: str, long: Instrument = PERP, short: Instrument = SPOT) -> None:
        self.system.spreads += [
            OpenSpread(f"{long}-{number}", long, short, Decimal(10), Decimal(quantity))
            for number in range(count)
        ]


def request(app: FastAPI, method: str, path: str, body: object = None) -> httpx.Response:
    async def run() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=ORIGIN) as client:
            return await client.request(method, path, json=body)

    return asyncio.run(run())


@pytest.fixture
def scene() -> Scene:
    made = Scene()
    made.feeds.matching_key = {SPOT: "a", PERP: "a"}
    return made


# --- changes of the subscriptions ----------------------------------------------------------------


def test_changes_without_open_spreads_are_answered_with_nothing_extra(scene: Scene) -> None:
    assert scene.subscribe(OTHER, "a") == (200, {"status": "ok"})
    assert scene.subscribe(SPOT, "b") == (200, {"status": "ok"})
    assert scene.unsubscribe(SPOT) == (200, {"status": "ok"})


def test_the_engine_is_asked_only_about_instruments_that_leave_a_group(scene: Scene) -> None:
    scene.open(1, "1")
    scene.subscribe(OTHER, "a")
    scene.subscribe(SPOT, "a")
    scene.unsubscribe(Instrument("spot", "ETHUSDT"))
    assert scene.system.questions == 0
    scene.unsubscribe(SPOT)
    assert scene.system.questions == 1


def test_an_unsubscribed_leg_of_open_spreads_is_warned_about_with_count_and_exposure(scene: Scene) -> None:
    scene.open(47, "0.25")
    scene.open(2, "1.5", long=SPOT, short=PERP)
    scene.open(5, "9", long=PERP, short=OTHER)
    status, answer = scene.unsubscribe(SPOT)
    assert (status, answer["status"]) == (200, "ok")
    assert "49 open spreads" in answer["warning"]
    assert "3 long and 11.75 short in spot:BTCUSDT" in answer["warning"]
    assert scene.feeds.matching_key == {PERP: "a"}


def test_a_moved_leg_is_warned_about_and_the_answer_names_both_keys(scene: Scene) -> None:
    scene.open(1, "0.5")
    status, answer = scene.subscribe(SPOT, "b")
    assert status == 200
    assert "1 open spread " in answer.pop("warning")
    assert answer == {"status": "ok", "matching_key": "b", "previous_matching_key": "a"}


def test_a_leg_that_moves_to_its_partners_group_strands_nothing(scene: Scene) -> None:
    scene.feeds.matching_key = {SPOT: "a", PERP: "b"}
    scene.open(3, "0.5")
    assert scene.subscribe(SPOT, "b") == (200, {"status": "ok"})


def test_an_engine_that_does_not_answer_is_what_the_warning_says(scene: Scene) -> None:
    scene.system.silent = EngineNotAsked("it is not running")
    status, answer = scene.unsubscribe(SPOT)
    assert (status, answer["status"]) == (200, "ok")
    assert "could not be asked" in answer["warning"]
    assert "it is not running" in answer["warning"]


@pytest.mark.parametrize("state", [BrokerState.BLOCKED, BrokerState.NOT_CONNECTED])
def test_a_change_that_rabbitmq_does_not_take_is_said_to_be_kept(scene: Scene, state: BrokerState) -> None:
    scene.publisher.state = state
    scene.feeds.is_saved = False
    scene.open(1, "0.5")
    status, answer = scene.subscribe(OTHER, "a")
    assert (status, answer["status"]) == (200, "ok")
    assert "kept" in answer["detail"]
    assert state.value in answer["detail"]
    assert "warning" not in answer
    # Nor is the engine asked over a broker that takes nothing.
    assert "could not be asked" in scene.unsubscribe(SPOT)[1]["warning"]
    assert scene.system.questions == 0


def test_what_waits_for_the_exchange_is_pending_with_the_warning_of_a_moved_leg(scene: Scene) -> None:
    scene.feeds.status, scene.feeds.reason = SubscriptionStatus.UNREACHABLE, "no handshake"
    scene.open(1, "0.5")
    status, answer = scene.subscribe(SPOT, "b")
    assert (status, answer["status"]) == (202, "pending")
    assert "no handshake" in answer["detail"]
    assert "1 open spread" in answer["warning"]
    scene.feeds.is_saved = False
    assert "RabbitMQ" in scene.subscribe(PERP, "a")[1]["detail"]


def test_a_known_instrument_that_the_exchange_refuses_now_is_kept_with_its_new_key(scene: Scene) -> None:
    scene.feeds.status, scene.feeds.reason = SubscriptionStatus.REFUSED, "symbol not found"
    status, answer = scene.subscribe(SPOT, "b")
    assert (status, answer["status"]) == (202, "pending")
    assert "symbol not found" in answer["detail"]
    assert scene.feeds.matching_key[SPOT] == "b"


def test_a_refused_symbol_and_an_unknown_channel_are_named(scene: Scene) -> None:
    scene.feeds.status, scene.feeds.reason = SubscriptionStatus.REFUSED, "no such symbol"
    status, answer = scene.subscribe(Instrument("spot", "NOPE"), "a")
    assert (status, answer) == (400, {"detail": "the exchange refuses spot:NOPE: no such symbol"})
    for method in (scene.unsubscribe, lambda instrument: scene.subscribe(instrument, "a")):
        status, answer = method(Instrument("futures", "BTCUSDT"))
        assert status == 400
        assert "futures" in answer["detail"]


@pytest.mark.parametrize(
    ("instrument", "why"),
    [
        (Instrument("inverse", "BTCUSD"), "USD"),
        (Instrument("option", "BTC-26DEC25-90000-C-USDT"), "option"),
        (Instrument("linear", "1000BTCUSDT"), "1000"),
    ],
    ids=str,
)
def test_sizes_in_other_units_than_the_groups_are_refused_with_the_reason(
    scene: Scene, instrument: Instrument, why: str
) -> None:
    for again in ("new", "moved"):
        status, answer = scene.subscribe(instrument, "a")
        assert status == 400, again
        assert str(instrument) in answer["detail"]
        assert why in answer["detail"]
        # In a group of its own kind it is welcome, and from there it can't be moved either.
        assert scene.subscribe(instrument, "own")[0] == 200
    assert scene.feeds.matching_key[instrument] == "own"


def test_a_group_that_was_mixed_before_can_be_subscribed_to_again(scene: Scene) -> None:
    inverse = Instrument("inverse", "BTCUSD")
    scene.feeds.matching_key[inverse] = "a"
    assert scene.subscribe(inverse, "a") == (200, {"status": "ok"})
    assert scene.subscribe(SPOT, "a") == (200, {"status": "ok"})


# --- health --------------------------------------------------------------------------------------


def test_health_is_200_when_everything_works(scene: Scene) -> None:
    answer = scene.ask("GET", "/health")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ok",
        "down": [],
        "dropped": 0,
        "collector": {"down": [], "rabbitmq": "connected", "subscriptions": 2, "unpublished": 3},
        "seen_through_broker": {
            "down": [],
            "age_ms": 250,
            "queues": {"orders": {"consumers": 1, "messages": 4, "dead_letters": 2}},
        },
    }


def test_health_says_what_is_down_and_whose_part_it_is(scene: Scene) -> None:
    scene.feeds.streams_down = ["spot:BTCUSDT: connecting"]
    scene.system.services_down = ["orders: no consumer"]
    answer = scene.ask("GET", "/health")
    assert answer.status_code == 503
    health = answer.json()
    assert health["status"] == "down"
    assert health["down"] == ["spot:BTCUSDT: connecting", "orders: no consumer"]
    assert health["collector"]["down"] == ["spot:BTCUSDT: connecting"]
    assert health["seen_through_broker"]["down"] == ["orders: no consumer"]


def test_a_blocking_broker_is_named_beside_what_is_seen_through_it(scene: Scene) -> None:
    scene.publisher.state = BrokerState.BLOCKED
    scene.system.services_down = ["orders: no consumer"]
    health = scene.ask("GET", "/health").json()
    assert health["collector"]["rabbitmq"] == "blocked (memory or disk alarm)"
    assert health["down"] == ["RabbitMQ: blocked (memory or disk alarm)", "orders: no consumer"]


def test_without_a_broker_nothing_is_said_of_what_can_not_be_seen(scene: Scene) -> None:
    scene.publisher.state = BrokerState.NOT_CONNECTED
    scene.system.services_down = ["RabbitMQ: the queues have not been seen for 9 s"]
    scene.system.age = None
    health = scene.ask("GET", "/health").json()
    assert health["down"] == ["RabbitMQ"]
    assert health["seen_through_broker"]["age_ms"] is None


# --- the pages -----------------------------------------------------------------------------------


class Assets(HTMLParser):
    """Every address that a page makes a browser load."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del tag
        self.addresses += [value for name, value in attrs if name in {"src", "href"} and value]


def test_the_docs_page_and_all_that_it_loads_come_from_the_collector(scene: Scene) -> None:
    page = scene.ask("GET", "/docs")
    assert page.status_code == 200
    assets = Assets()
    assets.feed(page.text)
    description = re.search(r"url: '([^']+)'", page.text)
    assert description is not None
    addresses = [urljoin(f"{ORIGIN}/docs", address) for address in (*assets.addresses, description[1])]
    assert len(addresses) == 4
    for address in addresses:
        assert address.startswith(f"{ORIGIN}/")
        assert scene.ask("GET", urlsplit(address).path).status_code == 200
    # Nothing else on the page names another host, and the description is not sent to a validator.
    assert re.findall(r"(?:https?:)?//[a-z0-9]", page.text) == []
    assert '"validatorUrl": null' in page.text
    assert scene.ask("GET", "/redoc").status_code == 404
