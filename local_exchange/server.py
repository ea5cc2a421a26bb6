"""The stand-in of Bybit's V5 public WebSocket: its connections, and the parts that serve them."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Self, cast

from websockets.asyncio.server import Server, serve

from local_exchange.client_socket import Socket
from local_exchange.control import ControlInterface
from local_exchange.faults import Faults
from local_exchange.http_server import HttpServer
from local_exchange.instrument import DEPTHS
from local_exchange.player import Player
from local_exchange.public_requests import AnswerTiming, PublicRequests
from local_exchange.record import Record

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path
    from types import TracebackType

    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response

    from local_exchange.instrument import Feed
    from local_exchange.source import Source

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
PATH = "/v5/public/"
# What a clean stop waits for answers to its close frames.
STOP_WAIT = 0.5


class LocalExchange:
    """Serves a source on `ws://127.0.0.1:<port>/v5/public/<channel>`, as long as it is entered.

    Args:
        source: the market to serve.
        port: WebSocket port, 0 takes a free one.
        control_port: port of the control endpoint (HTTP), 0 takes a free one.
        wait_for: the market begins when this many topics are subscribed.
        repeat_after: seconds after which a quiet depth-1 topic repeats itself; 0: never.
        record: file that gets every push written to a socket.
        answers: when subscriptions are answered; as on Bybit where left out.
    """

    def __init__(
        self,
        source: Source,
        *,
        port: int = 0,
        control_port: int = 0,
        wait_for: int = 0,
        repeat_after: float = 3.0,
        record: Path | None = None,
        answers: AnswerTiming | None = None,
    ) -> None:
        self.source = source
        self.port = port
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
        self._requests = PublicRequests(self, answers or AnswerTiming())
        self._control = HttpServer(ControlInterface(self).app())
        self._server: Server | None = None
        # Held while the port is opened or closed.
        self._listening = asyncio.Lock()
        self._closed_servers: list[Server] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._raw_sockets: set[Socket] = set()

    @property
    def url(self) -> str:
        """Base URL: what BYBIT_WS_URL is set to."""
        return f"ws://{HOST}:{self.port}"

    @property
    def control_url(self) -> str:
        """Base URL of the control endpoint."""
        return f"http://{HOST}:{self.control_port}"

    async def __aenter__(self) -> Self:
        self.failure = asyncio.get_running_loop().create_future()
        await self.start_listening()
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
        if closing:
            await asyncio.wait(closing, timeout=STOP_WAIT)
        for one in list(self._raw_sockets):
            one.transport.abort()
        await asyncio.gather(*closing, *self._tasks, return_exceptions=True)
        for server in self._closed_servers:
            await server.wait_closed()
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

    # Connections.

    async def start_listening(self) -> None:
        """Accept connections on the WebSocket port."""
        async with self._listening:
            if self._server is None:
                await self._listen()

    async def _listen(self) -> None:
        self._server = await serve(
            self._serve,
            HOST,
            self.port,
            process_request=self._process_request,
            compression=None,
            open_timeout=None,
            ping_interval=None,
            max_size=1 << 20,
            create_connection=self._connection,  # type: ignore[arg-type]  # any callable does
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def stop_listening(self) -> None:
        """Refuse new connections; those that are open stay."""
        async with self._listening:
            if self._server is None:
                return
            server, self._server = self._server, None
            server.close(close_connections=False)
            self._closed_servers.append(server)
            # The port is closed by a task that this made.
            while server.is_serving():
                await asyncio.sleep(0)
            await asyncio.sleep(0)

    def _connection(self, *args: Any, **kwargs: Any) -> Socket:
        socket = Socket(*args, **kwargs)
        self._raw_sockets.add(socket)
        socket.connection_lost_waiter.add_done_callback(lambda _: self._raw_sockets.discard(socket))
        return socket

    async def _process_request(self, connection: ServerConnection, request: Request) -> Response | None:
        path = request.path.partition("?")[0]
        channel = path.removeprefix(PATH)
        if not path.startswith(PATH) or channel not in DEPTHS:
            self.counters["refused"] += 1
            return connection.respond(404, f"{path} is not served\n")
        cast("Socket", connection).channel = channel
        hanging = self.faults.meet("hang_handshake", channel)
        if hanging is not None:
            ended = asyncio.ensure_future(hanging.ended.wait())
            either: set[asyncio.Future[Any]] = {ended, connection.connection_lost_waiter}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
        refusing = self.faults.meet("refuse_handshake", channel)
        if refusing is not None:
            self.counters["refused"] += 1
            return connection.respond(refusing.given["status"], "refused\n")
        return None

    async def _serve(self, connection: ServerConnection) -> None:
        socket = cast("Socket", connection)
        self.counters["opened"] += 1
        socket.number = self.counters["opened"]
        socket.no_pong = self.faults.meet("no_pong", socket.channel) is not None
        socket.no_close_answer = self.faults.meet("no_close_answer", socket.channel) is not None
        socket.on_end = self._forget
        self.sockets[socket.number] = socket
        try:
            async for message in socket:
                self._requests.answer(socket, message)
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
