"""The stand-in of Bybit's V5 interface: the parts that serve it, started and stopped together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

from local_exchange.control import ControlInterface
from local_exchange.faults import Faults
from local_exchange.http_server import HttpServer
from local_exchange.player import Player
from local_exchange.private.exchange import PrivateExchange
from local_exchange.private.settings import PrivateSettings
from local_exchange.private.stream import CHANNEL, PATH
from local_exchange.public_requests import AnswerTiming, PublicRequests
from local_exchange.record import Record
from local_exchange.websocket_server import HOST, WebSocketServer

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path
    from types import TracebackType

    from local_exchange.client_socket import Socket
    from local_exchange.instrument import Feed
    from local_exchange.source import Source

# What a clean stop waits for answers to its close frames.
STOP_WAIT = 0.5


class LocalExchange:
    """Serves a source as long as it is entered: WebSockets, REST, and the control interface.

    Args:
        source: the market to serve.
        port: of the WebSockets, 0 takes a free one.
        control_port: of the control interface (HTTP), 0 takes a free one.
        rest_port: of REST, 0 takes a free one.
        wait_for: the market begins when this many topics are subscribed.
        repeat_after: seconds after which a quiet depth-1 topic repeats itself; 0: never.
        record: file that gets every push written to a socket.
        answers: when subscriptions are answered; as on Bybit where left out.
        private: the account of the private side.
    """

    def __init__(
        self,
        source: Source,
        *,
        port: int = 0,
        control_port: int = 0,
        rest_port: int = 0,
        wait_for: int = 0,
        repeat_after: float = 3.0,
        record: Path | None = None,
        answers: AnswerTiming | None = None,
        private: PrivateSettings | None = None,
    ) -> None:
        answers = answers or AnswerTiming()
        self.source = source
        self.control_port = control_port
        self.faults = Faults(self)
        self.sockets: dict[int, Socket] = {}
        self.counters = dict.fromkeys(
            ("opened", "refused", "subscribes", "unsubscribes", "refusals", "pings", "dropped"), 0
        )
        self.failure: asyncio.Future[None]
        self.player = Player(self, wait_for, repeat_after)
        # The file of `--record`, once the exchange is entered.
        self.record: Record | None = None
        self._record_path = record
        self._requests = PublicRequests(self, answers)
        self.private = PrivateExchange(
            source,
            private or PrivateSettings(),
            port=rest_port,
            sockets=lambda: list(self.sockets.values()),
            answer_delay=answers.delay,
            public_faults=self.faults,
            background=self.background,
        )
        self._websockets = WebSocketServer(port, self.faults, self.counters, self._serve)
        self._control = HttpServer(ControlInterface(self).app())
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def url(self) -> str:
        """Base URL of the public WebSockets: what BYBIT_WS_URL is set to."""
        return f"ws://{HOST}:{self._websockets.port}"

    @property
    def private_url(self) -> str:
        """URL of the private WebSocket."""
        return f"{self.url}{PATH}"

    @property
    def rest_url(self) -> str:
        """Base URL of REST: what BYBIT_REST_URL is set to."""
        return f"http://{HOST}:{self.private.port}"

    @property
    def control_url(self) -> str:
        """Base URL of the control interface."""
        return f"http://{HOST}:{self.control_port}"

    async def __aenter__(self) -> Self:
        self.failure = asyncio.get_running_loop().create_future()
        await self.start_listening()
        await self.private.listen()
        self.control_port = await self._control.start(HOST, self.control_port)
        if self._record_path is not None:
            self.record = Record(self._record_path)
        self.background(self.player.play())
        self.background(self.player.keep_house())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._control.stop()
        for task in list(self._tasks):
            task.cancel()
        await self.stop_listening()
        closing = [asyncio.ensure_future(one.close(1001)) for one in self.sockets.values()]
        for one in list(self.sockets.values()):
            one.end()
        await self.private.stop()
        if closing:
            await asyncio.wait(closing, timeout=STOP_WAIT)
        self._websockets.abort()
        await asyncio.gather(*closing, *self._tasks, return_exceptions=True)
        await self._websockets.wait_closed()
        if self.record is not None:
            self.record.close()
        if self.failure.done():
            self.failure.exception()

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside; what fails in it ends the exchange."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not self.failure.done():
            self.failure.set_exception(error)

    async def start_listening(self) -> None:
        """Accept connections on the WebSocket port."""
        await self._websockets.start()

    async def stop_listening(self) -> None:
        """Refuse new connections on the WebSocket port; those that are open stay."""
        await self._websockets.stop()

    async def _serve(self, socket: Socket) -> None:
        self.counters["opened"] += 1
        socket.number = self.counters["opened"]
        socket.no_pong = self.faults.meet("no_pong", socket.channel) is not None
        socket.no_close_answer = self.faults.meet("no_close_answer", socket.channel) is not None
        socket.on_end = self._forget
        self.sockets[socket.number] = socket
        answer = self.private.stream.answer if socket.channel == CHANNEL else self._requests.answer
        try:
            async for message in socket:
                answer(socket, message)
        finally:
            socket.end()

    def _forget(self, socket: Socket) -> None:
        self.sockets.pop(socket.number, None)
        for subscription in socket.subscriptions.values():
            self.source.unsubscribe(subscription)
        socket.subscriptions.clear()

    def used_feeds(self) -> list[Feed]:
        """Return the topics with at least one socket."""
        instruments = self.source.instruments.values()
        return [feed for instrument in instruments for feed in instrument.used_feeds()]
