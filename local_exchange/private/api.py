"""What all of the REST interface has in common: the envelope, and a request that is refused."""

from __future__ import annotations

import time
from typing import Any

from starlette.responses import JSONResponse

UID = 100000001
CREATE = "/v5/order/create"


class ApiError(Exception):
    """A request that is refused: `retCode`, `retMsg`, and the HTTP status with them.

    Codes and texts: https://bybit-exchange.github.io/docs/v5/error; texts that differ there are those of live
    answers. One that is known from neither is marked "not confirmed" where it is raised.
    """

    def __init__(self, code: int, text: str, status: int = 200) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text
        self.status = status


class ExchangeClock:
    """The time of the exchange, which a fault may set off from that of the machine."""

    def __init__(self) -> None:
        self.offset_ms = 0

    def ns(self) -> int:
        """Return nanoseconds since 1970."""
        return time.time_ns() + self.offset_ms * 1_000_000

    def ms(self) -> int:
        """Return milliseconds since 1970."""
        return self.ns() // 1_000_000


def envelope(
    clock: ExchangeClock, result: dict[str, Any], code: int = 0, text: str = "OK", status: int = 200
) -> JSONResponse:
    """Return an answer in the envelope of every reply (https://bybit-exchange.github.io/docs/v5/guide)."""
    body = {"retCode": code, "retMsg": text, "result": result, "retExtInfo": {}, "time": clock.ms()}
    return JSONResponse(body, status)
