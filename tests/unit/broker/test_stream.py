"""The stream between asyncio and pika: what is handed to consumers, what to pika, and what is sent."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable, Iterator
from typing import Any, cast

import pika.frame
import pytest
from pika.adapters.utils import nbio_interface as nbio
from pika.channel import Channel
from pika.spec import Basic, BasicProperties, Connection

from blackbird.broker.frames import HEARTBEAT_FRAME, NotAMQP
from blackbird.broker.properties import published_at
from blackbird.broker.stream import Stream

CLOSE = pika.frame.Method(0, Connection.Close(320, "shutdown", 0, 0)).marshal()


class PikaSide(nbio.AbstractStreamProtocol):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.lost: list[BaseException | None] = []
        self.eof = 0
        self.made = 0
        self.failing: Exception | None = None

    def connection_made(self, transport: nbio.AbstractStreamTransport) -> None:
        self.transport = transport
        self.made += 1

    def connection_lost(self, error: BaseException | None) -> None:
        self.lost.append(error)

    def eof_received(self) -> bool | None:
        self.eof += 1
        return False

    def data_received(self, data: bytes) -> None:
        if self.failing is not None:
            raise self.failing
        self.received.append(data)


class Transport(asyncio.Transport):
    """A socket that takes everything, and ends when told."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted

    def get_write_buffer_size(self) -> int:
        return 7


class FakeChannel:
    """As much of a channel as the stream knows."""

    def __init__(self, number: int) -> None:
        self.channel_number = number


