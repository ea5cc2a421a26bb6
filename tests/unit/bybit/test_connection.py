"""A connection to a server that sends what the test wants, with and without TLS."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import pytest

from blackbird.bybit.connection import LARGEST_MESSAGE, ConnectFailed, Connection, Connector
from blackbird.bybit.protocol import PING, InvalidFrame
from tests.support.certificates import Certificate, make_certificate
from tests.support.raw_server import Client, RawServer, frame

TEXT, BINARY, CLOSE, PING_FRAME, PONG_FRAME = 1, 2, 8, 9, 10


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def server() -> Iterator[RawServer]:
    with RawServer() as made:
        yield made


def play(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


class Taken:
    """The text messages that came."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self._changed = asyncio.Event()

    def __call__(self, message: bytes, received_ms: int) -> None:
        assert received_ms > 1_700_000_000_000
        self.messages.append(message)
        self._changed.set()

    async def wait(self, count: int) -> None:
        while len(self.messages) < count:
            self._changed.clear()
            await self._changed.wait()


@contextlib.asynccontextmanager
async def connected(
    server: RawServer, taken: Callable[[bytes, int], None], connector: Connector | None = None
) -> Any:
    connection = await (connector or Connector()).connect(f"{server.url}/v5/public/spot", taken)
    client = await asyncio.to_thread(server.client)
    try:
        yield connection, client
    finally:
        connection.abort()
        await connection.closed


def with_client(server: RawServer, act: Callable[[Connection, Client, Taken], Awaitable[None]]) -> None:
    async def work() -> None:
        taken = Taken()
        async with connected(server, taken) as (connection, client):
            await act(connection, client, taken)

    play(work())


# --- messages ------------------------------------------------------------------------------------


def test_messages_come_whole_however_the_bytes_are_cut(server: RawServer) -> None:
    async def act(_: Connection, client: Client, taken: Taken) -> None:
        expected = [b"x" * size for size in (0, 1, 125, 126, 127, 65535, 65536, 70000)]
        stream = b"".join(frame(TEXT, message) for message in expected)
        for start, end in ((0, 1), (1, 2), (2, 3), (3, 130), (130, 66_000), (66_000, 66_001), (66_001, None)):
            client.send(stream[start:end])
            await asyncio.sleep(0)
        await taken.wait(len(expected))
        assert taken.messages == expected

    with_client(server, act)


def test_fragments_are_put_together_with_a_ping_between_them(server: RawServer) -> None:
    async def act(_: Connection, client: Client, taken: Taken) -> None:
        client.send(
            frame(TEXT, b"ab", final=False)
            + frame(PING_FRAME, b"between")
            + frame(0, b"cd", final=False)
            + frame(0, b"ef")
            + frame(TEXT, b"next")
        )
        await taken.wait(2)
        assert taken.messages == [b"abcdef", b"next"]
        while (PONG_FRAME, b"between") not in client.received:
            await asyncio.sleep(0.001)

    with_client(server, act)


@pytest.mark.parametrize(
    "stream",
    [
        b"\x81\x85abcd12345",
        b"\xc1\x01x",
        b"\xa1\x01x",
        b"\x83\x01x",
        frame(0, b"continues nothing"),
        frame(TEXT, b"a", final=False) + frame(TEXT, b"b"),
        b"\x81\x7f" + (LARGEST_MESSAGE + 1).to_bytes(8, "big"),
        b"\x81\x7f\xff" + bytes(7),
        frame(TEXT, bytes(LARGEST_MESSAGE), final=False) + frame(0, b"x"),
        frame(BINARY, b"binary"),
        frame(BINARY, b"bin", final=False) + frame(0, b"ary"),
    ],
    ids=[
        "mask",
        "extension",
        "second extension",
        "opcode",
        "continuation",
        "interleaved",
        "long",
        "longest",
        "long in fragments",
        "binary",
        "binary in fragments",
    ],
)
def test_a_protocol_violation_closes_the_connection_with_the_reason(server: RawServer, stream: bytes) -> None:
    async def act(connection: Connection, client: Client, taken: Taken) -> None:
        client.send(stream)
        assert await connection.closed
        assert taken.messages == []
        await asyncio.to_thread(client.ended.wait, 10)

    with_client(server, act)


def test_nothing_follows_a_message_that_the_handler_rejects(server: RawServer) -> None:
    async def work() -> None:
        taken: list[bytes] = []

        def take(message: bytes, _: int) -> None:
            taken.append(message)
            if message == b"bad":
                raise InvalidFrame("no order book")

        async with connected(server, take) as (connection, client):
            client.send(frame(TEXT, b"good") + frame(TEXT, b"bad") + frame(TEXT, b"late"))
            reason = await connection.closed
        assert taken == [b"good", b"bad"]
        assert "bad" in reason
        assert "no order book" in reason

    play(work())


