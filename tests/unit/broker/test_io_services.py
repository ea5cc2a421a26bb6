"""asyncio's answers to what pika asks of an event loop."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from blackbird.broker.io_services import IOServices
from blackbird.broker.stream import Stream
from tests.unit.broker.test_stream import PikaSide


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    for each in (ours, theirs):
        each.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()
    gc.collect()


def test_a_socket_becomes_a_stream_that_is_linked_with_pika(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    async def run() -> None:
        services, pika_side = IOServices(), PikaSide()
        linked: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        services.create_streaming_connection(lambda: pika_side, pair[0], linked.set_result)
        stream, protocol = await linked
        assert isinstance(stream, Stream)
        assert stream is services.stream
        assert protocol is pika_side
        assert pika_side.made == 1
        stream.write(b"to the broker")
        assert await asyncio.get_running_loop().sock_recv(pair[1], 100) == b"to the broker"
        stream.abort()
        await asyncio.sleep(0)
        assert pika_side.lost == [None]

    asyncio.run(run())


@pytest.mark.parametrize("turns", range(6))
def test_a_linking_that_is_cancelled_at_any_moment_leaves_no_socket_and_tells_nobody(
    pair: tuple[socket.socket, socket.socket], turns: int
) -> None:
    async def run() -> None:
        services, pika_side = IOServices(), PikaSide()
        told: list[Any] = []
        linking = services.create_streaming_connection(lambda: pika_side, pair[0], told.append)
        for _ in range(turns):
            await asyncio.sleep(0)
        if told:  # linked already: then it is the stream that is ended
            assert isinstance(services.stream, Stream)
            services.stream.abort()
            told.clear()
        else:
            linking.cancel()
        async with asyncio.timeout(5):
            while pair[0].fileno() != -1:
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert told == []
        assert len(pika_side.lost) == pika_side.made

    asyncio.run(run())


def test_a_handshake_that_fails_is_reported_with_its_error(pair: tuple[socket.socket, socket.socket]) -> None:
    async def run() -> None:
        services, pika_side = IOServices(), PikaSide()
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        pair[1].send(b"AMQP\0\0\x09\1")
        services.create_streaming_connection(
            lambda: pika_side, pair[0], done.set_result, ssl.create_default_context(), "localhost"
        )
        assert isinstance(await done, ssl.SSLError)
        assert pika_side.made == 0

    asyncio.run(run())


def test_results_errors_and_cancelled_work_of_the_event_loop() -> None:
    async def run() -> None:
        services = IOServices()
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Any] = loop.create_future()
        services.getaddrinfo("127.0.0.1", 5672, found.set_result)
        assert (await found)[0][4] == ("127.0.0.1", 5672)
        with socket.socket() as sock:
            sock.setblocking(False)
            refused: asyncio.Future[Any] = loop.create_future()
            services.connect_socket(sock, ("127.0.0.1", 1), refused.set_result)
            assert isinstance(await refused, ConnectionRefusedError)
        called: list[str] = []
        services.call_later(0, lambda: called.append("cancelled")).cancel()
        services.add_callback_threadsafe(lambda: called.append("called"))
        services.getaddrinfo("127.0.0.1", 5672, lambda _: called.append("cancelled")).cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert called == ["called"]
        assert services.get_native_ioloop() is loop
        services.stop()
        assert loop.is_running()

    asyncio.run(run())
