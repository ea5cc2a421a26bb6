"""An exchange without sockets: what a stream sends is looked at, and what it gets is said by the test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from blackbird.bybit.connection import ConnectFailed, OnFrame
from blackbird.bybit.connection_budget import ConnectionBudget
from blackbird.bybit.stream import StreamContext
from blackbird.market.instrument import Instrument

Request = dict[str, Any]


class FakeSocket:
    """One connection; `sent` are the requests that came on it."""

    def __init__(self, exchange: FakeExchange, url: str, on_frame: OnFrame) -> None:
        self.url = url
        self.sent: list[Request] = []
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.closed_gracefully = False
        self._exchange = exchange
        self._on_frame = on_frame

    def send(self, text: str) -> None:
        request = json.loads(text)
        self.sent.append(request)
        asyncio.get_running_loop().call_soon(self._exchange.on_request, self, request)

    async def close(self) -> None:
        self.closed_gracefully = True
        self.abort()

    def abort(self) -> None:
        self.lose("aborted")

    def lose(self, reason: str = "closed by the exchange") -> None:
        if not self.closed.done():
            self.closed.set_result(reason)

    # --- what the exchange says ------------------------------------------------------------------

    def push(self, frame: bytes) -> None:
        if not self.closed.done():
            self._on_frame(frame, 1_800_000_000_000)

    def book(self, kind: str, u: int = 1, *, ts: object = 1_799_999_999_000) -> bytes:
        """Send a push of the topic that was last asked for, and return it."""
        topic = self.subscribes[-1]["args"][0]
        symbol = topic.rpartition(".")[2]
        data = {"s": symbol, "b": [["1", "2"]], "a": [["3", "4"]], "u": u, "seq": u}
        frame = json.dumps({"topic": topic, "type": kind, "ts": ts, "data": data, "cts": 1}).encode()
        self.push(frame)
        return frame

    def answer(self, request: Request, refusal: str | None = None) -> None:
        said = {"success": refusal is None, "ret_msg": refusal or "", "op": request["op"]}
        self.push(json.dumps({**said, "conn_id": "c", "req_id": request["req_id"]}).encode())

    @property
    def subscribes(self) -> list[Request]:
        return [request for request in self.sent if request["op"] == "subscribe"]

    @property
    def operations(self) -> list[str]:
        return [request["op"] for request in self.sent]


class FakeExchange:
    """Connects streams; `on_request` is what it does with a request, by default nothing."""

    def __init__(self) -> None:
        self.sockets: list[FakeSocket] = []
        # The loop's time at each connection attempt.
        self.attempts: list[float] = []
        self.published: list[tuple[Instrument, bytes, int, int]] = []
        self.on_request: Callable[[FakeSocket, Request], None] = lambda _socket, _request: None
        # Why attempts fail, as long as they do.
        self.failure: ConnectFailed | None = None

    async def connect(self, url: str, on_frame: OnFrame) -> FakeSocket:
        self.attempts.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.01)
        if self.failure is not None:
            raise self.failure
        self.sockets.append(FakeSocket(self, url, on_frame))
        return self.sockets[-1]

    def context(self, *, depth: int = 50, budget: ConnectionBudget | None = None) -> StreamContext:
        return StreamContext(
            url="ws://exchange",
            depth=depth,
            silence_seconds=5.0,
            connect=self.connect,
            budget=budget or ConnectionBudget(),
            on_push=lambda *push: self.published.append(push),
        )

    @property
    def bodies(self) -> list[bytes]:
        return [body for _, body, _, _ in self.published]

    # --- ways to answer --------------------------------------------------------------------------

    def serve(self, socket: FakeSocket, request: Request) -> None:
        """Accept, then send a snapshot after each subscribe."""
        socket.answer(request)
        if request["op"] == "subscribe":
            socket.book("snapshot")

    def serve_snapshot_first(self, socket: FakeSocket, request: Request) -> None:
        """Send the snapshot and a delta before the answer, as the linear channel does."""
        if request["op"] == "subscribe":
            socket.book("snapshot")
            socket.book("delta", 2)
        socket.answer(request)

    def accept_in_silence(self, socket: FakeSocket, request: Request) -> None:
        """Accept, and send nothing."""
        socket.answer(request)

    def refuse(self, socket: FakeSocket, request: Request) -> None:
        """Refuse subscribes as an unknown topic."""
        unknown = f"error:handler not found,topic:{request['args'][0]}"
        socket.answer(request, unknown if request["op"] == "subscribe" else None)


async def wait_until(condition: Callable[[], object]) -> None:
    """Let (virtual) time pass in small steps until the condition holds."""
    for _ in range(2_000_000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"never: {condition}")
