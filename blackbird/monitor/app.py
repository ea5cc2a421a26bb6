"""The monitor's HTTP side: the page, its stream, its files, and the metrics. GET only."""

from __future__ import annotations

import mimetypes
from collections.abc import AsyncIterator, Callable, Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Protocol

from fastapi import FastAPI, HTTPException, Response
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.types import ASGIApp, Receive, Scope, Send

ASSETS = Path(__file__).resolve().parent / "static"
UPLOT = Path(__file__).resolve().parents[1] / "assets" / "uplot"
# Nothing else than these is served.
FILES = {
    "page.css": ASSETS / "page.css",
    "page.js": ASSETS / "page.js",
    "icon.svg": ASSETS / "icon.svg",
    "uplot/uPlot.iife.min.js": UPLOT / "uPlot.iife.min.js",
    "uplot/uPlot.min.css": UPLOT / "uPlot.min.css",
    "uplot/LICENSE": UPLOT / "LICENSE",
}
# The browser's wait before it connects again, in milliseconds; its own is about 3 s.
RECONNECT_MS = 1000
LONGEST_KEY = 200

_HEADERS = {
    # The page's bars have their width in an attribute; uPlot sets styles from its script, which this allows.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " style-src-attr 'unsafe-inline'; img-src 'self'; connect-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # After an update the browser asks again, and is answered 304 where nothing changed.
    "Cache-Control": "no-cache",
}


class Feed(Protocol):
    """What the page is filled from (PageFeed)."""

    def follow(self, key: str) -> AsyncIterator[tuple[str, str]]:
        """Yield event and data for as long as the viewer stays."""


class Gate:
    """Lets pass GET requests for one of the `hosts`, by name without port.

    A page of another site could otherwise have its own name resolve to this machine and read what is shown
    here (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        self._app = app
        self._hosts = {host.lower().strip("[]") for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it."""
        if scope["type"] != "http":
            return
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or _name(hosts[0].decode("latin-1")) not in self._hosts:
            answer = PlainTextResponse("unknown host; see MONITOR_ALLOWED_HOSTS\n", HTTPStatus.BAD_REQUEST)
        elif scope["method"] != "GET":
            answer = PlainTextResponse(
                "the monitor only reads\n", HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET"}
            )
        else:
            await self._app(scope, receive, send)
            return
        await answer(scope, receive, send)


def _name(host: str) -> str:
    """Return the name in a Host header, in lower case: without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def create_app(page: str, feed: Feed, metrics: Callable[[], bytes], hosts: Iterable[str]) -> ASGIApp:
    """Return the HTTP side: `page` at /, its events at /events, `metrics` at /metrics."""
    app = FastAPI(title="Blackbird monitor", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/")
    async def show() -> HTMLResponse:
        return HTMLResponse(page, headers=_HEADERS)

    @app.get("/events", response_class=EventSourceResponse)
    async def events(pair: str = "") -> AsyncIterator[ServerSentEvent]:
        yield ServerSentEvent(comment="hello", retry=RECONNECT_MS)
        async for event, data in feed.follow(pair[:LONGEST_KEY]):
            yield ServerSentEvent(raw_data=data, event=event)

    @app.get("/assets/{name:path}")
    async def asset(name: str) -> FileResponse:
        if name not in FILES:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        kind = mimetypes.guess_type(name)[0] or "text/plain"
        return FileResponse(FILES[name], media_type=kind, headers=_HEADERS)

    @app.get("/metrics")
    async def show_metrics() -> Response:
        return Response(metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return Gate(app, hosts)
