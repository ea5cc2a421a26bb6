"""One stream, on an exchange that answers as the test likes and a clock that only waits move."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise

import pytest

from blackbird.bybit.connection import ConnectFailed
from blackbird.bybit.stream import (
    COALESCE_SECONDS,
    LONGEST_RETRY_SECONDS,
    PROVEN_SECONDS,
    SHORTEST_RETRY_SECONDS,
    SNAPSHOT_SECONDS,
    Phase,
    Stream,
    SubscriptionStatus,
)
from blackbird.market.instrument import Instrument
from tests.support import virtual_time
from tests.support.fake_exchange import FakeExchange, FakeSocket, Request, wait_until

SPOT = Instrument("spot", "BTCUSDT")


class Scene:
    """A stream that runs, and what it said of itself."""

    def __init__(self, exchange: FakeExchange, instrument: Instrument, depth: int) -> None:
        self.exchange = exchange
        self.statuses: list[SubscriptionStatus] = []
        self.stream = Stream(
            instrument, "a", exchange.context(depth=depth), lambda stream: self.statuses.append(stream.status)
        )
        self.task = asyncio.create_task(self.stream.run())

    @property
    def socket(self) -> FakeSocket:
        return self.exchange.sockets[-1]

    async def live(self) -> None:
        await wait_until(lambda: self.stream.phase is Phase.LIVE)

    def connections(self) -> int:
        return len(self.exchange.sockets)

    async def keep_pushing(self, seconds: float) -> None:
        """Let time pass with a delta each second."""
        for u in range(2, 2 + round(seconds)):
            await asyncio.sleep(1)
            self.socket.book("delta", u)


@contextlib.asynccontextmanager
async def scene(
    exchange: FakeExchange | None = None, instrument: Instrument = SPOT, depth: int = 50
) -> AsyncIterator[Scene]:
    exchange = exchange or FakeExchange()
    made = Scene(exchange, instrument, depth)
    try:
        yield made
    finally:
        made.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await made.task


def play(act: Callable[[FakeExchange], Awaitable[None]]) -> None:
    async def work() -> None:
        await act(FakeExchange())

    virtual_time.run(work())


# --- the way to live -----------------------------------------------------------------------------


def test_it_subscribes_its_topic_on_its_channel_and_is_live_with_the_snapshot() -> None:
    async def act(exchange: FakeExchange) -> None:
        async with scene(exchange) as s:
            await wait_until(lambda: s.connections() and s.socket.sent)
            assert s.socket.url == "ws://exchange/v5/public/spot"
            assert [request["args"] for request in s.socket.sent] == [["orderbook.50.BTCUSDT"]]
            assert not s.stream.answered.is_set()
            s.socket.answer(s.socket.sent[0])
            await wait_until(s.stream.answered.is_set)
            assert s.stream.status is SubscriptionStatus.ACCEPTED
            assert not s.stream.is_up
            s.socket.book("snapshot")
            await s.live()
            assert s.stream.is_up

    play(act)


def test_option_takes_the_nearest_depth_that_it_has() -> None:
    async def act(exchange: FakeExchange) -> None:
        exchange.on_request = exchange.serve
        async with scene(exchange, Instrument("option", "BTC-X")) as s:
            await s.live()
            assert s.socket.sent[0]["args"] == ["orderbook.25.BTC-X"]

    play(act)


@pytest.mark.parametrize("order", ["answer first", "snapshot first"])
@pytest.mark.parametrize("depth", [1, 50])
def test_snapshot_and_answer_count_in_either_order_each_time(order: str, depth: int) -> None:
    async def act(exchange: FakeExchange) -> None:
        exchange.on_request = exchange.serve if order == "answer first" else exchange.serve_snapshot_first
        async with scene(exchange, depth=depth) as s:
            for _ in range(20):
                await s.live()
                await s.keep_pushing(2)
                s.stream.request_snapshot()
                await asyncio.sleep(0.01)
            await s.keep_pushing(60)
            assert s.connections() == 1
            assert len(s.socket.subscribes) == 21
            assert SubscriptionStatus.UNREACHABLE not in s.statuses

    play(act)


def test_an_answer_long_after_the_snapshot_is_harmless() -> None:
    async def act(exchange: FakeExchange) -> None:
        async with scene(exchange) as s:
            await wait_until(lambda: s.connections() and s.socket.sent)
            s.socket.book("snapshot")
            await s.live()
            assert s.stream.status is SubscriptionStatus.ACCEPTED
            s.socket.answer(s.socket.sent[0])
            await s.keep_pushing(20)
            assert s.connections() == 1
            assert s.stream.is_up

    play(act)


# --- pushes --------------------------------------------------------------------------------------


def test_a_push_is_published_as_it_was_sent_with_channel_and_key_behind_it() -> None:
    async def act(exchange: FakeExchange) -> None:
        exchange.on_request = exchange.serve
        async with scene(exchange) as s:
            await s.live()
            frame = s.socket.book("delta", 2, ts=1_799_999_999_500)
            s.stream.set_matching_key('ä "b"')
            blanks = b" " + s.socket.book("delta", 3) + b" \r\n"
            s.socket.push(blanks)
            bodies = exchange.bodies
            assert bodies[1] == frame[:-1] + b',"channel":"spot","matching_key":"a"}'
            ending = json.dumps({"channel": "spot", "matching_key": 'ä "b"'}, ensure_ascii=False)
            assert (
                bodies[3]
                == blanks.rstrip()[:-1] + b"," + ending.replace(": ", ":").replace(", ", ",").encode()[1:]
            )
            assert exchange.published[1] == (SPOT, bodies[1], 1_800_000_000_000, 1_799_999_999_500)

    play(act)


def test_the_time_of_pushes_never_goes_back() -> None:
    async def act(exchange: FakeExchange) -> None:
        exchange.on_request = exchange.serve
        async with scene(exchange) as s:
            await s.live()
            for ts in (10**13, "no number", 10**13 - 5, 10**13 + 5):
                s.socket.book("delta", 2, ts=ts)
            assert [made for *_, made in exchange.published[1:]] == [10**13, 10**13, 10**13, 10**13 + 5]

    play(act)


def test_pushes_are_forwarded_while_a_snapshot_is_awaited() -> None:
    async def act(exchange: FakeExchange) -> None:
        exchange.on_request = exchange.serve
        async with scene(exchange) as s:
            await s.live()
            exchange.on_request = lambda _socket, _request: None
            s.stream.request_snapshot()
            await wait_until(lambda: len(s.socket.subscribes) == 2)
            s.socket.book("delta", 2)
            assert len(exchange.published) == 2
            assert s.stream.is_up

    play(act)


# --- requests for a snapshot ---------------------------------------------------------------------


def test_many_requests_for_a_snapshot_are_one() -> None:
    async def act(exchange: FakeExchange) -> None:
        exchange.on_request = exchange.serve
        async with scene(exchange) as s:
            await s.live()
            for _ in range(50):
                s.stream.request_snapshot()
            await asyncio.sleep(COALESCE_SECONDS / 2)
            s.stream.request_snapshot()  # made before that snapshot arrived
            await asyncio.sleep(1)
            assert s.socket.operations == ["subscribe", "unsubscribe", "subscribe"]
            s.stream.request_snapshot()
            await asyncio.sleep(1)
            assert len(s.socket.subscribes) == 3

    play(act)


def test_a_silent_stream_is_asked_for_a_snapshot() -> None:
    async def act(exchange: FakeExchange) -> None:
        exchange.on_request = exchange.serve
        async with scene(exchange) as s:
            await s.live()
            await s.keep_pushing(20)
            assert len(s.socket.subscribes) == 1
            await asyncio.sleep(5.1)
            assert len(s.socket.subscribes) == 2
            assert s.connections() == 1

    play(act)


# --- subscriptions that bring nothing ------------------------------------------------------------


def test_a_connection_without_an_answer_is_replaced() -> None:
    async def act(exchange: FakeExchange) -> None:
        async with scene(exchange) as s:
            await wait_until(lambda: s.connections() == 1)
            await asyncio.sleep(SNAPSHOT_SECONDS - 0.1)
            assert s.connections() == 1
            await wait_until(lambda: s.connections() == 2)
            assert exchange.sockets[0].closed.done()
            assert s.stream.status is SubscriptionStatus.UNREACHABLE

    play(act)


def test_an_accepted_topic_that_sends_nothing_keeps_its_connection_and_is_asked_at_long_intervals() -> None:
    async def act(exchange: FakeExchange) -> None:
        exchange.on_request = exchange.accept_in_silence
        async with scene(exchange) as s:
            await asyncio.sleep(1200)
            assert s.connections() == 1
            assert 10 <= len(s.socket.subscribes) <= 40
            assert not s.stream.is_up
            s.socket.book("snapshot")
            await s.live()
            assert s.stream.is_up

    play(act)


def test_a_live_topic_that_falls_silent_gets_one_new_connection() -> None:
    async def act(exchange: FakeExchange) -> None:
        exchange.on_request = exchange.serve
        async with scene(exchange) as s:
            await s.live()
            exchange.on_request = exchange.accept_in_silence
            await asyncio.sleep(600)
            assert s.connections() == 2

    play(act)


def test_a_topic_that_sends_its_first_snapshot_alone_connects_once_a_minute_at_most() -> None:
    def first_only(socket: FakeSocket, request: Request) -> None:
        socket.answer(request)
        if len(socket.subscribes) == 1:
            socket.book("snapshot")

    async def act(exchange: FakeExchange) -> None:
        exchange.on_request = first_only
        async with scene(exchange) as s:
            await asyncio.sleep(600)
            assert 2 <= s.connections() <= 11

    play(act)


def test_deltas_without_a_snapshot_are_followed_by_another_subscribe() -> None:
    def deltas_at_first(socket: FakeSocket, request: Request) -> None:
        socket.answer(request)
        if request["op"] == "subscribe":
            socket.book("snapshot" if len(socket.subscribes) == 3 else "delta")

    async def act(exchange: FakeExchange) -> None:
        exchange.on_request = deltas_at_first
        async with scene(exchange) as s:
            await asyncio.sleep(2 * SNAPSHOT_SECONDS + 1)
            assert s.stream.phase is Phase.LIVE
            assert s.connections() == 1

    play(act)


# --- refusals ------------------------------------------------------------------------------------


def test_a_refusal_is_reported_and_retried_on_the_same_connection() -> None:
    async def act(exchange: FakeExchange) -> None:
        exchange.on_request = exchange.refuse
        async with scene(exchange) as s:
            await wait_until(s.stream.answered.is_set)
            assert s.statuses == [SubscriptionStatus.REFUSED]
            assert "orderbook.50.BTCUSDT" in s.stream.reason
            await asyncio.sleep(60)
            assert 5 <= len(s.socket.subscribes) <= 20
            exchange.on_request = exchange.serve
            await s.live()
            assert s.statuses[-1] is SubscriptionStatus.ACCEPTED
            assert s.connections() == 1

    play(act)


def test_a_duplicate_refusal_after_an_unsubscribe_costs_no_connection() -> None:
    def slow_to_unsubscribe(socket: FakeSocket, request: Request) -> None:
        duplicate = len(socket.subscribes) in {2, 3} and request["op"] == "subscribe"
        socket.answer(request, f"error:already subscribed,topic:{request['args'][0]}" if duplicate else None)
        if request["op"] == "subscribe" and not duplicate:
            socket.book("snapshot")

    async def act(exchange: FakeExchange) -> None:
        exchange.on_request = slow_to_unsubscribe
        async with scene(exchange) as s:
            await s.live()
            s.stream.request_snapshot()
            await wait_until(lambda: len(s.socket.subscribes) == 2)
            assert s.stream.is_up
            await wait_until(lambda: len(s.socket.subscribes) == 4)
            await s.live()
            assert s.connections() == 1
            assert set(s.statuses) == {SubscriptionStatus.ACCEPTED}

    play(act)


def test_a_live_topic_that_is_refused_is_down_until_it_is_accepted_again() -> None:
    async def act(exchange: FakeExchange) -> None:
        exchange.on_request = exchange.serve
        async with scene(exchange) as s:
            await s.live()
            exchange.on_request = exchange.refuse
            s.stream.request_snapshot()
            await wait_until(lambda: s.stream.status is SubscriptionStatus.REFUSED)
            assert not s.stream.is_up
            exchange.on_request = exchange.serve
            await s.live()
            assert s.connections() == 1

    play(act)


def test_answers_of_option_name_no_request_and_list_what_failed() -> None:
    def answer(topics: str, socket: FakeSocket, request: Request) -> None:
        said: dict[str, list[str]] = {"successTopics": [], "failTopics": []}
        said[topics] = request["args"]
        socket.push(
            json.dumps({"success": True, "conn_id": "c", "data": said, "type": "COMMAND_RESP"}).encode()
        )

    async def act(exchange: FakeExchange) -> None:
        exchange.on_request = lambda socket, request: answer("failTopics", socket, request)
        async with scene(exchange, Instrument("option", "X")) as s:
            await wait_until(lambda: s.statuses == [SubscriptionStatus.REFUSED])
            exchange.on_request = lambda socket, request: answer("successTopics", socket, request)
            await wait_until(lambda: s.statuses[-1] is SubscriptionStatus.ACCEPTED)

    play(act)


def test_answers_to_unknown_requests_are_ignored() -> None:
    async def act(exchange: FakeExchange) -> None:
        async with scene(exchange) as s:
            await wait_until(lambda: s.connections() and s.socket.sent)
            s.socket.push(b'{"success":false,"ret_msg":"not ours","op":"subscribe","req_id":"other"}')
            s.socket.push(b'{"success":true,"ret_msg":"pong","conn_id":"c","op":"ping"}')
            s.socket.push(b'{"op":"pong","args":["1"]}')
            await asyncio.sleep(1)
            assert not s.stream.answered.is_set()
            s.socket.answer(s.socket.sent[0])
            await wait_until(s.stream.answered.is_set)
            assert s.statuses == [SubscriptionStatus.ACCEPTED]

    play(act)


# --- outages -------------------------------------------------------------------------------------


def test_failed_attempts_back_off_to_ten_seconds() -> None:
    async def act(exchange: FakeExchange) -> None:
        exchange.failure = ConnectFailed("refused", reached=False)
        async with scene(exchange) as s:
            await asyncio.sleep(120)
            assert s.stream.status is SubscriptionStatus.UNREACHABLE
            waits = [later - earlier for earlier, later in pairwise(exchange.attempts)]
            assert waits[0] <= SHORTEST_RETRY_SECONDS + 0.1
            assert LONGEST_RETRY_SECONDS / 2 <= waits[-1] <= LONGEST_RETRY_SECONDS + 0.1
            exchange.failure = None
            exchange.on_request = exchange.serve
            await s.live()

    play(act)


def test_a_connection_that_worked_for_a_while_is_replaced_at_once_when_it_breaks() -> None:
    async def act(exchange: FakeExchange) -> None:
        exchange.failure = ConnectFailed("refused", reached=False)
        async with scene(exchange) as s:
            await asyncio.sleep(60)
            exchange.failure = None
            exchange.on_request = exchange.serve
            await s.live()
            await s.keep_pushing(PROVEN_SECONDS + 1)
            s.socket.lose()
            await asyncio.sleep(0.2)
            assert s.stream.phase is Phase.LIVE
            assert s.connections() == 2

    play(act)


def test_connections_that_break_soon_back_off_too() -> None:
    async def act(exchange: FakeExchange) -> None:
        exchange.on_request = exchange.serve
        async with scene(exchange) as s:
            for _ in range(12):
                await s.live()
                s.socket.lose()
                await wait_until(lambda: s.stream.phase is Phase.WAITING)
            waits = [later - earlier for earlier, later in pairwise(exchange.attempts)]
            assert waits[-1] >= LONGEST_RETRY_SECONDS / 2

    play(act)


def test_cancelling_closes_the_connection_with_a_close_frame() -> None:
    async def act(exchange: FakeExchange) -> None:
        exchange.on_request = exchange.serve
        async with scene(exchange) as s:
            await s.live()
        assert exchange.sockets[0].closed_gracefully
        assert exchange.sockets[0].closed.done()

    play(act)


# --- counters ------------------------------------------------------------------------------------


def test_pushes_reconnects_and_resyncs_are_counted() -> None:
    async def act(exchange: FakeExchange) -> None:
        exchange.on_request = exchange.serve
        async with scene(exchange) as s:
            assert s.stream.topic.silence_seconds is None
            await s.live()
            counts = (s.stream.topic.pushes, s.stream.reconnects, s.stream.resyncs)
            assert counts == (1, 0, 0)
            await asyncio.sleep(1)
            assert s.stream.topic.silence_seconds == pytest.approx(1, abs=0.2)
            s.stream.request_snapshot()
            await asyncio.sleep(0.1)
            assert (s.stream.topic.pushes, s.stream.reconnects, s.stream.resyncs) == (2, 0, 1)
            s.socket.lose()
            await wait_until(lambda: s.stream.phase is Phase.WAITING)
            await s.live()
            assert (s.stream.reconnects, s.stream.resyncs) == (1, 1)

    play(act)
