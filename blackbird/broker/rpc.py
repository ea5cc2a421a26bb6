"""Waiting for answers of the broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pika.exceptions

from blackbird.broker.errors import SessionLost

# Calls one of pika's methods with a callback for the broker's answer.
Call = Callable[[Callable[..., None]], Any]


class Rpc:
    """Calls of pika's methods whose answers are awaited, for as long as the session is not `lost`."""

    def __init__(self, lost: asyncio.Future[None]) -> None:
        self._lost = lost

    async def __call__(self, call: Call) -> Any:
        """Return the first argument of the callback that `call` is given; raises SessionLost."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def resolve(*frames: Any) -> None:
            if not answer.done():
                answer.set_result(frames[0] if frames else None)

        try:
            call(resolve)
        except pika.exceptions.AMQPError as error:
            raise SessionLost(str(error) or type(error).__name__) from None
        await asyncio.wait([answer, self._lost], return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        self._lost.result()
        raise SessionLost("closed")
