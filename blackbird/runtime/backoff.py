"""How long to pause before something that failed is tried again."""

from __future__ import annotations

import random


class Backoff:
    """Pauses in seconds that double from `shortest` to `longest`, until `reset`.

    A random share of each pause, up to `jitter`, is left out: clients that failed together must not return
    together.
    """

    def __init__(self, shortest: float, longest: float, *, jitter: float = 0.0) -> None:
        self._shortest = shortest
        self._longest = longest
        self._jitter = jitter
        self._next = shortest

    def next(self) -> float:
        """Return the pause before the next attempt."""
        pause = self._next
        self._next = min(pause * 2, self._longest)
        return pause * (1 - self._jitter * random.random())  # noqa: S311 - not a secret

    def reset(self) -> None:
        """Begin with the shortest pause again, after an attempt that succeeded."""
        self._next = self._shortest
