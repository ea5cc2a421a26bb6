"""A divided feed: each group is traded by one of two signal engines, whichever of them dies."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import pytest

from blackbird.broker.feed_layout import FeedLayout
from local_exchange.process import ExchangeProcess
from tests.support.live_system import LiveSystem, Update, update_of
from tests.support.order_client import Accounts, OrderClient
from tests.support.workspace import Service, Workspace, free_port, wait_for

LAYOUT = FeedLayout(4)
# A group for each partition, by number; the second engine has the odd ones.
COINS = ("BTC", "ETH", "T003", "T004")
OF_FIRST, OF_SECOND = COINS[::2], COINS[1::2]
QUEUES = (*LAYOUT.queues("storage"), *LAYOUT.queues("signal"))


def key_in(partition: int, prefix: str = "") -> str:
    """Return a matching key of this partition."""
    keys = (f"{prefix}{number}" for number in range(1000))
    return next(key for key in keys if LAYOUT.partition_of(key) == partition)


class Divided:
    """All services on four partitions, two of them signal engines; strangers see the keys of old."""

    def __init__(self, place: Workspace, exchange: ExchangeProcess, **settings: str) -> None:
        self.place = place
        place.environment |= {"SIGNAL_PARTITIONS": "4", "SIGNAL_ENGINES": "2", **settings}
        self.system = LiveSystem(place, exchange)
        for key in ("storage", "signal"):
            channel = place.channel()
            channel.queue_declare(f"stranger.{key}", durable=True)
            channel.queue_bind(f"stranger.{key}", "data_feeder", key)
            channel.connection.close()
        self.engines = [self.start_engine(number) for number in range(2)]
        self.system.start("trading_engine", "data_storage", "market_data_collector")
        self.subscribe()

    def subscribe(self) -> None:
        """Subscribe to the legs of all groups."""
        for partition, coin in enumerate(COINS):
            for kind, symbol in (("spot", f"{coin}USDT"), ("linear", f"{coin}PERP")):
                body = {"symbol": symbol, "channel": kind, "matching_key": key_in(partition)}
                assert self.system.request("/subscribe", body)[0] == 200

    def start_engine(self, number: int) -> Service:
        return self.place.start("signal", SIGNAL_ENGINE=str(number))

    def await_active(self, number: int) -> None:
        """Wait until the broker gives an engine its own partitions."""
        engine = f"signal-engine-{self.engines[number].process.pid}"
        wanted = {f"{engine}-signal.{partition}" for partition in (number, number + 2)}
        wait_for(lambda: wanted <= self.place.active_consumers(), f"engine {number} has its partitions")

    def trades(self) -> Counter[str]:
        """Return how many executions there are of each coin."""
        rows = self.place.query(
            "SELECT symbol_name, count(*) FROM bybit.\"order\" WHERE channel = 'linear' GROUP BY 1"
        )
        return Counter({symbol.removesuffix("PERP"): count for symbol, count in rows})

    def await_trades(self, coins: tuple[str, ...]) -> None:
        """Wait until each of these coins is traded some more."""
        before = self.trades()

        def traded() -> bool:
            now = self.trades()
            return all(now[coin] > before[coin] + 1 for coin in coins)

        wait_for(traded, f"trades of {coins}", 40)

    def seen(self, queue: str) -> Counter[Update]:
        """Take all messages of a queue; return how often each update is among them."""
        channel = self.place.channel()
        found: Counter[Update] = Counter()
        while (body := channel.basic_get(queue, auto_ack=True)[2]) is not None:
            found[update_of(json.loads(body))] += 1
        channel.connection.close()
        return found


@pytest.fixture
def divided(place: Workspace) -> Iterator[Divided]:
    with ExchangeProcess("--instruments", "4") as exchange:
        yield Divided(place, exchange)


def test_each_group_has_its_engine_and_those_of_a_killed_one_go_on_when_it_is_back(divided: Divided) -> None:
    place = divided.place
    divided.await_trades(COINS)
    assert not {"storage", "signal", "subscription"} & place.queues()
    divided.engines[1].kill()
    if place.broker_version() >= (4, 0):
        # The broker gives its partitions to the other one.
        divided.await_trades(COINS)
    else:
        before = divided.trades()
        divided.await_trades(OF_FIRST)
        # One order of a group was out at most when the engine died.
        assert all(divided.trades()[coin] <= before[coin] + 1 for coin in OF_SECOND)
        wait_for(
            lambda: "no consumer (signal engine)" in str(divided.system.request("/health")),
            "the partitions without an engine named",
        )
    divided.engines[1] = divided.start_engine(1)
    divided.await_trades(COINS)
    wait_for(lambda: divided.system.request("/health")[0] == 200, "all is well")
    # Each engine knew of every spread that the other one had opened.
    assert place.query("SELECT info FROM bybit.refused_order WHERE info LIKE 'invalid order%%'") == []

    assert divided.system.services["market_data_collector"].stop() == 0
    wait_for(lambda: not any(place.waiting(queue) for queue in QUEUES), "the partitions worked off")
    published = divided.seen("stranger.storage")
    assert published == divided.seen("stranger.signal")
    assert set(published.values()) == {1}
    stored = place.query(
        "SELECT channel, topic, type, update_id, sequence_id, ts_orderbook FROM bybit.orderbook_update"
    )
    assert Counter(stored) == published
    assert not any("programming error" in engine.output for engine in divided.engines)


@pytest.mark.slow
def test_partitions_go_to_the_engine_that_lives_and_back_to_the_one_that_is_wanted(divided: Divided) -> None:
    place = divided.place
    if place.broker_version() < (4, 0):
        pytest.skip("static before RabbitMQ 4.0: ./run_tests.sh --rabbitmq 4.0")
    divided.await_trades(COINS)
    for number in (1, 0, 1, 0):
        divided.engines[number].kill()
        divided.await_trades(COINS)
        divided.engines[number] = divided.start_engine(number)
        divided.await_active(number)
        divided.await_trades(COINS)
    assert place.query("SELECT info FROM bybit.refused_order WHERE info LIKE 'invalid order%%'") == []
    divided.system.exchange.post("/pause")
    client = OrderClient(place)
    wait_for(lambda: Accounts(place).open_spreads == client.open_spreads(), "all executions stored")


@pytest.mark.slow
def test_each_of_two_collectors_serves_its_groups_and_a_killed_one_comes_back(place: Workspace) -> None:
    with ExchangeProcess("--instruments", "4") as exchange:
        divided = Divided(place, exchange, COLLECTORS="2")
        system, port = divided.system, free_port()
        further = {"COLLECTOR": "1", "COLLECTOR_PORT": str(port)}
        second = system.start_beside("market_data_collector", **further)
        divided.await_trades(COINS)
        assert len(system.request("/subscriptions")[1]["spot"]) == 4
        status, health = system.request("/health", port=port)
        assert (status, health["collector"]["subscriptions"]) == (200, 4)
        body = {"symbol": "BTCUSDT", "channel": "spot", "matching_key": "x"}
        assert system.request("/subscribe", body, port=port)[0] == 404
        assert set(divided.seen("stranger.storage").values()) == {1}

        second.kill()
        divided.await_trades(OF_FIRST)
        assert len(exchange.get("/sockets")) == 4
        second = system.start_beside("market_data_collector", **further)
        divided.await_trades(COINS)
        # A group that gets another key changes its collector.
        for kind, symbol in (("spot", "BTCUSDT"), ("linear", "BTCPERP")):
            moved = {"symbol": symbol, "channel": kind, "matching_key": key_in(1, "moved")}
            assert system.request("/subscribe", moved)[0] == 200
        divided.await_trades(COINS)
        wait_for(lambda: system.request("/health", port=port)[1]["collector"]["subscriptions"] == 6)
