"""What `/health` and the answers to changes say of the whole system, with the real services and broker."""

from __future__ import annotations

import contextlib
import tempfile
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from local_exchange.process import ExchangeProcess
from tests.support.engine_stand_in import EngineStandIn
from tests.support.live_system import SERVICES, LiveSystem, ServerPair
from tests.support.workspace import Workspace, make_virtual_host, wait_for

SPOT = {"channel": "spot", "symbol": "BTCUSDT"}
ALARM = "RabbitMQ: blocked (memory or disk alarm)"


@pytest.fixture(scope="module")
def market() -> Iterator[ExchangeProcess]:
    with ExchangeProcess("--rate", "20") as exchange:
        yield exchange


def down(system: LiveSystem) -> list[str]:
    return list(system.request("/health")[1]["down"])


def test_health_names_each_service_that_is_not_there_until_it_is_back(
    place: Workspace, market: ExchangeProcess
) -> None:
    system = LiveSystem(place, market)
    system.start(*SERVICES)
    system.subscribe()
    wait_for(lambda: system.request("/health")[0] == 200, "a system that works")
    for service, queue in (("data_storage", "storage"), ("signal", "signal"), ("trading_engine", "orders")):
        system.services[service].kill()
        wait_for(lambda: down(system), f"{service} missed")
        status, health = system.request("/health")
        assert (status, health["status"]) == (503, "down")
        assert [entry.partition(":")[0] for entry in health["down"]] == [queue]
        assert health["seen_through_broker"]["queues"][queue]["consumers"] == 0
        assert health["collector"]["down"] == []
        system.start(service)
        wait_for(lambda: system.request("/health")[0] == 200, f"{service} back")


def test_messages_wait_and_dead_letters_are_counted(place: Workspace, market: ExchangeProcess) -> None:
    system = LiveSystem(place, market)
    system.start("market_data_collector")
    system.subscribe()
    channel = place.channel()
    channel.queue_declare("signal.dead", durable=True)
    channel.basic_publish("", "signal.dead", b"?")

    def counted() -> bool:
        queues = system.request("/health")[1]["seen_through_broker"]["queues"]
        return bool(queues["storage"]["messages"] > 10 and queues["signal"]["dead_letters"] == 1)

    wait_for(counted, "messages and dead letters counted")


def test_sizes_that_do_not_fit_the_group_are_refused_and_change_nothing(asking: Asking) -> None:
    before = asking.system.request("/subscriptions")
    misfit = {"channel": "inverse", "symbol": "BTCUSD", "matching_key": "a"}
    status, answer = asking.system.request("/subscribe", misfit)
    assert status == 400
    assert "inverse:BTCUSD" in answer["detail"]
    assert asking.system.request("/subscriptions") == before


# --- open spreads --------------------------------------------------------------------------------


class Asking:
    """A collector, and a stand-in for the engine that is asked while a request waits."""

    def __init__(self, system: LiveSystem, engine: EngineStandIn) -> None:
        self.system = system
        self.engine = engine

    def request(self, path: str, body: dict[str, str]) -> dict[str, Any]:
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(self.system.request, path, body)
            self.engine.wait_for(answer.done, f"an answer to {path}")
            status, answered = answer.result()
        assert (status, answered["status"]) == (200, "ok")
        return dict(answered)


@pytest.fixture
def asking(place: Workspace, market: ExchangeProcess) -> Asking:
    engine = EngineStandIn(place)
    legs = {"long": ["spot", "BTCUSDT"], "short": ["linear", "BTCPERP"]}
    prices = {"spread": 3.5, "quantity": 0.25, "long_price": 60000, "short_price": 60003.5}
    engine.spreads = [{"spread_id": str(i), **legs, **prices} for i in range(47)]
    system = LiveSystem(place, market)
    system.start("market_data_collector")
    system.subscribe()
    return Asking(system, engine)


