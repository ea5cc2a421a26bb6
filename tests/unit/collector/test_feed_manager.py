"""The subscriptions and their streams, on a fake exchange and a fake broker in virtual time."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from blackbird.bybit.connection import ConnectFailed
from blackbird.bybit.stream import SubscriptionStatus
from blackbird.collector.feed_manager import ANSWER_SECONDS, FeedManager
from blackbird.market.fields import InvalidMessage
from blackbird.market.instrument import Instrument
from blackbird.market.saved_subscriptions import SavedSubscription, decode_saved, encode_saved
from tests.support import virtual_time
from tests.support.fake_exchange import FakeExchange, FakeSocket, Request, wait_until

SPOT = Instrument("spot", "BTCUSDT")
PERP = Instrument("linear", "BTCPERP")


class FakePublisher:
    """Keeps the maps; `is_up` decides whether somebody waits for the broker's confirm."""

    def __init__(self) -> None:
        self.is_up = False
        self.maps: list[Any] = []
        self.saved: list[bytes] = []
        self.confirms: list[asyncio.Future[None]] = []

    @property
    def subscriptions_confirmed(self) -> bool:
        return not self.confirms or self.confirms[-1].done()

    def publish_subscriptions(self, subscriptions: bytes, saved: bytes) -> asyncio.Future[None]:
        self.maps.append(json.loads(subscriptions))
        self.saved.append(saved)
        self.confirms.append(asyncio.get_running_loop().create_future())
        return self.confirms[-1]


class Scene:
    def __init__(self) -> None:
        self.exchange = FakeExchange()
        self.exchange.on_request = self.exchange.serve
        self.publisher = FakePublisher()
        self.feeds = FeedManager(self.publisher, self.exchange.context())

    def open(self) -> list[FakeSocket]:
        return [socket for socket in self.exchange.sockets if not socket.closed.done()]


def play(act: Callable[[Scene], Awaitable[None]], *, restored: bool = True) -> None:
    async def work() -> None:
        scene = Scene()
        if restored:
            scene.feeds.restore([])
            scene.publisher.maps.clear()
        await act(scene)
        await scene.feeds.close()
        assert scene.open() == []

    virtual_time.run(work())


# --- subscribe and unsubscribe -------------------------------------------------------------------


def test_a_subscription_is_listed_and_the_map_published_when_the_exchange_has_accepted_it() -> None:
    async def act(scene: Scene) -> None:
        assert await scene.feeds.subscribe(SPOT, "a") == (SubscriptionStatus.ACCEPTED, "")
        assert await scene.feeds.subscribe(PERP, "b") == (SubscriptionStatus.ACCEPTED, "")
        assert scene.feeds.subscriptions == {"spot": ["BTCUSDT"], "linear": ["BTCPERP"]}
        assert scene.feeds.matching_key == {SPOT: "a", PERP: "b"}
        assert scene.feeds.listed() == {
            "spot": [{"symbol": "BTCUSDT", "matching_key": "a"}],
            "linear": [{"symbol": "BTCPERP", "matching_key": "b"}],
        }
        assert scene.publisher.maps == [{"spot": ["BTCUSDT"]}, {"spot": ["BTCUSDT"], "linear": ["BTCPERP"]}]
        assert json.loads(scene.publisher.saved[-1]) == scene.feeds.listed()

    play(act)


def test_what_the_exchange_refuses_leaves_the_subscriptions_as_they_were() -> None:
    async def act(scene: Scene) -> None:
        scene.exchange.on_request = scene.exchange.refuse
        status, reason = await scene.feeds.subscribe(SPOT, "a")
        assert status is SubscriptionStatus.REFUSED
        assert "BTCUSDT" in reason
        assert scene.feeds.subscriptions == {}
        assert scene.publisher.maps == []
        await wait_until(lambda: scene.open() == [])

    play(act)


def test_unsubscribing_closes_the_stream_with_a_close_frame() -> None:
    async def act(scene: Scene) -> None:
        await scene.feeds.subscribe(SPOT, "a")
        await scene.feeds.unsubscribe(SPOT)
        await wait_until(lambda: scene.open() == [])
        assert scene.exchange.sockets[0].closed_gracefully
        assert scene.publisher.maps[-1] == {}
        assert scene.feeds.subscriptions == {}
        await scene.feeds.unsubscribe(PERP)
        assert len(scene.publisher.maps) == 2

    play(act)


def test_unsubscribed_while_its_answer_is_awaited_it_stays_unsubscribed() -> None:
    async def act(scene: Scene) -> None:
        scene.exchange.on_request = lambda _socket, _request: None
        subscribing = asyncio.create_task(scene.feeds.subscribe(SPOT, "a"))
        await wait_until(scene.open)
        await scene.feeds.unsubscribe(SPOT)
        assert await subscribing == (SubscriptionStatus.UNKNOWN, "")
        assert scene.feeds.subscriptions == {}

    play(act)


