"""Requests on a public WebSocket: what is subscribed, and when which answer goes out."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from local_exchange import requests
from local_exchange.instrument import now_ms
from local_exchange.requests import RequestRefused

if TYPE_CHECKING:
    from local_exchange.client_socket import Socket
    from local_exchange.fault_rules import Rule
    from local_exchange.instrument import Feed
    from local_exchange.server import LocalExchange

# Channels on which the snapshot of a new subscription comes before its acknowledgement, as captured on Bybit
# (https://github.com/JKorf/Bybit.Net/issues/200). Not confirmed: inverse, and option, which is not in here.
SNAPSHOT_FIRST = {"linear", "inverse"}
First = Literal["real", "ack", "snapshot"]
FIRST: tuple[str, ...] = get_args(First)


@dataclass(frozen=True)
class AnswerTiming:
    """When subscriptions are answered.

    Args:
        delay: seconds from a request to the first frame that answers it, and again from a snapshot to the
            acknowledgement that follows it. A client that notes a subscription only after sending it, as
            pybit does, needs some: no network is faster than that.
        first: what comes first: as on Bybit (by channel), the acknowledgement, or the snapshot.
    """

    delay: float = 0.01
    first: First = "real"


@dataclass(frozen=True)
class Subscribe:
    """A request to subscribe: its args as they came, and its `req_id` as it is repeated."""

    args: object
    req_id: str | None


class PublicRequests:
    """Answers the requests of the public sockets of an exchange."""

    def __init__(self, exchange: LocalExchange, timing: AnswerTiming) -> None:
        self._exchange = exchange
        self._timing = timing

    def answer(self, socket: Socket, message: str | bytes) -> None:
        """Take one frame of a client."""
        try:
            request = json.loads(message)
        except ValueError as error:
            self._refuse(socket, "", None, f"Failed to decode incoming data: {error}")
            return
        if not isinstance(request, dict):
            self._refuse(socket, "", None, "Failed to decode incoming data: not an object")
            return
        op, req_id = request.get("op"), requests.echoed(request.get("req_id"))
        args = request.get("args")
        counters = self._exchange.counters
        if op == "ping":
            counters["pings"] += 1
            socket.reply(requests.pong(socket.channel, socket.conn_id, req_id, now_ms()))
        elif op == "subscribe":
            counters["subscribes"] += 1
            self._take_subscribe(socket, Subscribe(args, req_id))
        elif op == "unsubscribe":
            counters["unsubscribes"] += 1
            socket.after(self._timing.delay, lambda: self._unsubscribe(socket, args, req_id))
        else:
            self._refuse(socket, str(op), req_id, "error:invalid op")

    def _refuse(self, socket: Socket, op: str, req_id: str | None, text: str, args: object = None) -> None:
        topics = list(map(str, args)) if isinstance(args, list) else []
        socket.reply(requests.refused(socket.channel, socket.conn_id, op, req_id, text, topics))

    def _accept(self, socket: Socket, op: str, req_id: str | None, topics: list[str]) -> None:
        socket.reply(requests.accepted(socket.channel, socket.conn_id, op, req_id, topics))

    def _take_subscribe(self, socket: Socket, request: Subscribe) -> None:
        slow = self._meet("slow_ack", socket, request)
        if slow is None or slow.given["only_ack"]:
            socket.after(self._timing.delay, lambda: self._subscribe(socket, request, slow))
        elif slow.given["delay"] is not None:
            # Beside the socket's other answers, which do not wait for it.
            loop = asyncio.get_running_loop()
            loop.call_later(slow.given["delay"], self._subscribe, socket, request, None)

    def _meet(self, fault: str, socket: Socket, request: Subscribe) -> Rule | None:
        """Return the standing fault that meets one of the topics."""
        for topic in request.args if isinstance(request.args, list) else []:
            rule = self._exchange.faults.meet(fault, socket.channel, _symbol(topic))
            if rule is not None:
                return rule
        return None

    def _subscribe(self, socket: Socket, request: Subscribe, slow: Rule | None) -> None:
        """Check a request, and answer it; `slow` is what delays its acknowledgement, if anything does."""
        if not socket.open or socket.number not in self._exchange.sockets:
            return
        try:
            feeds = self._feeds(socket, request.args)
        except RequestRefused as refusal:
            self._exchange.counters["refusals"] += 1
            self._refuse(socket, "subscribe", request.req_id, str(refusal), request.args)
            return

        def acknowledge() -> None:
            self._accept(socket, "subscribe", request.req_id, list(feeds))

        if slow is None and not self._snapshot_first(socket, request):
            acknowledge()
            self._open(socket, feeds)
        else:
            self._open(socket, feeds)
            if slow is None:
                socket.after(self._timing.delay, acknowledge)
            elif slow.given["delay"] is not None:
                asyncio.get_running_loop().call_later(slow.given["delay"], acknowledge)
        self._exchange.player.notice_subscriptions()

    def _snapshot_first(self, socket: Socket, request: Subscribe) -> bool:
        rule = self._meet("answer_order", socket, request)
        first = self._timing.first if rule is None else rule.given["first"]
        return socket.channel in SNAPSHOT_FIRST if first == "real" else first == "snapshot"

    def _feeds(self, socket: Socket, args: object) -> dict[str, Feed | None]:
        """Return the feed of each topic, None for a topic that is accepted and then silent.

        Raises:
            RequestRefused: one of the topics is refused, and so the whole request.
        """
        channel, source = socket.channel, self._exchange.source
        feeds: dict[str, Feed | None] = {}
        for topic in requests.topics_of(channel, args, socket.topics):
            refusing = self._exchange.faults.meet("refuse_subscription", channel, _symbol(topic))
            if refusing is not None:
                raise RequestRefused(refusing.given["text"] or requests.unknown_topic(channel, topic))
            feed = source.feed(channel, topic)
            if feed is None and not source.takes_silently(channel, topic):
                raise RequestRefused(requests.unknown_topic(channel, topic))
            if topic in feeds or topic in socket.topics:
                raise RequestRefused(requests.already_subscribed(topic))
            feeds[topic] = feed
        return feeds

    def _open(self, socket: Socket, feeds: dict[str, Feed | None]) -> None:
        """Subscribe a socket to feeds, each with its snapshot."""
        exchange = self._exchange
        for topic, feed in feeds.items():
            if feed is None:
                socket.other_topics.add(topic)
                continue
            if exchange.record is not None:
                feed.tap = exchange.record.add
            subscription = exchange.source.subscribe(feed, socket.number, socket.transport.write)
            socket.subscriptions[topic] = subscription
            silence = exchange.faults.meet("silence", socket.channel, feed.instrument.symbol)
            if socket.silent or silence is not None:
                subscription.silent = True
                feed.rewire()
            exchange.source.open(subscription)

    def _unsubscribe(self, socket: Socket, args: object, req_id: str | None) -> None:
        try:
            topics = requests.topics_of(socket.channel, args, [])
        except RequestRefused as refusal:
            self._refuse(socket, "unsubscribe", req_id, str(refusal))
            return
        for topic in topics:
            socket.other_topics.discard(topic)
            subscription = socket.subscriptions.pop(topic, None)
            if subscription is not None:
                self._exchange.source.unsubscribe(subscription)
        self._accept(socket, "unsubscribe", req_id, topics)


def _symbol(topic: object) -> str:
    return topic.split(".", 2)[-1] if isinstance(topic, str) else ""
