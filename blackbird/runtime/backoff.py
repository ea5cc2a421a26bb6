"""How long to pause before something that failed is tried again."""

from __future__ import annotations


class Backoff:
    """Pauses in seconds that double from `shortest` to `longest`, until `reset`."""

    def __init__(self, shortest: float, longest: float) -> None:
        self._shortest = shortest
        self._longest = longest
        self._next = shortest

    def next(self) -> float:
        """Return the pause before the next attempt."""
        pause = self._next
        self._next = min(pause * 2, self._longest)
        return pause

    def reset(self) -> None:
        """Begin with the shortest pause again, after an attempt that succeeded."""
        self._next = self._shortest
