"""The collector's HTTP side: what is taken, what is answered, and the OpenAPI description of both."""

from __future__ import annotations

import unicodedata
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, Field
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blackbird.bybit.stream import SubscriptionStatus
from blackbird.market.instrument import CHANNELS, Instrument

if TYPE_CHECKING:
    from blackbird.collector.feed_manager import FeedManager


LARGEST_BODY = 64 * 1024
LARGEST_DISCARDED = 64 * 1024 * 1024


def _without_control_characters(text: str) -> str:
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in text):
        raise ValueError("expected no control characters")
    return text


_Name = Annotated[
    str,
    Field(min_length=1, max_length=64, json_schema_extra={"pattern": r"^[^\u0000-\u001f\u007f-\u009f]+$"}),
    AfterValidator(_without_control_characters),
]
_ChannelName = Annotated[_Name, Field(json_schema_extra={"enum": list(CHANNELS)})]


class Unsubscription(BaseModel):
    """An instrument: a symbol on a channel."""

    symbol: _Name = Field(examples=["BTCUSDT"])
    # Another one is a 400 of its own, not a 422: the reader may have mistyped a name he may choose.
    channel: _ChannelName

    @property
    def instrument(self) -> Instrument:
        """Return the instrument; raises HTTPException where the exchange has no such channel."""
        if self.channel not in CHANNELS:
            raise HTTPException(
                HTTPStatus.BAD_REQUEST,
                f"unknown channel {self.channel!r}: expected one of {', '.join(CHANNELS)}",
            )
        return Instrument(self.channel, self.symbol)


class Subscription(Unsubscription):
    """An instrument and the group that it trades in."""

    matching_key: _Name = Field(examples=["a"])


class Done(BaseModel):
    """What was asked for holds."""

    status: Literal["ok"] = "ok"


class Pending(BaseModel):
    """What was asked for is kept, and holds once the exchange can be reached."""

    status: Literal["pending"] = "pending"
    detail: str


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str


class Listed(BaseModel):
    """A subscription of a channel."""

    symbol: str
    matching_key: str


class Health(BaseModel):
    """Whether the exchange's streams and the broker are up, and what is not."""

    status: Literal["ok", "down"]
    down: list[str]
    dropped: int = Field(description="pushes that were dropped because the broker did not take them")


_REFUSED: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "unknown channel, or refused by the exchange"},
    413: {"model": Problem, "description": "body too large"},
}


def create_app(manager: FeedManager) -> FastAPI:
    """Return the HTTP side of `manager`."""
    app = FastAPI(title="Blackbird market data collector", version="1")
    app.add_middleware(BodyLimit)
    app.add_exception_handler(RequestValidationError, _invalid_body)
    app.add_exception_handler(AnyHTTPException, _http_error)

    @app.post("/subscribe", responses={**_REFUSED, 202: {"model": Pending, "description": "kept for later"}})
    async def subscribe(subscription: Subscription) -> Done:
        standing, reason = await manager.subscribe(subscription.instrument, subscription.matching_key)
        if standing is SubscriptionStatus.REFUSED:
            raise HTTPException(
                HTTPStatus.BAD_REQUEST, f"the exchange refuses {subscription.instrument}: {reason}"
            )
        if standing is SubscriptionStatus.ACCEPTED:
            return Done()
        detail = (
            f"{subscription.instrument} is kept, the exchange can't be reached: {reason or standing.value}"
        )
        return JSONResponse(Pending(detail=detail).model_dump(), HTTPStatus.ACCEPTED)  # type: ignore[return-value]

    @app.post("/unsubscribe", responses=_REFUSED)
    async def unsubscribe(subscription: Unsubscription) -> Done:
        await manager.unsubscribe(subscription.instrument)
        return Done()

    @app.get("/subscriptions")
    async def subscriptions() -> dict[str, list[Listed]]:
        return {
            channel: [Listed(**entry) for entry in entries] for channel, entries in manager.listed().items()
        }

    @app.get("/health", responses={503: {"model": Health, "description": "something is down"}})
    async def health() -> Health:
        down = manager.down()
        answer = Health(status="down" if down else "ok", down=down, dropped=manager.publisher.dropped)
        if down:
            return JSONResponse(answer.model_dump(), HTTPStatus.SERVICE_UNAVAILABLE)  # type: ignore[return-value]
        return answer

    return app


async def _invalid_body(_request: Request, error: Exception) -> JSONResponse:
    # The input is not repeated: it may hold what JSON can spell and UTF-8 can't.
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    detail = [{name: problem[name] for name in ("type", "loc", "msg")} for problem in problems]
    return JSONResponse({"detail": detail}, HTTPStatus.UNPROCESSABLE_ENTITY)


async def _http_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AnyHTTPException)  # noqa: S101 - what this handler is registered for
    if isinstance(error.__cause__, UnicodeDecodeError | RecursionError):
        # FastAPI names these 400; they are bodies that are no JSON like any other.
        detail = [{"type": "json_invalid", "loc": ["body"], "msg": "JSON decode error"}]
        return JSONResponse({"detail": detail}, HTTPStatus.UNPROCESSABLE_ENTITY)
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


class BodyLimit:
    """Refuses bodies above LARGEST_BODY with 413, having read them so that the client hears it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = bytearray()
        length = 0
        more = True
        while more and length <= LARGEST_DISCARDED:
            message = await receive()
            if message["type"] != "http.request":
                return
            chunk = message.get("body", b"")
            length += len(chunk)
            if length <= LARGEST_BODY:
                body += chunk
            more = message.get("more_body", False)
        if length > LARGEST_BODY:
            detail = f"expected a body of at most {LARGEST_BODY} bytes"
            await JSONResponse({"detail": detail}, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)(scope, receive, send)
            return
        whole: Message | None = {"type": "http.request", "body": bytes(body), "more_body": False}

        async def replay() -> Message:
            nonlocal whole
            message, whole = whole, None
            return message if message is not None else await receive()

        await self._app(scope, replay, send)
