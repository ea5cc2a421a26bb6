"""The `number` of each published message: nanoseconds since 1970, strictly rising, over restarts too.

The clock alone does not do, for it may be set back. So numbers are reserved at the broker, a second's worth
at a time, before the first of them is used; a collector that starts goes on above what was reserved.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

logger = logging.getLogger(__name__)

RESERVED_NS = 1_000_000_000
# Numbers are 64-bit in messages and tables.
_HIGHEST = 2**63 - 1 - RESERVED_NS


class MessageNumbers:
    """Counts messages. A number from `next()` may be used once the broker has what `reserve` returned for it.

    Nothing needs to be reserved below `reserved_end`.
    """

    def __init__(self, clock_ns: Callable[[], int]) -> None:
        self.reserved_end = 0
        self._clock_ns = clock_ns
        self._last = 0

    def start(self, reserved: bytes | None) -> None:
        """Begin a session: go on above what an earlier collector reserved, as the broker has kept it."""
        own_end, self.reserved_end = self.reserved_end, 0
        if reserved is None:
            return
        try:
            end = _decode(reserved)
        except ValueError as error:
            logger.warning("ignoring the reserved message numbers, they are malformed: %s", error)
            return
        if end == own_end:
            return
        ahead = end - self._clock_ns()
        if ahead > RESERVED_NS:
            logger.warning("the clock is %.0f s behind the newest message number", ahead / 1e9)
        self._last = max(self._last, end - 1)

    def next(self) -> int:
        """Return the number of the next message: the time, and larger than the one before."""
        self._last = max(self._last + 1, self._clock_ns())
        return self._last

    def reserve(self, number: int) -> bytes:
        """Reserve the numbers of a second from `number` on; return what the broker has to keep of it."""
        self.reserved_end = number + RESERVED_NS
        return b"%d" % self.reserved_end


def _decode(body: bytes) -> int:
    if not body.isdigit() or len(body) > 19 or int(body) > _HIGHEST:
        raise ValueError(f"expected a 64-bit number, was {body!r:.80}")
    return int(body)
