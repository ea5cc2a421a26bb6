"""One order-book topic: its requests with their answers, and its pushes, forwarded as they are read."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable

import msgspec

from blackbird.bybit.protocol import Answer, Head, InvalidFrame, decode_head, request
from blackbird.market.instrument import Instrument

# Takes the instrument, the message, and the milliseconds at which it was received and made.
OnPush = Callable[[Instrument, bytes, int, int], None]


class Topic:
    """What travels about one topic on a stream's connections, one after the other.

    `answer` and `snapshot` belong to the last `subscribe`: any snapshot read after the request counts.
    """

    _request_numbers = itertools.count(1)

    def __init__(self, name: str, instrument: Instrument, matching_key: str, on_push: OnPush) -> None:
        self.name = name
        self.last_push = 0.0
        self.pushes = 0
        self._instrument = instrument
        self._on_push = on_push
        self._newest_ms = 0
        self._loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[Answer] = self._loop.create_future()
        self.snapshot: asyncio.Future[None] = self._loop.create_future()
        self.mark(matching_key)

    def mark(self, matching_key: str) -> None:
        """Mark pushes with this key from the next one on."""
        self.matching_key = matching_key
        fields = {"channel": self._instrument.channel, "matching_key": matching_key}
        self._ending = b"," + msgspec.json.encode(fields)[1:]

    @property
    def silence_seconds(self) -> float | None:
        """How long ago the last push was received, None before the first one."""
        return self._loop.time() - self.last_push if self.pushes else None

    def attach(self, send: Callable[[str], None]) -> None:
        """Send requests over a new connection from now on."""
        self._send = send
        self._pending: deque[tuple[str, asyncio.Future[Answer]]] = deque()
        self._subscribed_before = False

    def subscribe(self) -> None:
        """Send a subscribe, after an unsubscribe where one was sent on this connection before.

        There is no request for a snapshot: the exchange sends one after each successful subscribe, and it
        refuses a topic that is subscribed already.
        """
        if self._subscribed_before:
            self._request("unsubscribe")
        self._subscribed_before = True
        self.snapshot = self._loop.create_future()
        self.answer = self._request("subscribe")

    def on_frame(self, frame: bytes, received_ms: int) -> None:
        """Take a text frame that was received at this time; raises InvalidFrame."""
        head = decode_head(frame)
        if head.topic == self.name:
            self._forward(head, frame, received_ms)
        elif head.success is not None:
            if not head.is_pong:
                self._on_answer(head)
        elif head.op != "pong" and not head.topic:
            raise InvalidFrame("neither a push nor an answer")

    def _forward(self, head: Head, frame: bytes, received_ms: int) -> None:
        if not head.is_book:
            raise InvalidFrame("no order book")
        self.last_push = self._loop.time()
        self.pushes += 1
        if head.type == "snapshot" and not self.snapshot.done():
            self.snapshot.set_result(None)
        # Valid JSON ends with its closing brace; what is sent stays as it is up to there.
        body = frame.rstrip()[:-1] + self._ending
        # Whatever the exchange's clock does, an instrument's pushes keep their order.
        if isinstance(head.ts, int):
            self._newest_ms = max(self._newest_ms, head.ts)
        self._on_push(self._instrument, body, received_ms, self._newest_ms)

    def _on_answer(self, head: Head) -> None:
        """Settle the request that is answered.

        Answers come in the order of the requests, and option's do not name theirs.
        """
        if head.req_id and all(head.req_id != req_id for req_id, _ in self._pending):
            return
        while self._pending:
            req_id, answer = self._pending.popleft()
            if not head.req_id or head.req_id == req_id:
                failed = not head.success or (head.data is not None and bool(head.data.fail_topics))
                answer.set_result(Answer(not failed, head.ret_msg))
                return

    def _request(self, op: str) -> asyncio.Future[Answer]:
        req_id = f"{op}-{next(self._request_numbers)}"
        answer: asyncio.Future[Answer] = self._loop.create_future()
        self._pending.append((req_id, answer))
        self._send(request(op, req_id, self.name))
        return answer
