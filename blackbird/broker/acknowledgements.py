"""Which deliveries of a channel are settled, so that none is acknowledged twice."""

from __future__ import annotations


class Acknowledgements:
    """Delivery tags of one channel that are settled: acknowledged, requeued, or without acknowledgement.

    The broker closes a channel on which a settled tag is acknowledged again, also with `multiple`. The tags
    of consumers that acknowledge each message, many at once and not at all are mixed on one channel.
    """

    def __init__(self) -> None:
        self._all_up_to = 0
        self._beyond: set[int] = set()

    def is_settled(self, tag: int) -> bool:
        """Return whether `tag` needs no acknowledgement any more."""
        return tag <= self._all_up_to or tag in self._beyond

    def settle(self, tag: int) -> None:
        """Note that `tag` alone is settled."""
        if tag > self._all_up_to:
            self._beyond.add(tag)
            self._move_up()

    def settle_up_to(self, tag: int) -> int:
        """Note that `tag` and all before it are settled; return the last of them that was not, 0 for none."""
        last = tag
        while last in self._beyond:
            last -= 1
        if last <= self._all_up_to:
            last = 0
        if tag > self._all_up_to:
            self._all_up_to = tag
            if self._beyond:
                self._beyond = {settled for settled in self._beyond if settled > tag}
                self._move_up()
        return last

    def _move_up(self) -> None:
        while self._all_up_to + 1 in self._beyond:
            self._all_up_to += 1
            self._beyond.remove(self._all_up_to)
