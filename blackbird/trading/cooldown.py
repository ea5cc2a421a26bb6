"""Pairs that rest after a leg has failed, so that the next push does not try the same again."""

from __future__ import annotations

from blackbird.market.instrument import Instrument
from blackbird.trading.spreads import Pair


class Cooldown:
    """Pairs, in either direction, that are not opened for `milliseconds` after a failure."""

    def __init__(self, milliseconds: int) -> None:
        self._milliseconds = milliseconds
        self._since: dict[frozenset[Instrument], int] = {}

    def __bool__(self) -> bool:
        return bool(self._since)

    def start(self, pair: Pair, now: int) -> None:
        """Let the pair rest from `now` on."""
        self._since[frozenset(pair)] = now

    def holds(self, pair: Pair, now: int) -> bool:
        """Return whether the pair still rests."""
        since = self._since.get(frozenset(pair))
        # A clock that was set back ends the rest.
        return since is not None and since <= now < since + self._milliseconds
