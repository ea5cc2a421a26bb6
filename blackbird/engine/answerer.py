"""Answers the requests of the `orders` queue in a simulation: decide, journal, reply, acknowledge."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable, Sequence

from blackbird.broker.session import SessionLost
from blackbird.engine.execution_store import Fenced, TooLate
from blackbird.engine.replies import Replies, ReplySession, log_decision
from blackbird.engine.requests import CRASHED, Request, decide
from blackbird.engine.state import EngineState
from blackbird.runtime.throttled_log import ThrottledLog
from blackbird.trading.engine import TradingEngine
from database_manager import DatabaseUnavailable

logger = logging.getLogger(__name__)

DISK_PAUSE = 1.0


class Answerer:
    """Answers requests with the core of `state`; calls `on_journaled` when there is something to store.

    `disk_pause` is how many seconds a journal that takes nothing is left alone.
    """

    def __init__(
        self,
        state: EngineState,
        replies: Replies,
        on_journaled: Callable[[], None],
        *,
        disk_pause: float = DISK_PAUSE,
    ) -> None:
        self._state = state
        self._replies = replies
        self._on_journaled = on_journaled
        self._disk_pause = disk_pause
        self._outage = ThrottledLog()

    async def answer(self, engine: TradingEngine, session: ReplySession, requests: Sequence[Request]) -> None:
        """Decide on requests, journal what was decided, reply, acknowledge: in this order."""
        try:
            decisions = [decide(engine, request) for request in requests]
            journaled = await self._state.keep([each.record for each in decisions if each.record is not None])
        except (DatabaseUnavailable, Fenced, TooLate) as error:
            # With JOURNAL=database. What was not answered is redelivered, and has expired or not by then.
            self._outage.warn("orders not answered, the state is recovered: %s", error)
            self._state.invalidate()
            session.close()
            return
        except Exception as error:
            # The process edge. What the core holds may be ahead of the journal now: it is recovered, and the
            # broker redelivers what was not answered.
            logger.exception("orders not answered, the state is recovered (%s)", type(error).__name__)
            self._state.invalidate()
            await asyncio.sleep(self._disk_pause if isinstance(error, sqlite3.Error) else 0)
            session.close()
            return
        # The requests of a session that has ended meanwhile are redelivered and get the same answers.
        with contextlib.suppress(SessionLost):
            for decision in decisions:
                await self._replies.send(session, decision)
            session.acknowledge(requests[-1].delivery_tag, multiple=True)
        # Not before: neither counters nor lines in the log may delay an answer.
        for decision in decisions:
            log_decision(decision)
        if journaled:
            self._on_journaled()
        if any(decision.dead_letter == CRASHED for decision in decisions):
            # The crash may have left anything in memory.
            self._state.invalidate()
            session.close()
