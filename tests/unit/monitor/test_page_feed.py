from __future__ import annotations

import asyncio
from typing import cast

import pytest

from blackbird.monitor import page_feed
from blackbird.monitor.page_feed import PageFeed
from blackbird.monitor.sources import Sources


class CountingPage:
    def __init__(self) -> None:
        self.made: list[str] = []

    def snapshot(self, sources: Sources, key: str, now_ms: int) -> str:
        del sources, now_ms
        self.made.append(key)
        return f"{key} {len(self.made)}"

    def charts(self, sources: Sources, key: str) -> str:
        del sources
        return f"charts {key}"


def new_feed(page: CountingPage) -> PageFeed:
    return PageFeed(page, lambda: cast("Sources", None), lambda: 0)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_feed, "INTERVAL_SECONDS", 0.001)


def test_a_turn_is_rendered_once_for_all_who_look_at_the_same() -> None:
    async def look() -> None:
        page = CountingPage()
        feed = new_feed(page)
        first, second, other = feed.follow("a"), feed.follow("a"), feed.follow("b")
        assert await anext(first) == await anext(second) == ("snapshot", "a 1")
        assert await anext(other) == ("snapshot", "b 2")
        assert await anext(first) == ("charts", "charts a")
        assert feed.viewers == 3
        for each in (first, second, other):
            await each.aclose()  # type: ignore[attr-defined]
        assert feed.viewers == 0

    asyncio.run(look())


def test_each_turn_brings_the_newest_and_nothing_is_made_unwatched() -> None:
    async def look() -> None:
        page = CountingPage()
        feed = new_feed(page)
        turning = asyncio.create_task(feed.run())
        viewer = feed.follow("a")
        events = [await anext(viewer) for _ in range(8)]
        texts = [text for event, text in events if event == "snapshot"]
        assert len(set(texts)) == len(texts) >= 4
        assert sum(event == "charts" for event, _ in events) >= 2
        await viewer.aclose()  # type: ignore[attr-defined]
        made = len(page.made)
        await asyncio.sleep(0.02)
        assert len(page.made) == made
        turning.cancel()

    asyncio.run(look())
