"""Request frames of the public WebSocket, and Bybit's replies to them.

Spot, the futures channels (linear, inverse) and option answer in different words. Texts that are not known
from Bybit are marked "not confirmed"; a client should not rely on them.
Source: https://bybit-exchange.github.io/docs/v5/ws/connect, and frames captured by others.
"""

from __future__ import annotations

import json
from typing import Any

# Most args in one request on spot, most on one connection on option, most characters of args on one
# connection.
SPOT_ARGS = 10
OPTION_ARGS = 2000
ARGS_LENGTH = 21_000


class RequestRefused(Exception):
    """A request that the exchange refuses; the text is its `ret_msg`."""


def dump(reply: dict[str, Any]) -> bytes:
    """Write a reply the way all frames are written, without blanks."""
    return json.dumps(reply, separators=(",", ":")).encode()


def echoed(req_id: object) -> str | None:
    """Return the `req_id` of a request as its answer repeats it: a number comes back as text."""
    return None if req_id is None else str(req_id)


def pong(channel: str, conn_id: str, req_id: str | None, now: int) -> bytes:
    """Answer a text ping."""
    if channel == "option":
        return dump({"op": "pong", "args": [str(now)]})
    reply = {"success": True, "ret_msg": "pong", "conn_id": conn_id}
    if channel == "spot":
        return dump(reply | ({} if req_id is None else {"req_id": req_id}) | {"op": "ping"})
    return dump(reply | {"req_id": req_id or "", "op": "ping"})


def accepted(channel: str, conn_id: str, op: str, req_id: str | None, topics: list[str]) -> bytes:
    """Acknowledge a subscribe or unsubscribe."""
    if channel == "option":
        return dump(
            {
                "success": True,
                "conn_id": conn_id,
                **({} if req_id is None else {"req_id": req_id}),
                "data": {"failTopics": [], "successTopics": topics},
                "type": "COMMAND_RESP",
            }
        )
    if channel == "spot":
        # The word for an unsubscribe is not confirmed.
        request = {} if req_id is None else {"req_id": req_id}
        return dump({"success": True, "ret_msg": op, "conn_id": conn_id, **request, "op": op})
    return dump({"success": True, "ret_msg": "", "conn_id": conn_id, "req_id": req_id or "", "op": op})


def refused(channel: str, conn_id: str, op: str, req_id: str | None, text: str, topics: list[str]) -> bytes:
    """Refuse a whole request frame."""
    request = {} if req_id is None else {"req_id": req_id}
    if channel == "option":
        # The shape of a refusal on option is not confirmed.
        return dump(
            {
                "success": False,
                "ret_msg": text,
                "conn_id": conn_id,
                **request,
                "data": {"failTopics": topics, "successTopics": []},
                "type": "COMMAND_RESP",
            }
        )
    return dump({"success": False, "ret_msg": text, "conn_id": conn_id, **request, "op": op})


def unknown_topic(channel: str, topic: str) -> str:
    """Return the text for a topic that is not served."""
    if channel == "spot":
        # Not confirmed for an unknown depth.
        return f"Invalid symbol :[{topic}]"
    return f"error:handler not found,topic:{topic}"


def already_subscribed(topic: str) -> str:
    """Return the text for a topic that is active on the socket (not confirmed on spot)."""
    return f"error:already subscribed,topic:{topic}"


def topics_of(channel: str, args: object, active: list[str]) -> list[str]:
    """Return the topics that a request names; `active` are those of the connection.

    Raises:
        RequestRefused: the args are refused before looking at single topics.
    """
    if not isinstance(args, list) or not args or not all(isinstance(arg, str) for arg in args):
        # Not confirmed.
        raise RequestRefused("error:handler not found,topic:")
    if channel == "spot" and len(args) > SPOT_ARGS:
        raise RequestRefused(f"args size >{SPOT_ARGS}")
    # The texts of the next two are not confirmed.
    if channel == "option" and len(args) + len(active) > OPTION_ARGS:
        raise RequestRefused(f"args size >{OPTION_ARGS}")
    if sum(map(len, args)) + sum(map(len, active)) > ARGS_LENGTH:
        raise RequestRefused(f"args length >{ARGS_LENGTH}")
    return args