def test_an_unsubscribed_leg_with_open_spreads_is_answered_with_a_warning(asking: Asking) -> None:
    warning = asking.request("/unsubscribe", SPOT)["warning"]
    assert "47 open spreads with an exposure of 11.75 long in spot:BTCUSDT, 705000 in quote coin" in warning
    assert warning in asking.system.services["market_data_collector"].first_warning()


def test_a_moved_leg_is_answered_with_a_warning_and_both_keys_until_its_partner_follows(
    asking: Asking,
) -> None:
    moved = asking.request("/subscribe", {**SPOT, "matching_key": "b"})
    assert "47 open spreads" in moved["warning"]
    assert (moved["matching_key"], moved["previous_matching_key"]) == ("b", "a")
    partner = {"channel": "linear", "symbol": "BTCPERP", "matching_key": "b"}
    assert asking.request("/subscribe", partner) == {"status": "ok"}


def test_an_engine_that_is_silent_or_gone_is_said_in_the_warning(asking: Asking) -> None:
    asking.engine.answers_questions = False
    warning = asking.request("/unsubscribe", SPOT)["warning"]
    assert "could not be asked" in warning
    assert "no answer within" in warning
    assert asking.engine.questions


# --- an alarm of the broker ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def broker() -> Iterator[ServerPair]:
    """A broker whose alarms bother nobody else."""
    with tempfile.TemporaryDirectory(prefix="blackbird-broker-") as folder:
        # The server's own user has to get in.
        Path(folder).chmod(0o755)
        pair = ServerPair(Path(folder))
        try:
            pair.setup("start", "broker")
            yield pair
        finally:
            pair.setup("stop", "broker")


@pytest.fixture
def alarmed(broker: ServerPair) -> Iterator[Callable[[str], None]]:
    """Set the broker's memory limit, as a share of the memory; the alarm is off at 0.4."""

    def limit(share: str) -> None:
        broker.setup("rabbitmqctl", "set_vm_memory_high_watermark", share)

    yield limit
    limit("0.4")


@pytest.mark.parametrize("subscribed", [True, False], ids=["with pushes", "idle"])
def test_a_broker_that_blocks_publishers_is_named_and_changes_are_kept(
    broker: ServerPair,
    alarmed: Callable[[str], None],
    market: ExchangeProcess,
    tmp_path: Path,
    *,
    subscribed: bool,
) -> None:
    name = f"test_{uuid.uuid4().hex[:12]}"
    make_virtual_host(broker.settings, name)
    with contextlib.closing(Workspace(tmp_path, name, broker.settings)) as place:
        system = LiveSystem(place, market)
        system.start("market_data_collector", "signal")
        if subscribed:
            system.subscribe()
        wait_for(lambda: not any("RabbitMQ" in entry for entry in down(system)), "queues seen")
        alarmed("0")
        wait_for(lambda: ALARM in down(system), "the alarm named", 5)
        status, health = system.request("/health")
        assert status == 503
        assert health["collector"]["rabbitmq"] == "blocked (memory or disk alarm)"
        # What goes on behind the broker is seen all the same.
        system.services["signal"].kill()
        wait_for(lambda: any(entry.startswith("signal: no consumer") for entry in down(system)), "the loss")

        eth = {"channel": "spot", "symbol": "ETHUSDT"}
        status, answer = system.request("/subscribe", {**eth, "matching_key": "e"})
        assert (status, answer["status"]) == (200, "ok")
        assert "kept by the collector" in answer["detail"]
        assert "memory or disk alarm" in answer["detail"]
        assert eth["symbol"] in str(system.request("/subscriptions"))

        alarmed("0.4")
        wait_for(lambda: ALARM not in down(system), "the alarm over")
        assert system.request("/subscribe", {**eth, "matching_key": "e"}) == (200, {"status": "ok"})
        _, _, newest = place.channel().basic_get("subscription.latest")
        assert b"ETHUSDT" in (newest or b"")
