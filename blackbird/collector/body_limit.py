"""A limit on the size of request bodies."""

from __future__ import annotations

from http import HTTPStatus

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 64 * 1024
LARGEST_DISCARDED = 64 * 1024 * 1024


class BodyLimit:
    """Refuses bodies above LARGEST_BODY with 413, having read them so that the client gets the answer."""

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
