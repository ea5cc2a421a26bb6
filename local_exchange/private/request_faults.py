"""Faults of requests and orders, on demand."""

from __future__ import annotations

from typing import Any

from local_exchange.fault_rules import FaultError, FaultRules, Rule, check_choice, check_numbers
from local_exchange.private.api import CREATE
from local_exchange.private.stream import CHANNEL

# What a rule can be narrowed to beyond channel and symbol, and by which share, count or time.
FACTS = ("path", "side", "link")
LIMITS = ("share", "count", "seconds")
MALFORMED = {
    "not_json": b"<html>502 Bad Gateway</html>",
    "json_list": b"[1,2,3]",
    "json_null": b"null",
    "empty_object": b"{}",
}


class StandingFaults:
    """Faults that stand, narrowed as the module `local_exchange.private.faults` says."""

    def __init__(self, rules: FaultRules) -> None:
        self._rules = rules

    def _stand(self, name: str, narrow: dict[str, Any], **given: Any) -> int:
        unknown = set(narrow) - {"channel", "symbol", *FACTS, *LIMITS}
        if unknown:
            raise FaultError(f"expected channel, symbol, {', '.join(FACTS + LIMITS)}, was {unknown}")
        only = {fact: str(narrow[fact]) for fact in FACTS if fact in narrow}
        if only.get("path") == "*":
            del only["path"]
        rule = Rule(
            name,
            narrow.get("channel"),
            narrow.get("symbol"),
            only=only,
            share=narrow.get("share", 1.0),
            given=given,
        )
        self._rules.add(rule, seconds=narrow.get("seconds"), count=narrow.get("count"))
        return 1


class RequestFaults(StandingFaults):
    """Faults of REST requests; of `/v5/order/create` unless a `path` is given, "*" for all."""

    def _request(self, name: str, narrow: dict[str, Any], **given: Any) -> int:
        return self._stand(name, {"path": CREATE, **narrow}, **given)

    async def lost_reply(self, *, how: str = "close", **narrow: Any) -> int:
        """Do what was asked, and cut the connection (`close`) or never answer (`hang`)."""
        check_choice("how", how, ("close", "hang"))
        return self._request("lost_reply", narrow, how=how)

    async def lost_request(self, *, how: str = "close", **narrow: Any) -> int:
        """Do nothing, and cut the connection (`close`) or never answer (`hang`)."""
        check_choice("how", how, ("close", "hang"))
        return self._request("lost_request", narrow, how=how)

    async def slow_reply(self, *, ms: float, **narrow: Any) -> int:
        """Do what was asked at once, and answer `ms` later."""
        check_numbers(ms=ms)
        return self._request("slow_reply", narrow, ms=ms)

    async def refuse(self, *, code: int, text: str = "refused", **narrow: Any) -> int:
        """Do nothing, and answer with this `retCode` and `retMsg`."""
        return self._request("refuse", narrow, code=code, text=text)

    async def http(self, *, status: int, taken: bool | None = None, **narrow: Any) -> int:
        """Answer with an HTTP status; what was asked is done where it is 500 or above, or as `taken` says."""
        if status not in range(300, 600):
            raise FaultError(f"expected an HTTP status of 300 to 599, was {status}")
        return self._request("http", narrow, status=status, taken=status >= 500 if taken is None else taken)

    async def not_json(self, *, taken: bool = True, **narrow: Any) -> int:
        """Answer with a page that is not JSON."""
        return self._malformed("not_json", narrow, taken=taken)

    async def json_list(self, *, taken: bool = True, **narrow: Any) -> int:
        """Answer with a JSON list."""
        return self._malformed("json_list", narrow, taken=taken)

    async def json_null(self, *, taken: bool = True, **narrow: Any) -> int:
        """Answer with `null`."""
        return self._malformed("json_null", narrow, taken=taken)

    async def empty_object(self, *, taken: bool = True, **narrow: Any) -> int:
        """Answer with `{}`."""
        return self._malformed("empty_object", narrow, taken=taken)

    def _malformed(self, kind: str, narrow: dict[str, Any], *, taken: bool) -> int:
        return self._request("malformed", narrow, kind=kind, taken=taken)

    async def rate_limit(self, *, header: str = "with", **narrow: Any) -> int:
        """Refuse with 10006, with the reset header, without it, or with one that is past."""
        check_choice("header", header, ("with", "without", "past"))
        return self._request("rate_limit", narrow, header=header)


class OrderFaults(StandingFaults):
    """Faults of orders that were accepted."""

    async def late_fill(self, *, ms: float, **narrow: Any) -> int:
        """Match an order only after `ms`."""
        check_numbers(ms=ms)
        return self._stand("late_fill", narrow, ms=ms)

    async def part_fill(self, *, part: float = 0.5, **narrow: Any) -> int:
        """Fill at most this part of an order."""
        _check_part(part)
        return self._stand("part_fill", narrow, part=part)

    async def no_fill(self, **narrow: Any) -> int:
        """Fill nothing of an order."""
        return self._stand("no_fill", narrow)

    async def reject_after_accept(
        self, *, reason: str = "EC_ReachMarketPriceLimit", part: float = 0, **narrow: Any
    ) -> int:
        """End an order as `Rejected`, with this part of it filled."""
        _check_part(part)
        return self._stand("reject_after_accept", narrow, reason=reason, part=part)

    async def order_lag(self, *, ms: float, **narrow: Any) -> int:
        """Let look-ups not find an order and its fills until `ms` after it was accepted."""
        check_numbers(ms=ms)
        return self._stand("order_lag", narrow, ms=ms)

    async def no_loan(self, *, seconds: float | None = None) -> int:
        """Let the platform have nothing to lend."""
        return self._stand("no_loan", {} if seconds is None else {"seconds": seconds})


class StreamFaults(StandingFaults):
    """Faults of the private stream."""

    def _stream(self, name: str, narrow: dict[str, Any], **given: Any) -> int:
        return self._stand(name, {**narrow, "channel": CHANNEL}, **given)

    async def private_repeat(self, **narrow: Any) -> int:
        """Push each message twice."""
        return self._stream("private_repeat", narrow)

    async def private_shuffle(self, *, ms: float = 20, **narrow: Any) -> int:
        """Delay each message by its own time up to `ms`, so that those of a topic overtake each other."""
        check_numbers(ms=ms)
        return self._stream("private_shuffle", narrow, ms=ms)

    async def private_delay(self, *, ms: float, **narrow: Any) -> int:
        """Delay each message by `ms`."""
        check_numbers(ms=ms)
        return self._stream("private_delay", narrow, ms=ms)

    async def private_no_fees(self, **narrow: Any) -> int:
        """Push orders with an empty `cumFeeDetail`, as seen on testnet: executions alone have the fees."""
        return self._stream("private_no_fees", narrow)

    async def auth_refused(self, **narrow: Any) -> int:
        """Refuse to authenticate."""
        return self._stream("auth_refused", narrow)


def _check_part(part: object) -> None:
    check_numbers(part=part)
    if isinstance(part, int | float) and part > 1:
        raise FaultError(f"expected part to be at most 1, was {part}")
