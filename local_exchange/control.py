"""The control interface: faults, market and counters over HTTP, JSON in and out."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Route

from local_exchange import faults
from local_exchange.control_routes import given_by, json_route
from local_exchange.fault_rules import FaultError
from local_exchange.instrument import now_ms
from local_exchange.private import faults as private_faults
from local_exchange.private.control import account_routes
from local_exchange.synthetic import SyntheticMarket

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from starlette.requests import Request

    from local_exchange.server import LocalExchange


class ControlInterface:
    """What the paths of the control interface answer.

    A handler gets the query and the JSON body as one dict, returns what JSON can hold, and raises
    HTTPException, FaultError (409), or TypeError and ValueError for a value that does not fit (400).
    """

    def __init__(self, exchange: LocalExchange) -> None:
        self._exchange = exchange

    def app(self) -> Starlette:
        """Return the ASGI application."""
        routes = [
            json_route("GET", "/counters", self._counters),
            json_route("GET", "/sockets", self._sockets),
            json_route("GET", "/instruments", self._instruments),
            json_route("GET", "/book", self._book),
            json_route("POST", "/book", self._set_book),
            json_route("GET", "/faults", self._standing),
            json_route("POST", "/step", self._step),
            json_route("POST", "/pause", self._pause),
            json_route("POST", "/resume", self._resume),
            json_route("POST", "/pace", self._pace),
            Route("/faults/{name}", self._fault, methods=["POST"]),
            *account_routes(self._exchange.private),
        ]
        handlers: dict[Any, Callable[[Request, Any], JSONResponse]] = {
            HTTPException: _http_error(routes),
            FaultError: _fault_error,
            TypeError: _value_error,
            ValueError: _value_error,
        }
        return Starlette(routes=routes, exception_handlers=handlers)

    async def _fault(self, request: Request) -> JSONResponse:
        name = request.path_params["name"]
        given = await given_by(request)
        names = faults.NAMES + private_faults.NAMES
        if name not in names:
            raise HTTPException(404, f"expected a fault of {', '.join(names)}, was {name}")
        private = name in private_faults.NAMES
        switches = self._exchange.private.faults if private else self._exchange.faults
        fault: Callable[..., Awaitable[int]] = getattr(switches, name)
        try:
            inspect.signature(fault).bind(**given)
        except TypeError as error:
            raise HTTPException(400, f"{name}{inspect.signature(fault)}: {error}") from error
        matched = await fault(**given)
        if name == "clear":
            matched += await self._exchange.private.faults.clear()
        return JSONResponse({"matched": matched})

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
            "finished": exchange.player.finished,
            "rounds": exchange.source.rounds,
            "topics": topics,
            "private": self._exchange.private.counters(),
        }

    def _sockets(self, _given: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            {
                "socket": one.number,
                "channel": one.channel,
                "topics": one.topics,
                "unread": one.unread,
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
            raise HTTPException(404, "expected channel and symbol of an instrument that is served")
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
            raise HTTPException(409, "expected the synthetic market, was a recording")
        return source

    def _set_book(self, given: dict[str, Any]) -> dict[str, Any]:
        try:
            levels = [[(str(price), str(size)) for price, size in given[side]] for side in "ba"]
            channel, symbol = str(given["channel"]), str(given["symbol"])
            self._market().set_book(channel, symbol, *levels)
        except (KeyError, TypeError, ValueError) as error:
            wanted = '{"channel": ..., "symbol": ..., "b": [["price", "size"], ...], "a": [...]}'
            raise HTTPException(400, f"expected {wanted}: {error!r}") from error
        return {"matched": 1}

    def _step(self, given: dict[str, Any]) -> dict[str, int]:
        channel, symbol = str(given.get("channel")), str(given.get("symbol"))
        try:
            self._market().step(channel, symbol, int(given.get("count", 1)))
        except KeyError as error:
            reason = "expected an instrument of the market whose book was not set by hand"
            raise HTTPException(404, reason) from error
        return {"matched": 1}

    def _standing(self, _given: dict[str, Any]) -> list[dict[str, Any]]:
        standing = [*self._exchange.faults.standing(), *self._exchange.private.fault_rules.standing()]
        return [rule.describe() for rule in standing]

    def _pause(self, _given: dict[str, Any]) -> dict[str, int]:
        self._exchange.player.pause()
        return {"at": now_ms()}

    def _resume(self, _given: dict[str, Any]) -> dict[str, int]:
        self._exchange.player.resume()
        return {"at": now_ms()}

    def _pace(self, given: dict[str, Any]) -> dict[str, float]:
        pace = given.get("pace")
        if not isinstance(pace, int | float) or pace < 0:
            raise HTTPException(400, f"expected a pace of at least 0, was {pace}")
        self._exchange.source.set_rate(float(pace))
        return {"pace": float(pace)}


def _http_error(routes: Iterable[Route]) -> Callable[[Request, HTTPException], JSONResponse]:
    listed = [(method, route.path) for route in routes for method in route.methods or () if method != "HEAD"]
    known = ", ".join(f"{method} {path}" for method, path in listed)

    def answer(request: Request, error: HTTPException) -> JSONResponse:
        # Raised by the router, not by a handler: no path or no method of ours.
        if request.scope.get("endpoint") is None or error.status_code == 405:
            return JSONResponse({"error": f"expected one of {known}"}, 404)
        return JSONResponse({"error": error.detail}, error.status_code)

    return answer


def _fault_error(_request: Request, error: FaultError) -> JSONResponse:
    return JSONResponse({"error": str(error)}, 409)


def _value_error(_request: Request, error: Exception) -> JSONResponse:
    # A value of the wrong kind, noticed where it is used.
    return JSONResponse({"error": f"expected other values: {error}"}, 400)
