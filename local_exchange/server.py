"""The stand-in of Bybit's V5 public WebSocket: connections, requests, and the player."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import TYPE_CHECKING, Any, Self, cast

from websockets.asyncio.server import Server, serve

from local_exchange import requests
from local_exchange.client_socket import Socket
from local_exchange.control import ControlInterface
from local_exchange.faults import Faults
from local_exchange.http_server import HttpServer
from local_exchange.instrument import DEPTHS, now_ms
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
# Shortest pause of the player: pushes due within it leave together, at fewer wake-ups.
TICK = 0.002
# A paced market drops a socket that leaves this much unread; one that is not paced waits for the
# slowest socket to have less than the second figure.
MOST_UNREAD = 64 * 1024 * 1024
MOST_AHEAD = 256 * 1024
HOUSEKEEPING = 0.1
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
    ) -> None:
        self.source = source
        self.port = port
        self.control_port = control_port
        self.faults = Faults(self)
        self.sockets: dict[int, Socket] = {}
        self.counters = dict.fromkeys(
            ("opened", "refused", "subscribes", "unsubscribes", "refusals", "pings", "dropped"), 0
        )
        self.finished = False
        self.failure: asyncio.Future[None]
        self._wait_for = wait_for
        self._repeat_after = repeat_after
        self._record_path = record
        self._record: Record | None = None
        self._control = HttpServer(ControlInterface(self).app())
        self._server: Server | None = None
        self._closed_servers: list[Server] = []
        self._begun = asyncio.Event()
        self._running = asyncio.Event()
        self._paused_at: float | None = None
        self._paused = 0.0
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
            self._record = Record(self._record_path)
        self._running.set()
        if not self._wait_for:
            self._begun.set()
        self.background(self._play())
        self.background(self._keep_house())
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
        if self._record is not None:
            self._record.close()
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
        if self._server is not None:
            return
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
            return connection.respond(int(str(refusing.value)), "refused\n")
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
                self._answer(socket, message)
        finally:
            socket.end()

    def _forget(self, socket: Socket) -> None:
        self.sockets.pop(socket.number, None)
        for subscription in socket.subscriptions.values():
            self.source.unsubscribe(subscription)
        socket.subscriptions.clear()

    # Requests.

    def _answer(self, socket: Socket, message: str | bytes) -> None:
        channel, conn_id = socket.channel, socket.conn_id
        try:
            request = json.loads(message)
        except ValueError as error:
            text = f"Failed to decode incoming data: {error}"
            socket.reply(requests.refused(channel, conn_id, "", None, text, []))
            return
        if not isinstance(request, dict):
            text = "Failed to decode incoming data: not an object"
            socket.reply(requests.refused(channel, conn_id, "", None, text, []))
            return
        op, req_id = request.get("op"), request.get("req_id")
        if op == "ping":
            self.counters["pings"] += 1
            socket.reply(requests.pong(channel, conn_id, req_id, now_ms()))
        elif op == "subscribe":
            self._answer_subscribe(socket, request.get("args"), req_id)
        elif op == "unsubscribe":
            self._answer_unsubscribe(socket, request.get("args"), req_id)
        else:
            text = "error:invalid op"
            socket.reply(requests.refused(channel, conn_id, str(op), req_id, text, []))

    def _answer_subscribe(self, socket: Socket, args: object, req_id: object) -> None:
        self.counters["subscribes"] += 1
        topics = args if isinstance(args, list) else []
        for topic in topics:
            slow = self.faults.meet("slow_ack", socket.channel, _symbol(topic))
            if slow is not None:
                if slow.value is not None:
                    loop = asyncio.get_running_loop()
                    loop.call_later(float(slow.value), self._subscribe, socket, args, req_id)
                return
        self._subscribe(socket, args, req_id)

    def _subscribe(self, socket: Socket, args: object, req_id: object) -> None:
        if not socket.open or socket.number not in self.sockets:
            return
        channel = socket.channel
        active = list(socket.subscriptions)
        problem = requests.args_problem(channel, args, active)
        topics = args if isinstance(args, list) else []
        feeds: dict[str, Feed] = {}
        for topic in topics if problem is None else ():
            refusing = self.faults.meet("refuse_subscription", channel, _symbol(topic))
            feed = self.source.feed(channel, topic)
            if feed is None or refusing is not None:
                problem = requests.unknown_topic(channel, topic)
                if refusing is not None and refusing.value is not None:
                    problem = str(refusing.value)
            elif topic in feeds or topic in socket.subscriptions:
                problem = requests.already_subscribed(topic)
            else:
                feeds[topic] = feed
            if problem is not None:
                break
        if problem is not None:
            self.counters["refusals"] += 1
            reply = requests.refused(
                channel, socket.conn_id, "subscribe", req_id, problem, list(map(str, topics))
            )
            socket.reply(reply)
            return
        socket.reply(requests.accepted(channel, socket.conn_id, "subscribe", req_id, list(feeds)))
        for topic, feed in feeds.items():
            if self._record is not None:
                feed.tap = self._record.add
            subscription = self.source.subscribe(feed, socket.number, socket.transport.write)
            socket.subscriptions[topic] = subscription
            silence = self.faults.meet("silence", channel, feed.instrument.symbol)
            if socket.silent or silence is not None:
                subscription.silent = True
                feed.rewire()
            self.source.open(subscription)
        if not self._begun.is_set() and len(self.used_feeds()) >= self._wait_for:
            self._begun.set()

    def _answer_unsubscribe(self, socket: Socket, args: object, req_id: object) -> None:
        self.counters["unsubscribes"] += 1
        problem = requests.args_problem(socket.channel, args, [])
        if problem is not None or not isinstance(args, list):
            reply = requests.refused(socket.channel, socket.conn_id, "unsubscribe", req_id, str(problem), [])
            socket.reply(reply)
            return
        for topic in args:
            subscription = socket.subscriptions.pop(topic, None)
            if subscription is not None:
                self.source.unsubscribe(subscription)
        reply = requests.accepted(socket.channel, socket.conn_id, "unsubscribe", req_id, args)
        socket.reply(reply)

    # The player.

    def used_feeds(self) -> list[Feed]:
        """Topics with at least one socket."""
        instruments = self.source.instruments.values()
        return [feed for instrument in instruments for feed in instrument.used_feeds()]

    def pause(self) -> None:
        """Stop the market; connections and answers go on."""
        if self._paused_at is None:
            self._paused_at = time.monotonic()
            self._running.clear()

    def resume(self) -> None:
        """Let the market go on where it stopped."""
        if self._paused_at is not None:
            self._paused += time.monotonic() - self._paused_at
            self._paused_at = None
            self._running.set()

    async def _play(self) -> None:
        await self._begun.wait()
        source = self.source
        while True:
            await self._running.wait()
            wait = source.play(time.monotonic() - self._paused)
            if wait is None:
                break
            if not source.paced:
                await self._until_read()
            await asyncio.sleep(max(wait, TICK) if wait else 0)
        self.finished = True
        logger.info("the recording is played; its books stay")

    async def _until_read(self) -> None:
        """Wait until the slowest socket has read most of what it got."""
        while any(self._lazy_snapshot(one) > MOST_AHEAD for one in self.sockets.values()):
            await asyncio.sleep(0.001)

    @staticmethod
    def _lazy_snapshot(socket: Socket) -> int:
        return socket.transport.get_write_buffer_size()

    async def _keep_house(self) -> None:
        """Repeat quiet depth-1 topics, drop sockets that don't read, flush the record."""
        while True:
            await asyncio.sleep(HOUSEKEEPING)
            quiet = time.monotonic() - self._repeat_after
            for feed in self.used_feeds() if self._repeat_after else ():
                if feed.depth == 1 and feed.last_payload and feed.last_push < quiet:
                    self.source.repeat(feed)
            for one in list(self.sockets.values()):
                if self._lazy_snapshot(one) > MOST_UNREAD:
                    logger.warning("socket %s does not read: dropped", one.number)
                    self.counters["dropped"] += 1
                    one.reset()
            if self._record is not None:
                self._record.flush()


def _symbol(topic: object) -> str:
    return topic.split(".", 2)[-1] if isinstance(topic, str) else ""