def test_an_exception_of_the_handler_is_logged_with_its_traceback_and_closes_the_connection(
    server: RawServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        def take(message: bytes, _: int) -> None:
            raise KeyError(message)

        async with connected(server, take) as (connection, client):
            client.send(frame(TEXT, b"one") + frame(TEXT, b"two"))
            await connection.closed
        assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [KeyError]

    play(work())


# --- the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "reason"),
    [(b"", "closed by the exchange"), (b"\x03\xe9bye", "closed by the exchange with code 1001")],
)
def test_a_close_frame_is_answered_and_its_code_reported(
    server: RawServer, payload: bytes, reason: str
) -> None:
    async def act(connection: Connection, client: Client, _: Taken) -> None:
        client.send(frame(CLOSE, payload))
        assert await connection.closed == reason
        await asyncio.to_thread(client.ended.wait, 10)
        assert [opcode for opcode, _ in client.received] == [CLOSE]

    with_client(server, act)


def test_an_end_without_a_close_frame_is_reported(server: RawServer) -> None:
    async def act(connection: Connection, client: Client, _: Taken) -> None:
        client.close()
        assert await connection.closed == "closed by the exchange"

    with_client(server, act)


def test_closing_sends_a_close_frame_and_does_not_wait_long_for_the_answer(server: RawServer) -> None:
    async def act(connection: Connection, client: Client, _: Taken) -> None:
        await connection.close()
        assert connection.closed.done()
        await asyncio.to_thread(client.ended.wait, 10)
        assert [opcode for opcode, _ in client.received] == [CLOSE]

    with_client(server, act)


def test_pings_are_sent_until_it_ends(server: RawServer) -> None:
    async def work() -> None:
        connector = Connector(ping_seconds=0.01)
        async with connected(server, Taken(), connector) as (connection, client):
            while len(client.received) < 3:
                await asyncio.sleep(0.001)
            assert set(client.received) == {(TEXT, PING.encode())}
            assert not connection.closed.done()

    play(work())


# --- attempts that fail --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\n\r\nno such path",
        b"HTTP/1.1 301 Moved\r\nLocation: ws://127.0.0.1:1/\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 999 \xff\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nno colon\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"\x00\xff" * 20_000,
        b"\r\n\r\n",
        b"HTTP/1.1 101",
        b"",
    ],
    ids=lambda answer: repr(answer[:24]),
)
def test_an_answer_other_than_a_handshake_is_a_failed_attempt_that_reached_the_exchange(
    answer: bytes,
) -> None:
    async def work() -> None:
        with RawServer(answer=answer) as server, pytest.raises(ConnectFailed) as error:
            await Connector().connect(server.url, Taken())
        assert error.value.reached
        assert str(error.value)

    play(work())


def test_a_refused_connection_has_not_reached_the_exchange() -> None:
    async def work() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
        with pytest.raises(ConnectFailed) as error:
            await Connector().connect(f"ws://127.0.0.1:{port}", Taken())
        assert not error.value.reached

    play(work())


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 64, "a..b"])
def test_a_host_that_is_not_found_has_not_reached_the_exchange(host: str) -> None:
    async def work() -> None:
        with pytest.raises(ConnectFailed) as error:
            await Connector().connect(f"ws://{host}:1", Taken())
        assert not error.value.reached

    play(work())


def test_a_cancelled_attempt_leaves_no_connection() -> None:
    async def work() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            url = f"ws://127.0.0.1:{listening.getsockname()[1]}"
            attempt = asyncio.create_task(Connector().connect(url, Taken()))
            accepted, _ = await asyncio.to_thread(listening.accept)
            with accepted:
                await asyncio.to_thread(accepted.recv, 1000)
                attempt.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await attempt
                accepted.settimeout(3)  # less than the library's own limit
                assert await asyncio.to_thread(accepted.recv, 1000) == b""

    play(work())


# --- TLS -----------------------------------------------------------------------------------------


def test_a_server_that_is_not_trusted_is_a_failed_attempt(certificate: Certificate) -> None:
    async def work() -> None:
        with RawServer(certificate.server) as server, pytest.raises(ConnectFailed) as error:
            await Connector(ssl.create_default_context()).connect(server.url, Taken())
        assert "certificate" in str(error.value).lower()

    play(work())


class CountingSelector(selectors.DefaultSelector):
    """Counts the turns of its event loop in which something was to be read."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(timeout)
        self.turns += bool(found)
        return found


@pytest.mark.parametrize("secure", [False, True])
def test_a_burst_is_read_in_a_few_turns_of_the_loop_with_tls_too(
    certificate: Certificate, secure: bool
) -> None:
    """Each push is a record of its own: one record a turn would be a thousand turns."""
    pushes = [b"%0300d" % number for number in range(1000)]
    selector = CountingSelector()

    async def work(server: RawServer) -> None:
        taken = Taken()
        connector = Connector(ssl.create_default_context(cafile=certificate.file)) if secure else Connector()
        async with connected(server, taken, connector) as (_, client):
            # The loop stands still meanwhile: all are there when it looks.
            client.send(*(frame(TEXT, push) for push in pushes))
            before = selector.turns
            await taken.wait(len(pushes))
            assert taken.messages == pushes
            assert selector.turns - before <= 20

    with (
        RawServer(certificate.server if secure else None) as server,
        asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner,
    ):
        runner.run(asyncio.wait_for(work(server), 20))
