"""The account's WebSocket: authentication, subscriptions, and the rows that are pushed.

https://bybit-exchange.github.io/docs/v5/ws/connect. Nothing is pushed at the start of a subscription, and
nothing that was missed is pushed later: what happened in between has to be asked for.

Not pybit's WebSocket, though orders and look-ups go through pybit: it tries ten times within a tenth of a
second to connect again and is silent for ever after, an error in a callback ends its thread without a word,
and it subscribes before it is authenticated.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from blackbird.bybit.connection import ConnectFailed, ConnectionClosed, OnFrame
from blackbird.bybit.protocol import InvalidFrame
from blackbird.bybit.rest import Credentials
from blackbird.runtime.backoff import Backoff

logger = logging.getLogger(__name__)

TOPICS = ("order", "execution", "position", "wallet")
ANSWER_SECONDS = 5.0
PING_SECONDS = 5.0
# Pings are answered: a connection on which nothing comes for longer is dead.
SILENCE_SECONDS = 12.0
AUTH_MS = 10_000
SHORTEST_RETRY_SECONDS = 0.1
LONGEST_RETRY_SECONDS = 5.0

Row = dict[str, Any]
# Topic, the rows of one message, and the exchange's milliseconds of it.
OnRows = Callable[[str, list[Row], int], None]


class Socket(Protocol):
    """A connection as the stream uses it; see blackbird.bybit.connection.Connection."""

    closed: asyncio.Future[str]

    def send(self, text: str) -> None:
        """Send a text message."""

    async def close(self) -> None:
        """Close with a close frame."""

    def abort(self) -> None:
        """Close at once."""


Connect = Callable[[str, OnFrame], Awaitable[Socket]]


class _Frame(msgspec.Struct, frozen=True, gc=False):
    """A frame: a push has a topic, an answer an op."""

    topic: str = ""
    op: str = ""
    success: bool | None = None
    ret_msg: str = ""
    creationTime: int = 0  # noqa: N815 - the exchange's name
    data: list[Row] = []


_decode = msgspec.json.Decoder(_Frame).decode


class PrivateStream:
    """Keeps the account's stream up, and hands out what is pushed on it.

    `now` returns this machine's milliseconds since 1970, `clock_offset` by how many the exchange is ahead.
    `on_rows` is called for each message, `on_connected` when all topics are subscribed.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        connect: Connect,
        on_rows: OnRows,
        *,
        now: Callable[[], int],
        clock_offset: Callable[[], int] = lambda: 0,
        on_connected: Callable[[], None] = lambda: None,
    ) -> None:
        self.connected = asyncio.Event()
        self._url = url
        self._credentials = credentials
        self._connect = connect
        self._on_rows = on_rows
        self._now = now
        self._clock_offset = clock_offset
        self._on_connected = on_connected
        self._loop = asyncio.get_running_loop()
        self._up_since = 0
        self._down_since = now()
        self._heard = 0.0
        self._answers: dict[str, asyncio.Future[_Frame]] = {}
        self._wanted = asyncio.Event()  # set when the connection is to be replaced
        self._in_outage = False

    @property
    def is_connected(self) -> bool:
        """Return whether all topics are subscribed."""
        return self.connected.is_set()

    @property
    def down_ms(self) -> int:
        """Return for how many milliseconds the stream has been down, 0 where it is up."""
        return 0 if self.is_connected else max(self._now() - self._down_since, 1)

    def was_down_since(self, ms: int) -> bool:
        """Return whether a push may have been missed since this machine's time `ms`."""
        return not self.is_connected or self._up_since > ms

    def replace(self, reason: str) -> None:
        """Connect anew: what should have been pushed was not."""
        if self.is_connected:
            logger.warning("private stream: %s; connecting again", reason)
            self._wanted.set()

    async def run(self) -> None:
        """Serve the subscriptions until cancelled."""
        backoff = Backoff(SHORTEST_RETRY_SECONDS, LONGEST_RETRY_SECONDS, jitter=0.5)
        while True:
            try:
                await self._serve(backoff)
            except (ConnectFailed, ConnectionClosed) as error:
                self._log_failure(str(error))
            await asyncio.sleep(backoff.next())

    async def _serve(self, backoff: Backoff) -> None:
        """Connect, subscribe, and wait for the end of it; raises ConnectFailed, ConnectionClosed."""
        socket = await self._connect(self._url, self._on_frame)
        try:
            await self._log_in(socket)
            self._set_up()
            backoff.reset()
            await self._until_silent(socket)
        except asyncio.CancelledError:
            await socket.close()
            raise
        finally:
            self._set_down()
            socket.abort()

    async def _log_in(self, socket: Socket) -> None:
        expires = self._now() + self._clock_offset() + AUTH_MS
        signature = hmac.new(
            self._credentials.api_secret.encode(), f"GET/realtime{expires}".encode(), hashlib.sha256
        ).hexdigest()
        await self._ask(socket, "auth", [self._credentials.api_key, expires, signature])
        await self._ask(socket, "subscribe", list(TOPICS))

    async def _ask(self, socket: Socket, op: str, args: list[Any]) -> None:
        """Send a request and wait for its answer; raises ConnectionClosed where it is not a good one."""
        answer = self._answers[op] = self._loop.create_future()
        socket.send(json.dumps({"op": op, "args": args}))
        await asyncio.wait(
            (answer, socket.closed), timeout=ANSWER_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        if socket.closed.done():
            raise ConnectionClosed(socket.closed.result())
        if not answer.done():
            raise ConnectionClosed(f"no answer to {op} within {ANSWER_SECONDS:.0f} s")
        frame = answer.result()
        if frame.success is not True:
            raise ConnectionClosed(f"{op} refused: {self._credentials.masked(frame.ret_msg)}")

    async def _until_silent(self, socket: Socket) -> None:
        while (left := self._heard + SILENCE_SECONDS - self._loop.time()) > 0:
            wanted = self._loop.create_task(self._wanted.wait())
            try:
                await asyncio.wait((socket.closed, wanted), timeout=left, return_when=asyncio.FIRST_COMPLETED)
            finally:
                wanted.cancel()
            if socket.closed.done():
                raise ConnectionClosed(socket.closed.result())
            if self._wanted.is_set():
                return
        raise ConnectionClosed(f"silent for {SILENCE_SECONDS:.0f} s")

    def _on_frame(self, message: bytes, _received_ms: int) -> None:
        """Take a frame; raises InvalidFrame."""
        self._heard = self._loop.time()
        try:
            frame = _decode(message)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidFrame(str(error)) from None
        if frame.topic:
            self._on_rows(frame.topic, frame.data, frame.creationTime)
        elif frame.op in self._answers and not self._answers[frame.op].done():
            self._answers[frame.op].set_result(frame)

    def _set_up(self) -> None:
        self._up_since = self._now()
        self._wanted.clear()
        self.connected.set()
        logger.info("private stream: subscribed%s", " again" if self._in_outage else "")
        self._in_outage = False
        self._on_connected()

    def _set_down(self) -> None:
        self._answers.clear()
        if self.is_connected:
            self.connected.clear()
            self._down_since = self._now()

    def _log_failure(self, reason: str) -> None:
        level = logging.DEBUG if self._in_outage else logging.WARNING
        logger.log(level, "private stream: %s; connecting again", reason)
        self._in_outage = True
