"""The private WebSocket: authentication, topics, and the messages of the account.

Control frames: https://bybit-exchange.github.io/docs/v5/ws/connect. Nothing is pushed at the start of a
subscription, and nothing that was missed is pushed later.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import random
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from local_exchange.private.pushes import Push
from local_exchange.requests import dump, echoed

if TYPE_CHECKING:
    from local_exchange.client_socket import Socket
    from local_exchange.fault_rules import FaultRules
    from local_exchange.private.api import ExchangeClock
    from local_exchange.private.settings import PrivateSettings
    from local_exchange.private.signatures import Signatures

CHANNEL = "private"
PATH = "/v5/private"
TOPICS = {
    *("order", "order.spot", "order.linear"),
    *("execution", "execution.spot", "execution.linear"),
    *("execution.fast", "execution.fast.spot", "execution.fast.linear"),
    *("position", "position.linear", "wallet"),
}
# Seconds by which the topics of one match drift apart.
DRIFT = 0.002


class PrivateStream:
    """Answers the private sockets, and pushes to those that are subscribed.

    Args:
        signatures: of the account.
        clock: of the exchange.
        faults: that stand.
        settings: how long pushes take.
        sockets: returns the private sockets that are open.
        answer_delay: seconds from a subscription to its acknowledgement.
        rng: of the delays.
    """

    def __init__(
        self,
        signatures: Signatures,
        clock: ExchangeClock,
        faults: FaultRules,
        settings: PrivateSettings,
        sockets: Callable[[], Iterable[Socket]],
        answer_delay: float,
        rng: random.Random,
    ) -> None:
        self.sent = 0
        self._signatures = signatures
        self._clock = clock
        self._faults = faults
        self._settings = settings
        self._sockets = sockets
        self._answer_delay = answer_delay
        self._rng = rng
        # Messages by the time at which they are due; the number keeps those of one time in order.
        self._due: list[tuple[float, int, Push]] = []
        self._numbers = itertools.count()
        self._last_due: dict[str, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def answer(self, socket: Socket, message: str | bytes) -> None:
        """Take one frame of a client."""
        try:
            request = json.loads(message)
        except ValueError:
            request = None
        if not isinstance(request, dict):
            # Not confirmed.
            self._reply(socket, "", None, "Failed to decode incoming data", success=False)
            return
        op, req_id, args = request.get("op"), echoed(request.get("req_id")), request.get("args")
        if op == "ping":
            pong = {"op": "pong", "args": [str(self._clock.ms())], "conn_id": socket.conn_id}
            socket.reply(dump(({} if req_id is None else {"req_id": req_id}) | pong))
        elif op == "auth":
            socket.after(self._answer_delay, lambda: self._authorise(socket, args, req_id))
        elif op == "subscribe":
            socket.after(self._answer_delay, lambda: self._subscribe(socket, args, req_id))
        elif op == "unsubscribe":
            socket.after(self._answer_delay, lambda: self._unsubscribe(socket, args, req_id))
        else:
            # Not confirmed.
            self._reply(socket, str(op), req_id, "error:invalid op", success=False)

    def _reply(self, socket: Socket, op: str, req_id: str | None, text: str = "", *, success: bool) -> None:
        reply: dict[str, Any] = {"success": success, "ret_msg": text, "op": op, "conn_id": socket.conn_id}
        socket.reply(dump(reply if req_id is None else {"req_id": req_id, **reply}))

    def _authorise(self, socket: Socket, args: object, req_id: str | None) -> None:
        refused = self._faults.meet("auth_refused", CHANNEL) is not None
        socket.authorised = not refused and self._signatures.allows(args)
        # The text of a refusal is not confirmed.
        text = "" if socket.authorised else "Invalid apikey"
        self._reply(socket, "auth", req_id, text, success=socket.authorised)

    def _subscribe(self, socket: Socket, args: object, req_id: str | None) -> None:
        topics = args if isinstance(args, list) else []
        # The texts of the refusals are not confirmed.
        text = "" if socket.authorised else "Request not authorized"
        for topic in topics if not text else ():
            if topic not in TOPICS:
                text = f"Invalid topic: {topic}"
        if not topics:
            text = "Invalid topic: "
        if not text:
            socket.other_topics.update(topics)
        self._reply(socket, "subscribe", req_id, text, success=not text)

    def _unsubscribe(self, socket: Socket, args: object, req_id: str | None) -> None:
        socket.other_topics.difference_update(args if isinstance(args, list) else [])
        self._reply(socket, "unsubscribe", req_id, success=True)

    def publish(self, pushes: list[Push]) -> None:
        """Push messages a little later: those of a topic in order, the topics in any order."""
        now = asyncio.get_running_loop().time()
        start = now + self._rng.uniform(*self._settings.push_delay)
        drift = {push.topic: self._rng.random() * DRIFT for push in pushes}
        for push in pushes:
            due = start + drift[push.topic]
            late = self._faults.meet("private_delay", CHANNEL)
            due += late.given["ms"] / 1000 if late else 0
            shuffled = self._faults.meet("private_shuffle", CHANNEL)
            if shuffled is not None:
                due += self._rng.random() * shuffled.given["ms"] / 1000
            else:
                due = self._last_due[push.topic] = max(due, self._last_due.get(push.topic, 0))
            heapq.heappush(self._due, (due, next(self._numbers), push))
        self._schedule()

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._due:
            self._timer = asyncio.get_running_loop().call_at(self._due[0][0], self._deliver)

    def _deliver(self) -> None:
        # Timers of the event loop are whole milliseconds.
        now = asyncio.get_running_loop().time() + 0.001
        while self._due and self._due[0][0] <= now:
            push = self._spoil(heapq.heappop(self._due)[2])
            times = 2 if self._faults.meet("private_repeat", CHANNEL) is not None else 1
            for socket in list(self._sockets()):
                self._push_to(socket, push, times)
        self._schedule()

    def _spoil(self, push: Push) -> Push:
        """Return a message, or what a fault makes of it."""
        if push.topic == "order" and self._faults.meet("private_no_fees", CHANNEL) is not None:
            rows = [{**row, "cumFeeDetail": {}} for row in push.message["data"]]
            return Push(push.topic, push.category, {**push.message, "data": rows})
        return push

    def _push_to(self, socket: Socket, push: Push, times: int) -> None:
        if socket.silent:
            return
        for topic in (push.topic, f"{push.topic}.{push.category}"):
            if topic in socket.other_topics:
                for _ in range(times):
                    self.sent += 1
                    socket.reply(dump(push.as_topic(topic)))

    def stop(self) -> None:
        """Push nothing more."""
        self._due.clear()
        self._schedule()
