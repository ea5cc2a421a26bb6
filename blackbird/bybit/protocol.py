"""Bybit's public WebSocket protocol, as far as order books need it: URLs, topics, requests, answers.

Source: https://bybit-exchange.github.io/docs/v5/ws/connect and .../v5/websocket/public/orderbook.
"""

from __future__ import annotations

import json
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from blackbird.market.instrument import CHANNELS

MAINNET = "wss://stream.bybit.com"
TESTNET = "wss://stream-testnet.bybit.com"
DEPTHS = {channel: (25, 100) if channel == "option" else (1, 50, 200, 1000) for channel in CHANNELS}
PING = json.dumps({"op": "ping"})
# What the linear channel says to a topic that this socket has already; the text of the others is not known.
ALREADY_SUBSCRIBED = "already subscribed"


class InvalidFrame(ValueError):
    """A frame that the exchange does not send."""


def check_url(url: str) -> None:
    """Raise ValueError with what was expected unless `url` is the base URL of a WebSocket server."""
    expected = f"expected ws://... or wss://..., was {url!r}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{expected} ({error})") from None
    if parts.scheme not in {"ws", "wss"}:
        raise ValueError(expected)
    if not parts.hostname or port == 0:
        raise ValueError(f"{expected} (no {'port' if parts.hostname else 'host'})")
    if parts.query or parts.fragment or not url.isascii() or any(each.isspace() for each in url):
        raise ValueError(f"{expected} (a base URL: /v5/public/... is appended)")


def stream_url(base: str, channel: str) -> str:
    """Return the URL of a channel's public stream."""
    return f"{base}/v5/public/{channel}"


def served_depth(channel: str, asked: int) -> int:
    """Return the depth that a channel serves and that is nearest to the one asked for."""
    return min(DEPTHS[channel], key=lambda served: abs(served - asked))


class Data(msgspec.Struct, frozen=True, gc=False):
    """What the collector has to know of a frame's `data`."""

    u: int = -1
    fail_topics: list[str] = msgspec.field(default_factory=list, name="failTopics")


class Head(msgspec.Struct, frozen=True, gc=False):
    """What the collector has to know of a frame: a push has a topic, an answer has `success`."""

    topic: str = ""
    type: str = ""
    ts: object = 0
    op: str = ""
    success: bool | None = None
    ret_msg: str = ""
    req_id: str | None = None
    data: Data | None = None

    @property
    def is_pong(self) -> bool:
        """Whether it answers a ping; spot and linear answer in other words than option."""
        return self.op in {"pong", "ping"} or self.ret_msg == "pong"

    @property
    def is_book(self) -> bool:
        """Whether it is an order book's snapshot or delta."""
        return self.data is not None and self.data.u >= 0 and self.type in {"snapshot", "delta"}


_decode = msgspec.json.Decoder(Head).decode


def decode_head(frame: bytes) -> Head:
    """Return the head of a text frame; raises InvalidFrame."""
    try:
        return _decode(frame)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidFrame(str(error)) from None


class Answer(NamedTuple):
    """What the exchange answered to a request."""

    accepted: bool
    reason: str


def request(op: str, req_id: str, topic: str) -> str:
    """Return the frame of a request about one topic."""
    return json.dumps({"op": op, "req_id": req_id, "args": [topic]})
