"""Routes of the control interface: arguments from query and body, JSON out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


def json_route(method: str, path: str, handler: Callable[[dict[str, Any]], Any]) -> Route:
    """Return a route whose handler gets query and JSON body as one dict, and returns what JSON can hold."""

    async def endpoint(request: Request) -> JSONResponse:
        return JSONResponse(handler(await given_by(request)))

    return Route(path, endpoint, methods=[method])


async def given_by(request: Request) -> dict[str, Any]:
    """Return the arguments of a request.

    Raises:
        HTTPException: the body is not a JSON object.
    """
    given: dict[str, Any] = dict(request.query_params)
    body = await request.body()
    if body.strip():
        try:
            parsed = json.loads(body)
        except ValueError as error:
            raise HTTPException(400, f"expected JSON, was {error}") from error
        if not isinstance(parsed, dict):
            raise HTTPException(400, "expected a JSON object")
        given |= parsed
    return given