class Scene:
    """A linked stream with one consumer, `tag` on channel 1; `events` are what it was handed, in order."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.pika = PikaSide()
        self.linked = 0
        self.stream = Stream(self.pika, self._on_linked)
        self.transport = Transport()
        self.stream.connection_made(self.transport)
        self.channel = cast("Channel", FakeChannel(1))
        self.stream.register(self.channel, "tag", self.take)

    def _on_linked(self) -> None:
        self.linked += 1

    def take(
        self, channel: Channel, deliver: Basic.Deliver, properties: BasicProperties, body: bytes
    ) -> None:
        assert channel is self.channel
        self.events.append((deliver.delivery_tag, properties.delivery_mode, body, published_at(properties)))
        assert (deliver.consumer_tag, deliver.exchange, deliver.routing_key) == ("tag", "feed", "key")

    def feed_in_pieces(self, data: bytes, sizes: Iterator[int]) -> None:
        at = 0
        while at < len(data):
            size = next(sizes)
            self.stream.feed(data[at : at + size])
            at += size


def run(scenario: Callable[[], Any]) -> None:
    """Run a scenario on an event loop, and one more turn for what it has begun."""

    async def main() -> None:
        scenario()
        await asyncio.sleep(0)

    asyncio.run(main())


def delivery(number: int, body: bytes, tag: str = "tag", channel: int = 1, piece: int = 131_064) -> bytes:
    """Return a delivery as pika would write it."""
    deliver = Basic.Deliver(tag, number, number % 2 == 1, "feed", "key")
    properties = BasicProperties(delivery_mode=2, headers={"published_at": 2**40 + number})
    frames: list[Any] = [
        pika.frame.Method(channel, deliver),
        pika.frame.Header(channel, len(body), properties),
        *(pika.frame.Body(channel, body[at : at + piece]) for at in range(0, len(body), piece)),
    ]
    return b"".join(frame.marshal() for frame in frames)


def test_a_stream_cut_anywhere_gives_the_same_deliveries_and_the_same_frames_to_pika() -> None:
    bodies = [os.urandom(size) for size in (1, 30, 0, 300, 5)]
    other = delivery(9, b"other consumer", tag="other")
    large = delivery(10, b"in several frames", piece=4)
    data = b"".join(delivery(number, body) + HEARTBEAT_FRAME for number, body in enumerate(bodies))
    data += other + delivery(5, b"x") + large + CLOSE
    expected = [(number, 2, body, 2**40 + number) for number, body in enumerate([*bodies, b"x"])]
    for_pika = HEARTBEAT_FRAME * 5 + other + large + CLOSE
    rng = random.Random(1)

    def scenario(sizes: Iterator[int]) -> None:
        scene = Scene()
        scene.feed_in_pieces(data, sizes)
        assert scene.events == expected
        # A heartbeat more tells pika that the broker lives.
        assert b"".join(scene.pika.received).replace(HEARTBEAT_FRAME, b"") == for_pika.replace(
            HEARTBEAT_FRAME, b""
        )
        assert scene.pika.received.count(HEARTBEAT_FRAME) in {5, 6}

    for step in (*range(1, 70), len(data)):
        run(lambda step=step: scenario(iter(lambda: step, None)))  # type: ignore[misc]
    for _ in range(100):
        run(lambda: scenario(iter(lambda: rng.randint(1, 400), None)))


def test_deliveries_and_frames_of_pika_keep_their_order() -> None:
    def scenario() -> None:
        scene = Scene()
        scene.pika.received = scene.events
        scene.stream.feed(CLOSE + delivery(1, b"a") + CLOSE + delivery(2, b"b") + CLOSE)
        kinds = [event if isinstance(event, bytes) else event[0] for event in scene.events]
        assert kinds[:5] == [CLOSE, 1, CLOSE, 2, CLOSE]

    run(scenario)


def test_a_consumer_of_the_same_tag_on_another_channel_is_another_one() -> None:
    def scenario() -> None:
        scene = Scene()
        other = delivery(1, b"", channel=2)
        scene.stream.feed(other)
        assert scene.events == []
        assert b"".join(scene.pika.received[:2]) == other

    run(scenario)


def test_after_a_cancel_or_a_close_deliveries_are_left_to_pika() -> None:
    def scenario(leave: Callable[[Scene], None]) -> None:
        scene = Scene()
        leave(scene)
        scene.stream.feed(delivery(1, b"x"))
        assert scene.events == []
        assert b"".join(scene.pika.received) == delivery(1, b"x")

    run(lambda: scenario(lambda scene: scene.stream.unregister(scene.channel, "tag")))
    run(lambda: scenario(lambda scene: scene.stream.unregister_all()))


def test_nothing_is_handed_over_once_a_handler_has_aborted_the_connection() -> None:
    def scenario() -> None:
        scene = Scene()
        scene.stream.register(scene.channel, "tag", lambda *_: scene.stream.abort())
        scene.stream.feed(delivery(1, b"x") + delivery(2, b"y") + CLOSE)
        assert scene.pika.received == []
        assert scene.transport.aborted

    run(scenario)


def test_a_header_that_pika_cannot_decode_reaches_it_without_its_headers() -> None:
    class Undecodable(BasicProperties):
        def encode(self) -> list[bytes]:
            return [b"\xa0\0", b"\x01t", b"\0\0\0\x0b", b"\x01wT" + b"\x7f" + b"\xff" * 7]

    def scenario() -> None:
        scene = Scene()
        scene.stream.feed(pika.frame.Header(3, 5, Undecodable()).marshal())
        _, frame = pika.frame.decode_frame(scene.pika.received[0])
        assert isinstance(frame, pika.frame.Header)
        assert (frame.channel_number, frame.body_size) == (3, 5)
        assert (frame.properties.content_type, frame.properties.headers) == ("t", None)

    run(scenario)


@pytest.mark.parametrize("data", [b"HTTP/1.1 400 Bad Request\r\n", delivery(1, b"x")[:-1] + b"\0"])
def test_a_peer_that_does_not_speak_amqp_ends_the_connection_with_that_reason(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    def scenario() -> None:
        scene = Scene()
        receive(scene.stream, data)
        assert isinstance(scene.stream.error, NotAMQP)
        assert scene.transport.aborted
        scene.stream.connection_lost(None)
        assert scene.pika.lost == [scene.stream.error]

    run(scenario)
    assert caplog.records == []


def test_a_broker_of_another_protocol_version_is_left_to_pika() -> None:
    def scenario() -> None:
        scene = Scene()
        scene.stream.feed(b"AMQP\0")
        scene.stream.feed(b"\0\1\0")
        assert b"AMQP\0\0\1\0" in scene.pika.received

    run(scenario)


def test_an_error_in_a_callback_of_pika_is_logged_with_its_traceback_and_ends_the_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    error = KeyError("in a callback")

    def scenario() -> None:
        scene = Scene()
        scene.pika.failing = error
        receive(scene.stream, CLOSE)
        assert scene.transport.aborted
        assert scene.stream.error is error

    run(scenario)
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [error]
    assert caplog.records[0].levelno == logging.ERROR


def receive(stream: Stream, data: bytes) -> None:
    """Give the stream bytes as asyncio does."""
    stream.get_buffer(len(data))[: len(data)] = data
    stream.buffer_updated(len(data))


def test_what_is_written_in_one_turn_is_sent_in_one_write() -> None:
    async def main() -> None:
        scene = Scene()
        scene.stream.write(b"a")
        scene.stream.write(b"b")
        assert scene.transport.writes == []
        assert scene.stream.get_write_buffer_size() == 7 + 2
        await asyncio.sleep(0)
        assert scene.transport.writes == [b"ab"]
        scene.stream.write(b"c")
        scene.stream.abort()
        await asyncio.sleep(0)
        assert scene.transport.writes == [b"ab", b"c"]

    asyncio.run(main())


@pytest.mark.parametrize("size", [0, 1, 4088, 4089, 10_000])
def test_a_published_message_is_what_pika_would_write(size: int) -> None:
    body = os.urandom(size)
    properties = BasicProperties(delivery_mode=2, headers={"CC": ["signal"]})
    largest = 4096 - 8
    frames = [
        pika.frame.Method(1, Basic.Publish(exchange="feed", routing_key="key")),
        pika.frame.Header(1, size, properties),
        *(pika.frame.Body(1, body[at : at + largest]) for at in range(0, size, largest)),
    ]

    async def main() -> None:
        scene = Scene()
        scene.stream.publish(scene.channel, "feed", "key", body, properties)
        await asyncio.sleep(0)
        assert scene.transport.writes == [b"".join(frame.marshal() for frame in frames)]

    asyncio.run(main())


def test_the_end_of_the_connection_is_told_to_pika_once_with_its_reason() -> None:
    def scenario() -> None:
        scene = Scene()
        assert (scene.pika.made, scene.linked) == (1, 1)
        scene.stream.eof_received()
        assert (scene.pika.eof, scene.transport.aborted) == (1, True)
        reset = ConnectionResetError("reset")
        scene.stream.connection_lost(reset)
        assert scene.pika.lost == [reset]

    run(scenario)


def test_a_stream_that_was_given_up_is_never_linked() -> None:
    async def main() -> None:
        pika_side, transport = PikaSide(), Transport()
        stream = Stream(pika_side, lambda: pytest.fail("linked"))
        stream.give_up()
        stream.connection_made(transport)
        stream.connection_lost(None)
        assert transport.aborted
        assert (pika_side.made, pika_side.lost) == (0, [])

    asyncio.run(main())