def test_the_same_again_changes_nothing_and_another_key_takes_a_snapshot_of_the_same_stream() -> None:
    async def act(scene: Scene) -> None:
        await scene.feeds.subscribe(SPOT, "a")
        await scene.feeds.subscribe(SPOT, "a")
        assert len(scene.publisher.maps) == 1
        await scene.feeds.subscribe(SPOT, "b")
        assert scene.feeds.matching_key == {SPOT: "b"}
        assert len(scene.publisher.maps) == 2
        await wait_until(lambda: len(scene.exchange.bodies) == 2)
        assert [json.loads(body)["matching_key"] for body in scene.exchange.bodies] == ["a", "b"]
        assert len(scene.exchange.sockets) == 1

    play(act)


def test_a_group_includes_instruments_without_an_answer() -> None:
    async def act(scene: Scene) -> None:
        await scene.feeds.subscribe(SPOT, "a")
        scene.exchange.on_request = lambda _socket, _request: None
        subscribing = asyncio.create_task(scene.feeds.subscribe(PERP, "a"))
        await wait_until(lambda: len(scene.open()) == 2)
        assert scene.feeds.group("a") == [SPOT, PERP]
        assert scene.feeds.group("b") == []
        subscribing.cancel()

    play(act)


def test_many_at_once_for_one_instrument_are_one_stream() -> None:
    async def act(scene: Scene) -> None:
        answers = await asyncio.gather(*(scene.feeds.subscribe(SPOT, "a") for _ in range(10)))
        assert answers == [(SubscriptionStatus.ACCEPTED, "")] * 10
        assert len(scene.exchange.sockets) == 1
        assert len(scene.publisher.maps) == 1

    play(act)


def test_the_answer_waits_until_the_broker_has_the_map() -> None:
    async def act(scene: Scene) -> None:
        scene.publisher.is_up = True
        assert scene.publisher.maps == []
        subscribing = asyncio.create_task(scene.feeds.subscribe(SPOT, "a"))
        await wait_until(lambda: scene.publisher.maps)
        await asyncio.sleep(0.5)
        assert [subscribing.done(), scene.feeds.is_saved] == [False, False]
        scene.publisher.confirms[-1].set_result(None)
        assert (await subscribing)[0] is SubscriptionStatus.ACCEPTED
        assert scene.feeds.is_saved
        # ... but not for a broker that does not answer.
        await scene.feeds.unsubscribe(SPOT)

    play(act)


# --- the set of tasks ----------------------------------------------------------------------------


def test_streams_that_stay_are_not_touched_while_others_come_and_go() -> None:
    async def act(scene: Scene) -> None:
        await scene.feeds.subscribe(SPOT, "a")
        socket, task = scene.exchange.sockets[0], next(iter(asyncio.all_tasks() - {asyncio.current_task()}))
        for number in range(20):
            await scene.feeds.subscribe(Instrument("linear", f"T{number}"), "a")
        for number in range(20):
            await scene.feeds.unsubscribe(Instrument("linear", f"T{number}"))
        assert not socket.closed.done()
        assert not task.done()
        assert socket.operations == ["subscribe"]
        await wait_until(lambda: scene.open() == [socket])

    play(act)


def test_each_stream_has_one_task_that_is_cancelled_with_it() -> None:
    async def act(scene: Scene) -> None:
        def streams() -> set[str]:
            names = {"spot:BTCUSDT", "linear:BTCPERP"}
            return {task.get_name() for task in asyncio.all_tasks()} & names

        await scene.feeds.subscribe(SPOT, "a")
        await scene.feeds.subscribe(PERP, "a")
        assert streams() == {"spot:BTCUSDT", "linear:BTCPERP"}
        await scene.feeds.unsubscribe(SPOT)
        await wait_until(lambda: streams() == {"linear:BTCPERP"})
        await scene.feeds.close()
        assert streams() == set()

    play(act)


def test_subscribed_again_it_gets_a_connection_of_its_own() -> None:
    async def act(scene: Scene) -> None:
        await scene.feeds.subscribe(SPOT, "a")
        await scene.feeds.unsubscribe(SPOT)
        assert (await scene.feeds.subscribe(SPOT, "b"))[0] is SubscriptionStatus.ACCEPTED
        await wait_until(lambda: scene.open() == [scene.exchange.sockets[1]])
        assert scene.feeds.matching_key == {SPOT: "b"}

    play(act)


def test_an_exception_in_a_stream_reaches_the_service() -> None:
    async def act(scene: Scene) -> None:
        def broken(socket: FakeSocket, _request: Request) -> None:
            socket.closed.set_exception(KeyError("a fault"))

        scene.exchange.on_request = broken
        await scene.feeds.subscribe(SPOT, "a")
        with pytest.raises(KeyError):
            await scene.feeds.failure

    play(act)


