"""Answers the requests of the `orders` queue with real orders: each when its outcome is known."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from blackbird.broker.session import SessionLost
from blackbird.engine.replies import Replies, ReplySession, log_decision
from blackbird.engine.requests import Decision, NewOrder, Request, examine
from blackbird.trading.engine import TradingEngine
from blackbird.trading.orders import Reply
from blackbird.trading.records import Record

logger = logging.getLogger(__name__)


class Desk(Protocol):
    """The part of TradeDesk that takes orders."""

    def is_deciding(self, name: str) -> bool:
        """Return whether the order known by `name` is being decided on."""

    def begin(self, new: NewOrder) -> None:
        """Decide on an order."""

    def journal(self, record: Record) -> bool:
        """Write a record to the journal; return whether it took it, else the state is recovered."""


class _Asker(NamedTuple):
    session: ReplySession
    request: Request

    def is_same(self, other: _Asker) -> bool:
        """Return whether both requests wait for one reply to one address."""
        mine, its = self.request.properties, other.request.properties
        return (
            self.session is other.session
            and mine.reply_to == its.reply_to
            and mine.correlation_id == its.correlation_id
        )


class TradingAnswerer:
    """Hands new orders to the desk, and answers all who ask for one once it is decided.

    Every delivery is acknowledged by itself, since orders end in another order than they came in.
    """

    def __init__(self, replies: Replies) -> None:
        self._replies = replies
        self._askers: dict[str, list[_Asker]] = {}
        self._session: ReplySession | None = None

    def attach(self, session: ReplySession) -> None:
        """Use `session` from now on; what was asked on an earlier one is redelivered."""
        if session is not self._session:
            self._session = session
            self._askers.clear()

    async def take(
        self, engine: TradingEngine, desk: Desk, session: ReplySession, requests: Sequence[Request]
    ) -> None:
        """Answer what is known, and let the desk decide on the rest; nothing waits for the exchange."""
        self.attach(session)
        for request in requests:
            examined = examine(engine, request)
            if isinstance(examined, Decision):
                if examined.record is not None and not desk.journal(examined.record):
                    return
                await self._reply(session, examined)
                continue
            self._add(examined.name, _Asker(session, request))
            if not desk.is_deciding(examined.name):
                desk.begin(examined)

    async def answer(self, name: str, answer: Decision | Reply) -> None:
        """Answer all who ask for the order known by `name`."""
        if isinstance(answer, Decision):
            log_decision(answer)
        for session, request in self._askers.pop(name, ()):
            decision = (
                answer._replace(request=request)
                if isinstance(answer, Decision)
                else Decision(request, answer)
            )
            await self._reply(session, decision)

    def fail(self) -> None:
        """End the session: the state is recovered on the next one, and what is not answered comes again."""
        if self._session is not None:
            self._session.close()

    def _add(self, name: str, asker: _Asker) -> None:
        """Let a request wait; an earlier one for the same reply waits no longer.

        A client that asks again each second would fill up the deliveries that the broker allows unanswered.
        """
        askers = self._askers.setdefault(name, [])
        for earlier in [each for each in askers if each.is_same(asker)]:
            askers.remove(earlier)
            earlier.session.acknowledge(earlier.request.delivery_tag)
        askers.append(asker)

    async def _reply(self, session: ReplySession, decision: Decision) -> None:
        # The requests of a session that has ended meanwhile are redelivered and get the same answer.
        with contextlib.suppress(SessionLost):
            await self._replies.send(session, decision)
            session.acknowledge(decision.request.delivery_tag)
