"""Unexpected exceptions at the edge of a service: logged, and survived."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import ParamSpec

logger = logging.getLogger(__name__)

P = ParamSpec("P")


class FailureLog:
    """Logs a programming error with its traceback the first time, then in one line, ever more seldom.

    `counts` has how often each happened, by exception and place.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def log(self, what: str, error: Exception) -> None:
        """Log that `what` failed with `error`."""
        place = _place(error)
        self.counts[place] += 1
        count = self.counts[place]
        if count == 1:
            logger.error("%s failed", what, exc_info=error)
        elif count & (count - 1) == 0:  # a power of two
            logger.error("%s failed again: %s, %d times by now", what, place, count)

    def guard(self, what: str, callback: Callable[P, None]) -> Callable[P, None]:
        """Return `callback` with its exceptions logged and kept from its caller."""

        def guarded(*arguments: P.args, **named: P.kwargs) -> None:
            try:
                callback(*arguments, **named)
            except Exception as error:  # noqa: BLE001 - a callback's edge: the next one goes on
                self.log(what, error)

        return guarded


def _place(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return type(error).__name__
    return f"{type(error).__name__} in {trace.tb_frame.f_code.co_qualname}:{trace.tb_lineno}"