# --- an exchange that is away --------------------------------------------------------------------


def test_without_the_exchange_a_subscription_is_kept_and_pending() -> None:
    async def act(scene: Scene) -> None:
        scene.exchange.failure = ConnectFailed("refused", reached=False)
        status, reason = await scene.feeds.subscribe(SPOT, "a")
        assert (status, reason) == (SubscriptionStatus.UNREACHABLE, "refused")
        assert scene.feeds.subscriptions == {"spot": ["BTCUSDT"]}
        assert scene.feeds.down() == ["spot:BTCUSDT: waiting to connect (refused)"]
        scene.exchange.failure = None
        await wait_until(lambda: not scene.feeds.down())

    play(act)


def test_an_exchange_that_does_not_answer_is_not_waited_for_long() -> None:
    async def act(scene: Scene) -> None:
        scene.exchange.on_request = lambda _socket, _request: None
        began = asyncio.get_running_loop().time()
        assert (await scene.feeds.subscribe(SPOT, "a"))[0] is SubscriptionStatus.UNKNOWN
        assert asyncio.get_running_loop().time() - began <= ANSWER_SECONDS + 0.1
        assert scene.feeds.subscriptions == {"spot": ["BTCUSDT"]}

    play(act)


def test_a_symbol_subscribed_while_the_exchange_was_away_is_removed_when_it_refuses_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def act(scene: Scene) -> None:
        scene.exchange.failure = ConnectFailed("refused", reached=False)
        await scene.feeds.subscribe(SPOT, "a")
        await scene.feeds.subscribe(PERP, "a")
        scene.exchange.on_request = lambda socket, request: (
            scene.exchange.refuse(socket, request)
            if "PERP" in request["args"][0]
            else scene.exchange.serve(socket, request)
        )
        scene.exchange.failure = None
        await wait_until(lambda: scene.publisher.maps[-1] == {"spot": ["BTCUSDT"]})
        assert scene.feeds.subscriptions == {"spot": ["BTCUSDT"]}
        await wait_until(lambda: len(scene.open()) == 1)
        warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert any("BTCPERP" in record.getMessage() for record in warnings)

    play(act)


def test_a_symbol_that_was_accepted_once_is_kept_when_it_is_refused_later() -> None:
    async def act(scene: Scene) -> None:
        scene.exchange.failure = ConnectFailed("refused", reached=False)
        await scene.feeds.subscribe(SPOT, "a")
        scene.exchange.failure = None
        await wait_until(lambda: not scene.feeds.down())
        scene.exchange.on_request = scene.exchange.refuse
        scene.exchange.sockets[-1].lose()
        await wait_until(lambda: scene.feeds.down() and "refused" in scene.feeds.down()[0])
        assert scene.feeds.subscriptions == {"spot": ["BTCUSDT"]}

    play(act)


# --- restoring -----------------------------------------------------------------------------------


def test_nothing_is_published_before_the_saved_subscriptions_are_restored() -> None:
    async def act(scene: Scene) -> None:
        await scene.feeds.subscribe(SPOT, "new")
        await scene.feeds.unsubscribe(Instrument("linear", "GONE"))
        assert scene.publisher.maps == []
        assert not scene.feeds.is_saved
        saved = [
            SavedSubscription(SPOT, "old"),
            SavedSubscription(PERP, "b"),
            SavedSubscription(Instrument("linear", "GONE"), "c"),
        ]
        scene.feeds.restore(saved)
        assert scene.publisher.maps == [{"spot": ["BTCUSDT"], "linear": ["BTCPERP"]}]
        assert scene.feeds.matching_key == {SPOT: "new", PERP: "b"}
        await wait_until(lambda: not scene.feeds.down())

    play(act, restored=False)


def test_whether_the_exchange_ever_accepted_a_subscription_survives_a_restart() -> None:
    async def act(scene: Scene) -> None:
        scene.exchange.failure = ConnectFailed("refused", reached=False)
        await scene.feeds.subscribe(SPOT, "a")
        assert decode_saved(scene.publisher.saved[-1]) == [SavedSubscription(SPOT, "a", accepted=False)]
        scene.exchange.failure = None
        await wait_until(lambda: not scene.feeds.down())
        assert decode_saved(scene.publisher.saved[-1]) == [SavedSubscription(SPOT, "a")]

    play(act)


@pytest.mark.parametrize(("accepted", "kept"), [(True, {"spot": ["BTCUSDT"]}), (False, {})])
def test_a_restored_subscription_is_removed_by_a_refusal_unless_it_was_accepted_before(
    accepted: bool, kept: dict[str, list[str]]
) -> None:
    async def act(scene: Scene) -> None:
        scene.exchange.on_request = scene.exchange.refuse
        scene.feeds.restore([SavedSubscription(SPOT, "a", accepted)])
        await asyncio.sleep(30)
        assert scene.feeds.subscriptions == kept

    play(act, restored=False)


