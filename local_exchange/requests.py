"""Request frames of the public WebSocket, and Bybit's replies to them.

Spot, the futures channels (linear, inverse) and option answer in different words. Texts that are
not known from Bybit are marked "not confirmed"; a client should not rely on them.
"""

from __future__ import annotations

import json
from typing import Any

# Most args in one request on spot, most on one connection on option, most characters of args on
# one connection.
SPOT_ARGS = 10
OPTION_ARGS = 2000
ARGS_LENGTH = 21_000


def dump(reply: dict[str, Any]) -> bytes:
    """Write a reply the way all frames are written, without blanks."""
    return json.dumps(reply, separators=(",", ":")).encode()


def pong(channel: str, conn_id: str, req_id: object, now: int) -> bytes:
    """Answer a text ping."""
    if channel == "option":
        return dump({"op": "pong", "args": [str(now)]})
    reply = {"success": True, "ret_msg": "pong", "conn_id": conn_id}
    if channel == "spot":
        return dump(reply | ({} if req_id is None else {"req_id": req_id}) | {"op": "ping"})
    return dump(reply | {"req_id": "" if req_id is None else req_id, "op": "ping"})


def accepted(channel: str, conn_id: str, op: str, req_id: object, topics: list[str]) -> bytes:
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
    request = {"req_id": "" if req_id is None else req_id}
    return dump({"success": True, "ret_msg": "", "conn_id": conn_id, **request, "op": op})


def refused(channel: str, conn_id: str, op: str, req_id: object, text: str, topics: list[str]) -> bytes:
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
    """Text for a topic that is not served."""
    if channel == "spot":
        # Not confirmed for an unknown depth.
        return f"Invalid symbol :[{topic}]"
    return f"error:handler not found,topic:{topic}"


def already_subscribed(topic: str) -> str:
    """Text for a topic that is active on the socket (not confirmed on spot)."""
    return f"error:already subscribed,topic:{topic}"


def args_problem(channel: str, args: object, active: list[str]) -> str | None:
    """Return why the args of a request are refused before looking at topics."""
    if not isinstance(args, list) or not args or not all(isinstance(arg, str) for arg in args):
        # Not confirmed.
        return "error:handler not found,topic:"
    if channel == "spot" and len(args) > SPOT_ARGS:
        return f"args size >{SPOT_ARGS}"
    # The texts of the next two are not confirmed.
    if channel == "option" and len(args) + len(active) > OPTION_ARGS:
        return f"args size >{OPTION_ARGS}"
    if sum(map(len, args)) + sum(map(len, active)) > ARGS_LENGTH:
        return f"args length >{ARGS_LENGTH}"
    return None
