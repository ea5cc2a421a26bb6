"""What goes the short way arrives as what goes pika's own way does."""

from __future__ import annotations

import asyncio
import gc
import os
import random
from typing import Any

import pika.frame
import pytest
from pika.spec import Basic, BasicProperties

from blackbird.broker.lean_connection import DeliveredProperties, LeanConnection, published_at
from blackbird.broker.session import Session, connection_parameters
from config import Config
from tests.support.broker_proxy import BrokerProxy
from tests.support.workspace import Workspace

SIZES = [0, 1, 100, 2_000, 65_000, 131_064, 131_065, 400_000, 50]


def test_messages_of_every_size_arrive_whole_and_in_order(place: Workspace) -> None:
    bodies = [os.urandom(size) for size in SIZES * 3]
    came: list[tuple[int, bytes, Any, bool]] = []

    async def run() -> None:
        session = await Session.open(
            connection_parameters(**{**Config.BROKER_CONFIG, "virtual_host": place.name})
        )
        queue = await session.declare_private_queue()
        everything = asyncio.Event()

        def take(_: Any, deliver: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
            assert deliver.routing_key == queue
            assert deliver.exchange == ""
            came.append((deliver.delivery_tag or 0, body, properties.headers, deliver.redelivered))
            if len(came) == len(bodies):
                everything.set()

        await session.consume(queue, take, auto_ack=True)
        for number, body in enumerate(bodies):
            session.publish("", queue, body, BasicProperties(headers={"number": number}))
        await asyncio.wait_for(everything.wait(), 20)
        await session.closed()

    asyncio.run(run())
    gc.collect()  # a socket that is still open is warned of here
    assert came == [(number + 1, body, {"number": number}, False) for number, body in enumerate(bodies)]


def test_a_broker_that_does_not_answer_a_close_keeps_no_socket_open(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blackbird.broker.session.CLOSE_SECONDS", 0.1)
    with BrokerProxy(place) as proxy:
        address = {"host": "127.0.0.1", "port": int(proxy.port), "virtual_host": place.name}
        where = {**Config.BROKER_CONFIG, **address}

        async def run() -> None:
            session = await Session.open(connection_parameters(**where))
            proxy.silence()
            await session.closed()

        asyncio.run(run())
        gc.collect()


def test_a_stream_cut_anywhere_gives_the_same_deliveries() -> None:
    """The connection is fed by hand, for a broker does not let us choose where the stream is cut."""

    async def run() -> None:
        came: list[tuple[int, int, bytes, object]] = []
        connection = LeanConnection(
            connection_parameters(**Config.BROKER_CONFIG), internal_connection_workflow=False
        )
        connection._set_connection_state(connection.CONNECTION_OPEN)
        channel = connection._create_channel(1, None)
        connection._channels[1] = channel
        channel._consumers["tag"] = lambda _, deliver, properties, body: came.append(
            (deliver.delivery_tag, properties.delivery_mode, body, published_at(properties))
        )
        bodies = [os.urandom(size) for size in (1, 30, 0, 300, 5)]
        stream = b"".join(
            frame.marshal()
            for number, body in enumerate(bodies)
            for frame in (
                pika.frame.Method(1, Basic.Deliver("tag", number, False, "feed", "key")),
                pika.frame.Header(
                    1, len(body), BasicProperties(delivery_mode=2, headers={"published_at": 2**40 + number})
                ),
                *([pika.frame.Body(1, body)] if body else []),
                pika.frame.Heartbeat(),
            )
        )
        expected = [(number, 2, body, 2**40 + number) for number, body in enumerate(bodies)]
        connection._heartbeat_checker = None
        for step in (1, 2, 7, 64, len(stream)):
            came.clear()
            for at in range(0, len(stream), step):
                connection._on_data_available(stream[at : at + step])
            assert came == expected, f"cut every {step} bytes"
        rng = random.Random(1)
        for _ in range(50):
            came.clear()
            at = 0
            while at < len(stream):
                step = rng.randint(1, 400)
                connection._on_data_available(stream[at : at + step])
                at += step
            assert came == expected

    asyncio.run(run())


def test_published_at_is_read_from_any_type_of_header() -> None:
    for value in (1_723_161_255_608, -1, 5, 2**40, True, "text", None):
        headers = BasicProperties(headers={"published_at": value})
        encoded = b"".join(headers.encode())
        number = None if value is True or not isinstance(value, int) else value
        assert published_at(DeliveredProperties(encoded)) == number
        headers.decode(encoded)
        assert published_at(headers) == number
    assert published_at(BasicProperties()) is None