def test_saved_subscriptions_round_trip_and_those_of_earlier_collectors_are_read() -> None:
    saved = [SavedSubscription(SPOT, 'ä "b"'), SavedSubscription(PERP, "b", accepted=False)]
    assert decode_saved(encode_saved(saved)) == saved
    earlier = b'{"spot":[{"symbol":"BTCUSDT","matching_key":"a"}]}'
    assert decode_saved(earlier) == [SavedSubscription(SPOT, "a")]
    for body in (b"", b'{"moon": 5}', b'{"spot": [{"symbol": ""}]}', b"\xff", b"[" * 100_000):
        with pytest.raises(InvalidMessage):
            decode_saved(body)


# --- snapshots -----------------------------------------------------------------------------------


def test_snapshots_are_requested_only_for_subscribed_instruments() -> None:
    async def act(scene: Scene) -> None:
        await scene.feeds.subscribe(SPOT, "a")
        await scene.feeds.subscribe(PERP, "a")
        await wait_until(lambda: not scene.feeds.down())
        scene.feeds.request_snapshots([SPOT, Instrument("spot", "OTHER")])
        await asyncio.sleep(1)
        assert [len(socket.subscribes) for socket in scene.exchange.sockets] == [2, 1]

    play(act)


# --- several collectors --------------------------------------------------------------------------


def share(scene: Scene, key: str, *, first: bool = True) -> FeedManager:
    """Return the subscriptions of one of several collectors, which serves the group `key` alone."""
    feeds = FeedManager(scene.publisher, scene.exchange.context(), is_ours=lambda asked: asked == key)
    if first:
        feeds.restore([])
    return feeds


def test_the_first_collector_asks_the_exchange_for_others_and_does_not_serve_them() -> None:
    async def act(scene: Scene) -> None:
        feeds = share(scene, "a")
        assert await feeds.subscribe(SPOT, "a") == (SubscriptionStatus.ACCEPTED, "")
        assert await feeds.subscribe(PERP, "b") == (SubscriptionStatus.ACCEPTED, "")
        assert feeds.matching_key == {SPOT: "a", PERP: "b"}
        assert feeds.group("b") == [PERP]
        assert scene.publisher.maps[-1] == {"spot": ["BTCUSDT"], "linear": ["BTCPERP"]}
        await wait_until(lambda: len(scene.open()) == 1)
        assert [stream.instrument for stream in feeds.streams] == [SPOT]
        await feeds.unsubscribe(PERP)
        assert scene.publisher.maps[-1] == {"spot": ["BTCUSDT"]}
        scene.exchange.on_request = scene.exchange.refuse
        assert (await feeds.subscribe(PERP, "b"))[0] is SubscriptionStatus.REFUSED
        assert feeds.matching_key == {SPOT: "a"}
        await feeds.close()

    play(act)


def test_an_instrument_goes_from_one_collector_to_another_with_its_key() -> None:
    async def act(scene: Scene) -> None:
        feeds = share(scene, "a")
        await feeds.subscribe(SPOT, "a")
        for key, served in (("b", []), ("c", []), ("a", [SPOT])):
            await feeds.subscribe(SPOT, key)
            assert decode_saved(scene.publisher.saved[-1]) == [SavedSubscription(SPOT, key)]
            assert [stream.instrument for stream in feeds.streams] == served
        await feeds.close()

    play(act)


def test_the_first_collector_restores_others_without_serving_them() -> None:
    async def act(scene: Scene) -> None:
        feeds = share(scene, "a", first=False)
        feeds.restore([SavedSubscription(SPOT, "a"), SavedSubscription(PERP, "b")])
        assert [stream.instrument for stream in feeds.streams] == [SPOT]
        assert scene.publisher.maps == [{"spot": ["BTCUSDT"], "linear": ["BTCPERP"]}]
        await feeds.close()

    play(act, restored=False)


def test_a_further_collector_serves_its_share_of_the_list_and_publishes_none() -> None:
    async def act(scene: Scene) -> None:
        feeds = share(scene, "b", first=False)
        feeds.follow([SavedSubscription(SPOT, "a"), SavedSubscription(PERP, "b")])
        assert [stream.instrument for stream in feeds.streams] == [PERP]
        await wait_until(lambda: not feeds.down())
        feeds.follow([SavedSubscription(SPOT, "b"), SavedSubscription(PERP, "b", accepted=False)])
        assert [stream.instrument for stream in feeds.streams] == [SPOT]
        assert feeds.matching_key == {SPOT: "b"}
        feeds.follow([])
        assert feeds.streams == []
        assert scene.publisher.maps == []
        await feeds.close()

    play(act, restored=False)
