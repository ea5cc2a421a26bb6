"""Orders that the trading engine refused, and how long not to send their like again."""

from __future__ import annotations

from collections.abc import Callable

from blackbird.market.instrument import Instrument
from blackbird.trading.orders import OPEN_SPREAD, RISK_LIMIT_EXCEED, outlasts_books
from blackbird.trading.spreads import Pair

Versions = tuple[int, int]  # of the books (long, short) that an order was made on


# How long a reason that does not depend on the books is taken to last.
REST_MS = 1000


class Refusals:
    """What was refused is not sent again before one of the pair's books changes.

    An open that was beyond the risk limit waits, besides, until any order is executed; one that was refused
    for a reason that outlasts the books waits for `REST_MS` on `clock`.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._resting_until: dict[Pair, int] = {}
        self._opens: dict[Pair, Versions] = {}
        self._closes: dict[Pair, Versions] = {}
        self._beyond_risk: set[Pair] = set()
        self.reasons: dict[Pair, str] = {}  # of the last refused open

    def may_open(self, pair: Pair, versions: Versions) -> bool:
        """Return whether an open of `pair` may be sent on these books."""
        if pair in self._beyond_risk or self._opens.get(pair) == versions:
            return False
        until = self._resting_until.get(pair)
        if until is None:
            return True
        # A clock that was set back ends the rest too.
        rests = until - REST_MS <= self._clock() < until
        if not rests:
            del self._resting_until[pair]
        return not rests

    def is_beyond_risk(self, pair: Pair) -> bool:
        """Return whether the last open of `pair` was beyond the risk limit and nothing was executed since."""
        return pair in self._beyond_risk

    def may_close(self, pair: Pair, versions: Versions) -> bool:
        """Return whether a close of `pair` may be sent on these books."""
        return self._closes.get(pair) != versions

    def add(self, action: str, pair: Pair, versions: Versions, info: str) -> None:
        """Note the refusal, for the reason `info`, of an order made on these books."""
        if action != OPEN_SPREAD:
            self._closes[pair] = versions
            return
        self._opens[pair] = versions
        self.reasons[pair] = info
        if info == RISK_LIMIT_EXCEED:
            self._beyond_risk.add(pair)
        elif outlasts_books(info):
            self._resting_until[pair] = self._clock() + REST_MS

    def on_execution(self) -> None:
        """Note that an order was executed: exposures have changed."""
        self._beyond_risk.clear()

    def forget(self, instrument: Instrument) -> None:
        """Forget refusals on the instrument's book: the versions of its next book begin anew."""
        for refused in (self._opens, self._closes):
            for pair in [pair for pair in refused if instrument in pair]:
                del refused[pair]
                self.reasons.pop(pair, None)
