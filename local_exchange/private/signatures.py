"""API key, signature and time window of a request.

https://bybit-exchange.github.io/docs/v5/guide: the signed text is timestamp, key, receive window, and then
the query string of a GET or the body of a POST, both as they are on the wire.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from local_exchange.private.api import ApiError, ExchangeClock

RECV_WINDOW_MS = 5000
# A request may be this far ahead of the exchange's clock, whatever its window.
MOST_AHEAD_MS = 1000


@dataclass(frozen=True)
class Signed:
    """When a request was made, and for how long it is good; milliseconds."""

    timestamp: int
    recv_window: int


def sign(secret: str, text: bytes) -> str:
    """Return the signature of a text: HMAC-SHA256 in lower-case hexadecimal."""
    return hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()


class Signatures:
    """Checks what claims to come from the one API key."""

    def __init__(self, api_key: str, api_secret: str, clock: ExchangeClock) -> None:
        self._api_key = api_key
        self._api_secret = api_secret
        self._clock = clock
        # Requests with a key or a signature that is not right.
        self.refused = 0

    def check(self, headers: Mapping[str, str], payload: bytes) -> Signed:
        """Check a REST request; `payload` is its query string or its body.

        Raises:
            ApiError: headers are missing (HTTP 401), key (10003), signature (10004) or time (10002) is wrong.
        """
        key, timestamp = headers.get("x-bapi-api-key"), headers.get("x-bapi-timestamp")
        signature = headers.get("x-bapi-sign")
        window = headers.get("x-bapi-recv-window", str(RECV_WINDOW_MS))
        if key is None or timestamp is None or signature is None:
            self.refused += 1
            # The status is documented, code and text are not confirmed.
            raise ApiError(10001, "empty value: apiTimestamp[] apiKey[] apiSignature[]", 401)
        if key != self._api_key:
            self.refused += 1
            raise ApiError(10003, "API key is invalid.")
        text = f"{timestamp}{key}{window}".encode() + payload
        if not hmac.compare_digest(signature, sign(self._api_secret, text)):
            self.refused += 1
            raise ApiError(10004, f"error sign! origin_string[{text.decode(errors='replace')}]")
        if not timestamp.isdecimal() or not window.isdecimal():
            # Not confirmed.
            raise ApiError(10001, "params error: timestamp or recv_window is not a number")
        return self._check_time(int(timestamp), int(window))

    def _check_time(self, timestamp: int, window: int) -> Signed:
        server = self._clock.ms()
        if not server - window <= timestamp < server + MOST_AHEAD_MS:
            raise ApiError(
                10002,
                "invalid request, please check your server timestamp or recv_window param. req_timestamp"
                f"[{timestamp}],server_timestamp[{server}],recv_window[{window}]",
            )
        return Signed(timestamp, window)

    def allows(self, args: object) -> bool:
        """Return whether the args of an `auth` request are right: key, expiry in ms, signature.

        https://bybit-exchange.github.io/docs/v5/ws/connect: the expiry is in the future, and `GET/realtime`
        followed by it is what is signed.
        """
        if not isinstance(args, list) or len(args) != 3 or not isinstance(args[1], int):
            return False
        key, expires, signature = args
        expected = sign(self._api_secret, f"GET/realtime{expires}".encode())
        right = key == self._api_key and isinstance(signature, str)
        right = right and hmac.compare_digest(signature, expected) and expires > self._clock.ms()
        if not right:
            self.refused += 1
        return right
