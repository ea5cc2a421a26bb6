"""The collector's HTTP side: its requests, their answers, and the OpenAPI description of both."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Protocol

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException as AnyHTTPException

from blackbird.bybit.stream import SubscriptionStatus
from blackbird.collector.body_limit import BodyLimit
from blackbird.collector.http_models import (
    CollectorHealth,
    Done,
    Health,
    Listed,
    Pending,
    Problem,
    QueueHealth,
    Subscription,
    SystemHealth,
    Unsubscription,
)
from blackbird.collector.publisher import BrokerState
from blackbird.collector.stranded_spreads import stranded_spreads, stranded_warning
from blackbird.collector.system_view import EngineNotAsked, QueueDepth
from blackbird.market.instrument import CHANNELS, IncompatibleUnits, Instrument, check_units
from blackbird.trading.orders import OpenSpread

logger = logging.getLogger(__name__)


class Publishing(Protocol):
    """What the collector has handed to RabbitMQ, and what not."""

    @property
    def dropped(self) -> int:
        """How many pushes were dropped."""

    @property
    def backlog(self) -> int:
        """How many pushes RabbitMQ has not confirmed."""

    @property
    def state(self) -> BrokerState:
        """Whether RabbitMQ takes messages."""


class Feeds(Protocol):
    """The subscriptions and their streams (FeedManager)."""

    @property
    def matching_key(self) -> Mapping[tuple[str, str], str]:
        """The matching key of each subscribed instrument."""

    @property
    def is_saved(self) -> bool:
        """Whether RabbitMQ has the subscriptions as they are."""

    def group(self, matching_key: str) -> list[Instrument]:
        """Return the instruments with this matching key, those without an answer of the exchange included."""

    async def subscribe(self, instrument: Instrument, matching_key: str) -> tuple[SubscriptionStatus, str]:
        """Subscribe, and return what the exchange answered and why."""

    async def unsubscribe(self, instrument: Instrument) -> None:
        """End a subscription."""

    def listed(self) -> dict[str, list[dict[str, str]]]:
        """Return the subscriptions by channel."""

    def down(self) -> list[str]:
        """Return which subscriptions are not served, each with the reason."""


class System(Protocol):
    """The other services as seen through the broker (SystemView)."""

    @property
    def age(self) -> float | None:
        """Seconds since the queues were seen."""

    @property
    def queues(self) -> Mapping[str, QueueDepth]:
        """The queues when they were last seen."""

    def down(self) -> list[str]:
        """Return what does not work."""

    async def open_spreads(self) -> Sequence[OpenSpread]:
        """Return what is open; raises EngineNotAsked."""


_BROKER_DOWN: Mapping[BrokerState, list[str]] = {
    BrokerState.CONNECTED: [],
    BrokerState.BLOCKED: [f"RabbitMQ: {BrokerState.BLOCKED.value}"],
    BrokerState.NOT_CONNECTED: ["RabbitMQ"],
}
_REFUSED: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "unknown channel"},
    413: {"model": Problem, "description": "body too large"},
}
_SUBSCRIBE: dict[int | str, dict[str, Any]] = {
    **_REFUSED,
    400: {
        "model": Problem,
        "description": "unknown channel, refused by the exchange, or sizes in other units than the group's",
    },
    202: {"model": Pending, "description": "kept until the exchange can be reached"},
}
_HEALTH: dict[int | str, dict[str, Any]] = {503: {"model": Health, "description": "something is down"}}


def create_app(feeds: Feeds, publisher: Publishing, system: System, *, may_subscribe: bool = True) -> FastAPI:
    """Return the HTTP side of `feeds`, with the health of these, of `publisher` and of what `system` sees.

    Without `may_subscribe` the subscriptions are another collector's, and only shown. Its pages load nothing
    from anywhere else: /docs brings its own files.
    """
    app = FastAPIOffline(
        title="Blackbird market data collector",
        version="1",
        redoc_url=None,
        # Else the page would have the description checked by a server on the internet.
        swagger_ui_parameters={"validatorUrl": None},
    )
    app.add_middleware(BodyLimit)
    app.add_exception_handler(RequestValidationError, _invalid_body)
    app.add_exception_handler(AnyHTTPException, _http_error)
    api = CollectorApi(feeds, publisher, system)
    if may_subscribe:
        app.post("/subscribe", response_model=Done, responses=_SUBSCRIBE, response_model_exclude_none=True)(
            api.subscribe
        )
        app.post("/unsubscribe", response_model=Done, responses=_REFUSED, response_model_exclude_none=True)(
            api.unsubscribe
        )
    app.get("/subscriptions")(api.subscriptions)
    app.get("/health", responses=_HEALTH)(api.health)
    return app


class CollectorApi:
    """The operations."""

    def __init__(self, feeds: Feeds, publisher: Publishing, system: System) -> None:
        self._feeds = feeds
        self._publisher = publisher
        self._system = system

    async def subscribe(self, subscription: Subscription) -> Done | JSONResponse:
        """Subscribe to an instrument's order book, or give a subscribed one another matching key."""
        instrument, key = _instrument(subscription), subscription.matching_key
        previous = self._feeds.matching_key.get(instrument)
        if previous != key:
            self._check_units(instrument, key)
        status, reason = await self._feeds.subscribe(instrument, key)
        refused = status is SubscriptionStatus.REFUSED
        if refused and instrument not in self._feeds.matching_key:
            raise HTTPException(HTTPStatus.BAD_REQUEST, f"the exchange refuses {instrument}: {reason}")
        extra: dict[str, Any] = {}
        if previous not in (None, key) and (warning := await self._stranded(instrument)):
            extra = {"warning": warning, "matching_key": key, "previous_matching_key": previous}
        if status is SubscriptionStatus.ACCEPTED:
            return Done(detail=self._unsaved(), **extra)
        trouble = "refuses it at present" if refused else "can't be reached"
        detail = f"{instrument} is kept, the exchange {trouble}: {reason or status.value}"
        if unsaved := self._unsaved():
            detail += f"; {unsaved}"
        pending = Pending(detail=detail, **extra)
        return JSONResponse(pending.model_dump(exclude_none=True), HTTPStatus.ACCEPTED)

    async def unsubscribe(self, subscription: Unsubscription) -> Done:
        """End the subscription of an instrument, if there is one."""
        instrument = _instrument(subscription)
        subscribed = instrument in self._feeds.matching_key
        await self._feeds.unsubscribe(instrument)
        warning = await self._stranded(instrument) if subscribed else None
        return Done(detail=self._unsaved(), warning=warning)

    async def subscriptions(self) -> dict[str, list[Listed]]:
        """Return the subscriptions by channel."""
        return {
            channel: [Listed(**entry) for entry in entries]
            for channel, entries in self._feeds.listed().items()
        }

    async def health(self, response: Response) -> Health:
        """Return whether the whole system works: the collector's part, and the services behind RabbitMQ."""
        state = self._publisher.state
        own = CollectorHealth(
            down=_BROKER_DOWN[state] + self._feeds.down(),
            rabbitmq=state.value,
            subscriptions=len(self._feeds.matching_key),
            unpublished=self._publisher.backlog,
        )
        age = self._system.age
        others = SystemHealth(
            # Without a broker the others can't be seen: it is what is down.
            down=[] if state is BrokerState.NOT_CONNECTED else self._system.down(),
            age_ms=None if age is None else round(age * 1000),
            queues={
                name: QueueHealth(
                    consumers=queue.consumers, messages=queue.messages, dead_letters=queue.dead_letters
                )
                for name, queue in self._system.queues.items()
            },
        )
        down = own.down + others.down
        if down:
            response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
        return Health(
            status="down" if down else "ok",
            down=down,
            dropped=self._publisher.dropped,
            collector=own,
            seen_through_broker=others,
        )

    def _check_units(self, instrument: Instrument, matching_key: str) -> None:
        """Refuse an instrument whose sizes count something else than those of its group."""
        for member in self._feeds.group(matching_key):
            if member != instrument:
                try:
                    check_units(instrument, member)
                except IncompatibleUnits as error:
                    detail = f"{instrument} does not fit the group {matching_key!r}: {error}"
                    raise HTTPException(HTTPStatus.BAD_REQUEST, detail) from None

    async def _stranded(self, instrument: Instrument) -> str | None:
        """Return, and log, a warning where open spreads of a moved or ended instrument can't be closed."""
        try:
            spreads = stranded_spreads(await self._open_spreads(), instrument, self._feeds.matching_key)
        except EngineNotAsked as error:
            warning = (
                f"open spreads of {instrument}, if any, can't be closed meanwhile: "
                f"the trading engine could not be asked for them ({error})"
            )
        else:
            if not spreads:
                return None
            warning = stranded_warning(spreads, instrument)
        logger.warning("%s", warning)
        return warning

    async def _open_spreads(self) -> Sequence[OpenSpread]:
        # A question sent while the broker blocks publishers would only block the view's connection too.
        state = self._publisher.state
        if state is not BrokerState.CONNECTED:
            raise EngineNotAsked(f"RabbitMQ: {state.value}")
        return await self._system.open_spreads()

    def _unsaved(self) -> str | None:
        """Return what to add to an answer while RabbitMQ does not have the subscriptions as they are."""
        if self._feeds.is_saved:
            return None
        state = self._publisher.state
        reason = "not confirmed yet" if state is BrokerState.CONNECTED else state.value
        return (
            f"kept by the collector until RabbitMQ takes it ({reason}); the other services learn of it then"
        )


def _instrument(subscription: Unsubscription) -> Instrument:
    if subscription.channel not in CHANNELS:
        raise HTTPException(
            HTTPStatus.BAD_REQUEST,
            f"unknown channel {subscription.channel!r}: expected one of {', '.join(CHANNELS)}",
        )
    return Instrument(subscription.channel, subscription.symbol)


async def _invalid_body(_request: Request, error: Exception) -> JSONResponse:
    # The input is not repeated: it may hold what JSON can spell and UTF-8 can't.
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    detail = [{name: problem[name] for name in ("type", "loc", "msg")} for problem in problems]
    return JSONResponse({"detail": detail}, HTTPStatus.UNPROCESSABLE_ENTITY)


async def _http_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AnyHTTPException)  # noqa: S101 - what this handler is registered for
    if isinstance(error.__cause__, UnicodeDecodeError | RecursionError):
        # FastAPI answers these with 400; they are malformed bodies like any other.
        detail = [{"type": "json_invalid", "loc": ["body"], "msg": "JSON decode error"}]
        return JSONResponse({"detail": detail}, HTTPStatus.UNPROCESSABLE_ENTITY)
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)
