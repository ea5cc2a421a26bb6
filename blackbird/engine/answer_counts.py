"""What requests were answered, and how long that took."""

from __future__ import annotations

import time
from collections import Counter

from blackbird.engine.requests import Decision
from blackbird.status.histogram import Histogram


class AnswerCounts:
    """Counts answers by action and text (`counts`), their `times` from the delivery on, and dead letters."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.times = Histogram()
        self.dead_letters = 0

    def add(self, decision: Decision) -> None:
        """Count the request that was decided on and answered."""
        self.times.observe(time.perf_counter() - decision.request.arrived)
        action = "" if decision.order is None else decision.order.action
        counts = self.counts.get(action)
        if counts is None:
            counts = self.counts[action] = Counter()
        counts[decision.reply.label] += 1
        self.dead_letters += decision.dead_letter is not None
