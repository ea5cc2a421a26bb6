"""The REST interface: which paths there are, and how a request goes through checks and faults.

The checks of a signed request, in this order (which Bybit does not document): headers, key, signature, time,
rate, then the request itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from local_exchange.private.api import CREATE, ApiError, envelope
from local_exchange.private.order_store import Received
from local_exchange.private.rate_limits import LimitReached, limit_headers
from local_exchange.private.request_faults import MALFORMED

if TYPE_CHECKING:
    from starlette.datastructures import Address

    from local_exchange.fault_rules import FaultRules, Rule
    from local_exchange.private.api import ExchangeClock
    from local_exchange.private.order_store import OrderStore
    from local_exchange.private.rate_limits import RateLimits
    from local_exchange.private.signatures import Signatures


@dataclass(frozen=True)
class Endpoint:
    """A path, and what answers it: a result from the parameters of a query or the object of a body."""

    method: str
    path: str
    answer: Callable[[dict[str, Any]], dict[str, Any]]
    # The rate bucket; "" where the request is not signed.
    limit: str = ""


@dataclass
class Call:
    """A request on its way."""

    endpoint: Endpoint
    request: Request
    # What was signed: the query string or the body.
    payload: bytes
    # None where the body is not a JSON object.
    given: dict[str, Any] | None
    received: Received | None = None
    # The fault that takes the place of the answer.
    spoilt: Rule | None = None

    def text(self, name: str) -> str:
        """Return a parameter as text, "" where it is missing."""
        return str((self.given or {}).get(name, ""))

    def note(self, outcome: str) -> None:
        """Note what became of a request to create an order."""
        if self.received is not None:
            self.received.outcome = outcome


class RestApi:
    """Serves the endpoints; everything else is HTTP 404."""

    def __init__(
        self,
        endpoints: list[Endpoint],
        *,
        signatures: Signatures,
        limits: RateLimits,
        store: OrderStore,
        faults: FaultRules,
        clock: ExchangeClock,
        cut: Callable[[Address | None], None],
    ) -> None:
        self._endpoints = endpoints
        self._signatures = signatures
        self._limits = limits
        self._store = store
        self._faults = faults
        self._clock = clock
        self._cut = cut

    def app(self) -> Starlette:
        """Return the ASGI application."""
        routes = [Route(one.path, self._serve(one), methods=[one.method]) for one in self._endpoints]
        return Starlette(routes=routes, exception_handlers={ApiError: self._refusal})

    async def _refusal(self, _request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)  # noqa: S101 - what this handler is registered for
        return self._refused(error)

    def _refused(self, error: ApiError) -> Response:
        response = envelope(self._clock, {}, error.code, error.text, error.status)
        if isinstance(error, LimitReached):
            response.headers.update(error.headers)
        return response

    def _serve(self, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
        async def serve(request: Request) -> Response:
            self._limits.check_address()
            payload = await request.body() if endpoint.method == "POST" else request.scope["query_string"]
            call = Call(endpoint, request, payload, _parse(endpoint.method, payload))
            if endpoint.path == CREATE:
                self._receive(call)
            instead = await self._instead(call)
            return await self._spoil(call, self._process(call)) if instead is None else instead

        return serve

    def _receive(self, call: Call) -> None:
        """Note a request to create an order, whatever becomes of it."""
        headers, number = call.request.headers, len(self._store.received) + 1
        timestamp, window = headers.get("x-bapi-timestamp"), headers.get("x-bapi-recv-window")
        call.received = Received(
            number, self._clock.ns(), _number(timestamp), _number(window), call.given or {}
        )
        self._store.received.append(call.received)

    def _meet(self, fault: str, call: Call) -> Rule | None:
        facts = {"path": call.endpoint.path, "side": call.text("side"), "link": call.text("orderLinkId")}
        return self._faults.meet(fault, call.text("category"), call.text("symbol"), facts=facts)

    async def _instead(self, call: Call) -> Response | None:
        """Return the answer of a fault that lets nothing be done, None where there is not one."""
        lost = self._meet("lost_request", call)
        if lost is not None:
            call.note("lost")
            return await self._lose(call, lost)
        refused = self._meet("refuse", call)
        if refused is not None:
            call.note(str(refused.given["code"]))
            return envelope(self._clock, {}, refused.given["code"], refused.given["text"])
        limited = self._meet("rate_limit", call)
        if limited is not None:
            call.note("10006")
            return self._limited(limited.given["header"])
        call.spoilt = self._meet("http", call) or self._meet("malformed", call)
        if call.spoilt is not None and not call.spoilt.given["taken"]:
            call.note("lost")
            return _spoilt(call.spoilt)
        return None

    def _limited(self, header: str) -> Response:
        response = envelope(self._clock, {}, 10006, "Too many visits. Exceeded the API Rate Limit.")
        if header != "without":
            reset = self._clock.ms() + (500 if header == "with" else -500)
            response.headers.update(limit_headers(10, 0, reset))
        return response

    async def _lose(self, call: Call, rule: Rule) -> Response:
        """Give no answer: cut the connection, at once or when the fault ends."""
        if rule.given["how"] == "hang":
            ended = asyncio.ensure_future(rule.ended.wait())
            left = asyncio.ensure_future(_disconnected(call.request))
            await asyncio.wait({ended, left}, return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
            left.cancel()
        self._cut(call.request.client)
        # The connection is noticed to be gone before the answer would be written.
        await asyncio.sleep(0)
        return Response()

    def _process(self, call: Call) -> Response:
        """Check a request, do what it asks, and answer."""
        headers: dict[str, str] = {}
        try:
            if call.endpoint.limit:
                self._signatures.check(call.request.headers, call.payload)
                headers = self._limits.take(call.endpoint.limit, call.text("category"))
            if call.given is None:
                # Not confirmed.
                raise ApiError(10001, "params error: the body is not a JSON object")
            result = call.endpoint.answer(call.given)
        except ApiError as error:
            call.note(str(error.code))
            response = self._refused(error)
        else:
            call.note("taken")
            response = envelope(self._clock, result)
        response.headers.update(headers)
        return response

    async def _spoil(self, call: Call, response: Response) -> Response:
        """Return the answer, or what a fault makes of it."""
        slow = self._meet("slow_reply", call)
        if slow is not None:
            await asyncio.sleep(slow.given["ms"] / 1000)
        lost = self._meet("lost_reply", call)
        if lost is not None:
            return await self._lose(call, lost)
        return response if call.spoilt is None else _spoilt(call.spoilt)


def _parse(method: str, payload: bytes) -> dict[str, Any] | None:
    """Return the parameters of a request, None where its body is not a JSON object."""
    if method == "GET":
        return dict(parse_qsl(payload.decode("latin-1"), keep_blank_values=True))
    try:
        given = json.loads(payload)
    except ValueError:
        return None
    return given if isinstance(given, dict) else None


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0


def _spoilt(rule: Rule) -> Response:
    if rule.name == "http":
        return Response("<html>error</html>", rule.given["status"])
    return Response(MALFORMED[rule.given["kind"]], media_type="application/json")


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
