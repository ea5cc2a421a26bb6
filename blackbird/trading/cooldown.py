"""Pairs that rest after a leg has failed, so that the next push does not try the same again."""

from __future__ import annotations

from blackbird.market.instrument import Instrument
from blackbird.trading.orders import CLOSE_SPREAD, OPEN_SPREAD
from blackbird.trading.spreads import Pair

# After a close that has left something over. Each further one may add to it.
LEFTOVER_REST_MS = 60_000


class Cooldown:
    """Pairs, in either direction, that are not traded for `milliseconds` after a leg has failed.

    After a failed open no spread of the pair is opened, after a failed close none is closed either, for a
    minute where it has left something over. 0 switches it off.
    """

    def __init__(self, milliseconds: int) -> None:
        self._milliseconds = milliseconds
        # By action and legs: from when to when. Empty until a leg has failed.
        self.rests: dict[tuple[str, frozenset[Instrument]], tuple[int, int]] = {}

    def start(self, action: str, pair: Pair, now: int, *, is_left_over: bool) -> None:
        """Let the pair rest from `now` on, after an order of this `action`."""
        if not self._milliseconds:
            return
        legs = frozenset(pair)
        self.rests[OPEN_SPREAD, legs] = now, now + self._milliseconds
        if action == CLOSE_SPREAD:
            rest = max(LEFTOVER_REST_MS, self._milliseconds) if is_left_over else self._milliseconds
            self.rests[CLOSE_SPREAD, legs] = now, now + rest

    def holds(self, action: str, pair: Pair, now: int) -> bool:
        """Return whether the pair still rests from orders of this `action`."""
        rest = self.rests.get((action, frozenset(pair)))
        # A clock that was set back ends the rest.
        return rest is not None and rest[0] <= now < rest[1]
