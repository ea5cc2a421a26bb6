from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.types import ASGIApp

from blackbird.monitor.app import FILES, create_app

HOSTS = ("localhost", "127.0.0.1", "::1")


class OneEvent:
    """Two events, then the end."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    async def follow(self, key: str) -> AsyncIterator[tuple[str, str]]:
        self.keys.append(key)
        yield "snapshot", '{"now":1}'
        yield "charts", "{}"


@pytest.fixture
def feed() -> OneEvent:
    return OneEvent()


@pytest.fixture
def app(feed: OneEvent) -> ASGIApp:
    return create_app("<p>page", feed, lambda: b"up 1\n", HOSTS)


def ask(app: ASGIApp, path: str, method: str = "GET", host: str = "127.0.0.1:8001") -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, path, headers={"Host": host})

    return asyncio.run(send())


@pytest.mark.parametrize("host", ["localhost:8001", "LOCALHOST", "127.0.0.1", "[::1]:8001", "[::1]"])
def test_the_page_is_shown_under_the_names_of_this_machine(app: ASGIApp, host: str) -> None:
    answer = ask(app, "/", host=host)
    assert (answer.status_code, answer.text) == (200, "<p>page")
    assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "127.0.0.1@evil.example"])
@pytest.mark.parametrize("path", ["/", "/events", "/metrics", "/assets/page.js"])
def test_another_name_is_refused(app: ASGIApp, host: str, path: str) -> None:
    assert ask(app, path, host=host).status_code == 400


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/events", "/metrics"])
def test_nothing_but_get_is_answered(app: ASGIApp, method: str, path: str) -> None:
    assert ask(app, path, method).status_code == 405


def test_the_stream_says_when_to_come_back_and_hands_on_the_events(app: ASGIApp, feed: OneEvent) -> None:
    answer = ask(app, "/events?pair=linear:A,spot:B")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "retry: 1000\n" in answer.text
    assert 'event: snapshot\ndata: {"now":1}\n\n' in answer.text
    assert feed.keys == ["linear:A,spot:B"]


@pytest.mark.parametrize("name", FILES)
def test_the_files_of_the_page_are_served(app: ASGIApp, name: str) -> None:
    answer = ask(app, f"/assets/{name}")
    assert answer.status_code == 200
    assert answer.content == FILES[name].read_bytes()


@pytest.mark.parametrize(
    "path", ["/assets/../app.py", "/assets/%2e%2e/app.py", "/assets/page.html", "/docs", "/openapi.json"]
)
def test_no_other_file_is(app: ASGIApp, path: str) -> None:
    assert ask(app, path).status_code == 404


def test_the_script_stays_small_enough_to_be_read() -> None:
    assert len(FILES["page.js"].read_text().splitlines()) <= 150


def test_the_metrics_are_text(app: ASGIApp) -> None:
    answer = ask(app, "/metrics")
    assert answer.text == "up 1\n"
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
