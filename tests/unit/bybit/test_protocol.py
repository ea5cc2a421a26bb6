"""Frames, URLs and depths of Bybit's public streams."""

from __future__ import annotations

import asyncio

import pytest

from blackbird.bybit.protocol import InvalidFrame, check_url, served_depth, stream_url
from blackbird.bybit.topic import Topic
from blackbird.market.instrument import Instrument


@pytest.mark.parametrize(
    ("channel", "asked", "served"),
    [("spot", 1, 1), ("linear", 50, 50), ("inverse", 1000, 1000), ("option", 1, 25), ("option", 200, 100)],
)
def test_the_depth_is_the_nearest_that_the_channel_has(channel: str, asked: int, served: int) -> None:
    assert served_depth(channel, asked) == served


@pytest.mark.parametrize(
    "url", ["ws://127.0.0.1:9500", "wss://stream.bybit.com", "ws://[::1]:80/base", "wss://h", "ws://{x}:1"]
)
def test_valid_base_urls_are_accepted(url: str) -> None:
    check_url(url)
    assert stream_url(url, "spot") == f"{url}/v5/public/spot"


@pytest.mark.parametrize(
    "url",
    [
        "ws:///x",
        "ws://",
        "ws:",
        "ws",
        "127.0.0.1:1",
        "http://host",
        "ws://host:99999",
        "ws://host:0",
        "ws://host:port",
        "ws://:9500",
        "ws://[::1",
        "ws://host/?a=b",
        "ws://host#x",
        "ws://ho st",
        "wss://höst",
    ],
)
def test_an_invalid_base_url_is_an_error_that_shows_it(url: str) -> None:
    with pytest.raises(ValueError) as error:
        check_url(url)
    assert repr(url) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "frame",
    [
        b"hello",
        b"[]",
        b"5",
        b"null",
        b"",
        b"{}",
        b'{"topic":"orderbook.50.X","type":"del',
        b'{"topic":"orderbook.50.X","type":"delta","ts":NaN}',
        b'{"topic":"orderbook.50.X","type":"delta","ts":1,"data":{}}',
        b'{"topic":"orderbook.50.X","type":"delta","ts":1,"data":{"u":-1}}',
        b'{"topic":"orderbook.50.X","type":"other","ts":1,"data":{"u":1}}',
        b'{"topic":"orderbook.50.X","type":"delta","ts":1}',
        b'{"op":"something"}',
        b"\xff\xfe",
        b'{"topic":' + b"[" * 100_000,
    ],
    ids=lambda frame: repr(frame[:60]),
)
def test_frames_the_exchange_does_not_send_are_invalid(frame: bytes) -> None:
    async def act() -> None:
        pushes: list[object] = []
        topic = Topic("orderbook.50.X", Instrument("spot", "X"), "a", lambda *push: pushes.append(push))
        with pytest.raises(InvalidFrame):
            topic.on_frame(frame, 1)
        assert pushes == []

    asyncio.run(act())


@pytest.mark.parametrize("frame", [b'{"topic":"orderbook.50.OTHER","data":{}}', b'{"topic":"tickers.X"}'])
def test_pushes_of_other_topics_are_ignored(frame: bytes) -> None:
    async def act() -> None:
        pushes: list[object] = []
        topic = Topic("orderbook.50.X", Instrument("spot", "X"), "a", lambda *push: pushes.append(push))
        topic.on_frame(frame, 1)
        assert pushes == []

    asyncio.run(act())
