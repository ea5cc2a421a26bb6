"""Bybit's REST interface through pybit: one request at a time on each of as many sessions as are needed.

What comes back is an answer of the exchange (a result, or a code that it refused with), or an error that says
why there was none. Nothing is sent again from here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import requests.exceptions
import urllib3.exceptions
from pybit.exceptions import FailedRequestError, InvalidRequestError
from pybit.unified_trading import HTTP

from blackbird.runtime.worker_thread import WorkerThread

logger = logging.getLogger(__name__)

Call = Callable[[HTTP], Any]

# "Terminate all HTTP sessions and wait for at least 10 minutes": https://bybit-exchange.github.io/docs/v5/rate-limit.
BAN_SECONDS = 600.0
BANNED_STATUS = 403
# What pybit makes of a reply that is not JSON.
NOT_JSON_STATUS = 409
# pybit falls back to its own retries, which sleep in this thread, on an empty set.
NO_RETRY_CODES = {999_999}
TIMEOUT_SECONDS = 2.0
# Milliseconds after its sending in which the exchange takes a request; an order has a window of its own.
RECV_WINDOW_MS = 5000
# A request that is stuck holds a thread and a connection: more of them help nobody.
MAX_SESSIONS = 64
# What pybit raises at a reply of a shape that it does not expect.
_MALFORMED = (AttributeError, TypeError, KeyError, ValueError, IndexError)


class RestError(Exception):
    """There is no result; the text says why and holds no secret."""


class Refusal(RestError):
    """The exchange answered with a `retCode` other than 0."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.code = code
        self.text = text


class HttpFailure(RestError):
    """The exchange answered with an HTTP status other than 200."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP status {status}")
        self.status = status


class NoAnswer(RestError):
    """The request was not answered, or with something that is not an answer; it may have been taken."""


class NotSent(RestError):
    """Nothing was sent: there is no connection, or the exchange has banned this address for some minutes."""


@dataclass(frozen=True)
class Credentials:
    """The key of an account. Neither it nor the secret is ever shown."""

    api_key: str
    api_secret: str

    def __repr__(self) -> str:
        return "Credentials(***)"

    def masked(self, text: str) -> str:
        """Return a text of the exchange without the key, the secret and what was signed (code 10004)."""
        text = text.partition("origin_string")[0].strip()
        for secret in (self.api_key, self.api_secret):
            text = text.replace(secret, "***") if secret else text
        return text


class Rest:
    """Sends requests, each in a thread and on a connection of its own while it is on its way.

    `requests.Session` has no lock, and a request that hangs must not delay another.
    """

    def __init__(self, url: str, credentials: Credentials, *, timeout: float = TIMEOUT_SECONDS) -> None:
        self._url = url
        self._credentials = credentials
        self._timeout = timeout
        self._idle: list[_Session] = []
        self._room = asyncio.Semaphore(MAX_SESSIONS)
        self._banned_until = 0.0

    @property
    def is_banned(self) -> bool:
        """Return whether nothing can be sent for some minutes."""
        return asyncio.get_running_loop().time() < self._banned_until

    async def call(self, call: Call) -> Mapping[str, Any]:
        """Return the `result` of a request; raises RestError."""
        async with self._room:
            if self.is_banned:
                raise NotSent("the exchange has banned this address for ten minutes (HTTP status 403)")
            session = self._idle.pop() if self._idle else self._new_session()
            try:
                return _result(await session.run(call))
            except (FailedRequestError, InvalidRequestError) as error:
                raise self._failure(error) from None
            except (requests.exceptions.RequestException, *_MALFORMED) as error:
                if _could_not_connect(error):
                    raise NotSent(f"no connection to {self._url}") from None
                raise NoAnswer(f"no answer that can be read ({type(error).__name__})") from None
            finally:
                # One that was given up is busy until its time is over.
                if not session.is_busy:
                    self._idle.append(session)

    def _new_session(self) -> _Session:
        session = HTTP(
            api_key=self._credentials.api_key,
            api_secret=self._credentials.api_secret,
            timeout=self._timeout,
            retry_codes=NO_RETRY_CODES,
        )
        session.endpoint = self._url
        return _Session(session)

    def _failure(self, error: FailedRequestError | InvalidRequestError) -> RestError:
        try:
            status = int(error.status_code)
        except (TypeError, ValueError):
            return NoAnswer("expected a whole number as retCode, was something else")
        if isinstance(error, InvalidRequestError):
            return Refusal(status, self._credentials.masked(str(error.message)))
        if status == NOT_JSON_STATUS:
            return NoAnswer("expected JSON or HTTP status 200, was neither")
        if status == BANNED_STATUS:
            self._ban()
        return HttpFailure(status)

    def _ban(self) -> None:
        self._banned_until = asyncio.get_running_loop().time() + BAN_SECONDS
        logger.error(
            "the exchange has banned this address (HTTP status 403): nothing is sent for %.0f minutes",
            BAN_SECONDS / 60,
        )


def _result(answer: object) -> Mapping[str, Any]:
    """Return the result of an answer that pybit found no fault with, which takes `{}` for one."""
    if not isinstance(answer, dict) or answer.get("retCode") != 0:
        raise NoAnswer("expected an answer with retCode 0, was of another shape")
    result = answer.get("result")
    if not isinstance(result, dict):
        raise NoAnswer("expected an answer with a result, was without")
    return result


def _could_not_connect(error: Exception) -> bool:
    """Return whether there was no connection, so that nothing can have been sent on it."""
    cause = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(cause, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError)


class _Session:
    """One HTTP session with the thread that uses it."""

    def __init__(self, http: HTTP) -> None:
        self.is_busy = False
        self._http = http
        self._thread = WorkerThread("bybit rest")

    async def run(self, call: Call) -> Any:
        """Return what `call` returns, or raise what it raises."""
        self.is_busy = True
        return await self._thread.run(lambda: self._work(call))

    def _work(self, call: Call) -> Any:
        try:
            self._http.recv_window = RECV_WINDOW_MS
            return call(self._http)
        finally:
            self.is_busy = False
