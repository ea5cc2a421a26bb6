"""The control endpoint: faults, market and counters over HTTP, JSON in and out."""

from __future__ import annotations

import asyncio
import inspect
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from local_exchange.faults import FaultError
from local_exchange.instrument import now_ms
from local_exchange.synthetic import SyntheticMarket

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from local_exchange.server import LocalExchange

FAULTS = (
    "drop",
    "refuse_tcp",
    "refuse_handshake",
    "hang_handshake",
    "no_pong",
    "no_close_answer",
    "refuse_subscription",
    "slow_ack",
    "silence",
    "gap",
    "repeat",
    "snapshot",
    "restart",
    "cross",
    "delete_absent",
    "garbage",
    "send",
    "clear",
)
MOST_BODY = 16 * 1024 * 1024
PATIENCE = 10.0


class RequestError(Exception):
    """A request that can't be served: an HTTP status and the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Control:
    """A small HTTP server, one request a connection."""

    def __init__(self, exchange: LocalExchange) -> None:
        self._exchange = exchange
        self._server: asyncio.Server | None = None
        self._routes: dict[tuple[str, str], Callable[[dict[str, Any]], Any]] = {
            ("GET", "/counters"): self._counters,
            ("GET", "/sockets"): self._sockets,
            ("GET", "/instruments"): self._instruments,
            ("GET", "/book"): self._book,
            ("POST", "/book"): self._set_book,
            ("GET", "/faults"): self._standing,
            ("POST", "/step"): self._step,
            ("POST", "/pause"): self._pause,
            ("POST", "/resume"): self._resume,
            ("POST", "/pace"): self._pace,
        }

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the port."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=1 << 16)
        listening: int = self._server.sockets[0].getsockname()[1]
        return listening

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                status, answer = await self._respond(reader)
                body = json.dumps(answer).encode() + b"\n"
                head = (
                    f"HTTP/1.1 {status} {'OK' if status == 200 else 'Error'}\r\n"
                    f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
                    "Connection: close\r\n\r\n"
                )
                writer.write(head.encode() + body)
                await writer.drain()
        except (OSError, EOFError, TimeoutError):
            # The client went away, or never finished its request.
            pass
        finally:
            writer.close()

    async def _respond(self, reader: asyncio.StreamReader) -> tuple[int, Any]:
        try:
            method, target, body = await self._read(reader)
            return 200, await self._route(method, target, body)
        except RequestError as error:
            return error.status, {"error": str(error)}
        except FaultError as error:
            return 409, {"error": str(error)}
        except (TypeError, ValueError) as error:
            # A value of the wrong kind, met where it is used.
            return 400, {"error": f"expected other values: {error}"}

    async def _read(self, reader: asyncio.StreamReader) -> tuple[str, str, bytes]:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except asyncio.LimitOverrunError as error:
            raise RequestError(431, "expected a shorter head") from error
        parts = head[0].split(" ")
        if len(parts) != 3:
            raise RequestError(400, f"expected a request line, was {head[0]!r}")
        headers = {}
        for line in head[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MOST_BODY:
            raise RequestError(413, f"expected a body of at most {MOST_BODY} bytes, was {length}")
        return parts[0], parts[1], await reader.readexactly(int(length))

    async def _route(self, method: str, target: str, body: bytes) -> Any:
        url = urlsplit(target)
        given: dict[str, Any] = dict(parse_qsl(url.query))
        if body.strip():
            try:
                parsed = json.loads(body)
            except ValueError as error:
                raise RequestError(400, f"expected JSON, was {error}") from error
            if not isinstance(parsed, dict):
                raise RequestError(400, "expected a JSON object")
            given |= parsed
        if method == "POST" and url.path.startswith("/faults/"):
            return await self._fault(url.path.removeprefix("/faults/"), given)
        route = self._routes.get((method, url.path))
        if route is None:
            known = ", ".join(f"{m} {path}" for m, path in self._routes)
            raise RequestError(404, f"expected one of {known}, POST /faults/<name>")
        return route(given)

    async def _fault(self, name: str, given: dict[str, Any]) -> dict[str, int]:
        if name not in FAULTS:
            raise RequestError(404, f"expected a fault of {', '.join(FAULTS)}, was {name}")
        fault: Callable[..., Awaitable[int]] = getattr(self._exchange.faults, name)
        try:
            inspect.signature(fault).bind(**given)
        except TypeError as error:
            raise RequestError(400, f"{name}{inspect.signature(fault)}: {error}") from error
        return {"matched": await fault(**given)}

    def _counters(self, _given: dict[str, Any]) -> dict[str, Any]:
        exchange = self._exchange
        topics = [
            {
                "channel": feed.instrument.channel,
                "topic": feed.topic,
                "sent": feed.sent,
                "u": feed.u,
                "sockets": len(feed.subscriptions),
            }
            for instrument in exchange.source.instruments.values()
            for feed in instrument.feeds.values()
            if feed.sent or feed.subscriptions
        ]
        return {
            **exchange.counters,
            "open": len(exchange.sockets),
            "sent": sum(int(str(topic["sent"])) for topic in topics),
            "finished": exchange.finished,
            "topics": topics,
        }

    def _sockets(self, _given: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            {
                "socket": one.number,
                "channel": one.channel,
                "topics": list(one.subscriptions),
                "unread": one.transport.get_write_buffer_size(),
            }
            for one in self._exchange.sockets.values()
        ]

    def _instruments(self, _given: dict[str, Any]) -> dict[str, list[str]]:
        listed: dict[str, list[str]] = {}
        for channel, symbol in self._exchange.source.instruments:
            listed.setdefault(channel, []).append(symbol)
        return listed

    def _book(self, given: dict[str, Any]) -> dict[str, Any]:
        instrument = self._exchange.source.instruments.get(
            (str(given.get("channel")), str(given.get("symbol")))
        )
        if instrument is None:
            raise RequestError(404, "expected channel and symbol of an instrument that is served")
        bids, asks = instrument.window(int(given.get("depth", 1000)))
        return {
            "s": instrument.symbol,
            "b": json.loads(f"[{bids}]"),
            "a": json.loads(f"[{asks}]"),
            "seq": instrument.seq,
            "cts": instrument.cts,
        }

    def _market(self) -> SyntheticMarket:
        source = self._exchange.source
        if not isinstance(source, SyntheticMarket):
            raise RequestError(409, "expected the synthetic market, was a recording")
        return source

    def _set_book(self, given: dict[str, Any]) -> dict[str, Any]:
        try:
            levels = [[(str(price), str(size)) for price, size in given[side]] for side in "ba"]
            channel, symbol = str(given["channel"]), str(given["symbol"])
            self._market().set_book(channel, symbol, *levels)
        except (KeyError, TypeError, ValueError) as error:
            wanted = '{"channel": ..., "symbol": ..., "b": [["price", "size"], ...], "a": [...]}'
            raise RequestError(400, f"expected {wanted}: {error!r}") from error
        return {"matched": 1}

    def _step(self, given: dict[str, Any]) -> dict[str, int]:
        channel, symbol = str(given.get("channel")), str(given.get("symbol"))
        try:
            self._market().step(channel, symbol, int(given.get("count", 1)))
        except KeyError as error:
            reason = "expected an instrument of the market whose book was not set by hand"
            raise RequestError(404, reason) from error
        return {"matched": 1}

    def _standing(self, _given: dict[str, Any]) -> list[dict[str, Any]]:
        return [rule.describe() for rule in self._exchange.faults.standing()]

    def _pause(self, _given: dict[str, Any]) -> dict[str, int]:
        self._exchange.pause()
        return {"at": now_ms()}

    def _resume(self, _given: dict[str, Any]) -> dict[str, int]:
        self._exchange.resume()
        return {"at": now_ms()}

    def _pace(self, given: dict[str, Any]) -> dict[str, float]:
        pace = given.get("pace")
        if not isinstance(pace, int | float) or pace < 0:
            raise RequestError(400, f"expected a pace of at least 0, was {pace}")
        self._exchange.source.set_pace(float(pace))
        return {"pace": float(pace)}
