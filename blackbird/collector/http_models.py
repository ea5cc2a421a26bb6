"""Bodies and answers of the collector's HTTP side."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field

from blackbird.market.instrument import CHANNELS


def _without_control_characters(text: str) -> str:
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in text):
        raise ValueError("expected no control characters")
    return text


_Name = Annotated[
    str,
    Field(min_length=1, max_length=64, json_schema_extra={"pattern": r"^[^\u0000-\u001f\u007f-\u009f]+$"}),
    AfterValidator(_without_control_characters),
]
# An unknown channel is a 400 of its own, not a 422: the description says which there are.
_ChannelName = Annotated[_Name, Field(json_schema_extra={"enum": list(CHANNELS)})]


class Unsubscription(BaseModel):
    """An instrument: a symbol on a channel."""

    symbol: _Name = Field(examples=["BTCUSDT"])
    channel: _ChannelName


class Subscription(Unsubscription):
    """An instrument and the group that it trades in."""

    matching_key: _Name = Field(examples=["a"])


_Warning = Annotated[
    str | None,
    Field(
        description="how many open spreads, and how much exposure, can't be closed meanwhile; "
        "or why the trading engine could not be asked for them"
    ),
]
_Key = Annotated[str | None, Field(description="with a warning: the key that now holds")]
_PreviousKey = Annotated[str | None, Field(description="with a warning: the key that held before")]


class Done(BaseModel):
    """The change holds in the collector. Fields that do not apply are left out."""

    status: Literal["ok"] = "ok"
    detail: str | None = Field(
        default=None, description="why the other services have not learned of the change yet; it is kept"
    )
    warning: _Warning = None
    matching_key: _Key = None
    previous_matching_key: _PreviousKey = None


class Pending(BaseModel):
    """The change is kept, and takes effect once the exchange can be reached."""

    status: Literal["pending"] = "pending"
    detail: str
    warning: _Warning = None
    matching_key: _Key = None
    previous_matching_key: _PreviousKey = None


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str


class Listed(BaseModel):
    """A subscription of a channel."""

    symbol: str
    matching_key: str


class CollectorHealth(BaseModel):
    """The collector's own part: the exchange's streams, and its connection to RabbitMQ."""

    down: list[str]
    rabbitmq: Literal["connected", "blocked (memory or disk alarm)", "not connected"]
    subscriptions: int
    unpublished: int = Field(description="pushes that RabbitMQ has not confirmed yet")


class QueueHealth(BaseModel):
    """A queue as it was last seen."""

    consumers: int
    messages: int = Field(description="ready for delivery, without those that a consumer holds")
    dead_letters: int = Field(description="messages in the dead-letter queue of this queue")


class SystemHealth(BaseModel):
    """The other services, by the queues that they consume."""

    down: list[str]
    age_ms: int | None = Field(description="how long ago the queues were seen; null: not yet")
    queues: dict[str, QueueHealth]


class Health(BaseModel):
    """Whether the whole system works, and what does not."""

    status: Literal["ok", "down"]
    down: list[str] = Field(description="everything that is down: the collector's part, then the others'")
    dropped: int = Field(description="pushes that were dropped because RabbitMQ did not take them")
    collector: CollectorHealth
    seen_through_broker: SystemHealth
