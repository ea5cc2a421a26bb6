"""The first answers of the newest orders. Older ones are forgotten here, and found in the database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from blackbird.trading.orders import Order, Reply

# Times of books are the exchange's: how far its clock may be ahead of ours.
CLOCK_MARGIN_MS = 60_000


class Mark(NamedTuple):
    """When the newest of the records up to this one was answered, in milliseconds."""

    record_id: int
    newest_ms: int


class Answer(NamedTuple):
    """The answer of a record, by the order's id or the request's key, None where it has neither."""

    record_id: int
    answered_ms: int
    key: str | None
    info: str


class _Half:
    """Answers and copies of consecutive records, until there are enough of them."""

    __slots__ = ("answers", "copies", "last_id", "newest_ms", "records", "replies")

    def __init__(self) -> None:
        self.answers: dict[str, str] = {}
        self.replies: dict[str, Reply] = {}  # those that say more than `answers`
        self.copies: set[bytes] = set()
        self.records = 0
        self.last_id = 0
        self.newest_ms = 0


class KnownOrders(Mapping[str, str]):
    """Order id, or key of a request without one -> its first answer, and the fingerprints of executions.

    Of at least half of the newest `most` records, None for all there are. What is not in the database yet is
    never forgotten, see `stored`.
    """

    def __init__(self, most: int | None = None) -> None:
        # When the newest record was answered that is not here any more, None while all are.
        self.forgotten_ms: int | None = None
        # The same of the fingerprints.
        self._copies_forgotten_ms: int | None = None
        self._most = most
        self._marks: list[Mark] = []
        self._stored = 0
        self._young = _Half()
        self._old = _Half()

    def __getitem__(self, key: str) -> str:
        info = self._young.answers.get(key)
        return self._old.answers[key] if info is None else info

    def __iter__(self) -> Iterator[str]:
        yield from self._old.answers
        yield from (key for key in self._young.answers if key not in self._old.answers)

    def __len__(self) -> int:
        return len(self._young.answers) + len(self._old.answers)

    def reply(self, key: str) -> Reply | None:
        """Return the answer to the order known by `key` where it says more than its info."""
        return self._young.replies.get(key) or self._old.replies.get(key)

    def is_copy(self, fingerprint: bytes) -> bool:
        """Return whether an order of this fingerprint was executed."""
        return fingerprint in self._young.copies or fingerprint in self._old.copies

    @property
    def newest_ms(self) -> int:
        """When the newest record was answered that was ever here."""
        return max(self._young.newest_ms, self._old.newest_ms, self.forgotten_ms or 0)

    def may_be_forgotten(self, order: Order, now: int) -> bool:
        """Return whether an order that is not known here may have been answered all the same.

        An order cannot have been sent before the time of its books.
        """
        forgotten_ms = self._copies_forgotten_ms if order.order_id is None else self.forgotten_ms
        if forgotten_ms is None:
            return False
        books = max(order.ts_buy, order.ts_sell)
        return books <= forgotten_ms + CLOCK_MARGIN_MS or books > now + CLOCK_MARGIN_MS

    def add(
        self,
        record_id: int,
        answered_ms: int,
        key: str | None,
        info: str,
        reply: Reply | None = None,
        copy: bytes | None = None,
    ) -> None:
        """Remember a record: its answer, where it has a key, and the fingerprint of what was executed.

        `reply` is the answer where it says more than its `info`.
        """
        young = self._young
        if key is not None:
            young.answers[key] = info
            if reply is not None:
                young.replies[key] = reply
        if copy is not None:
            young.copies.add(copy)
        young.records += 1
        young.last_id = max(young.last_id, record_id)
        young.newest_ms = max(young.newest_ms, answered_ms)
        if self._most is not None and young.records >= self._most // 2 and self._old.last_id <= self._stored:
            self._turn()

    def stored(self, record_id: int) -> None:
        """Take note that the database has all records up to `record_id`."""
        self._stored = max(self._stored, record_id)

    def forget_up_to(self, answered_ms: int) -> None:
        """Take note that records answered up to then were never here."""
        self.forgotten_ms = max(answered_ms, self.forgotten_ms or 0)
        self.forget_copies_up_to(answered_ms)

    def forget_copies_up_to(self, answered_ms: int) -> None:
        """Take note that the fingerprints of records answered up to then were never here."""
        self._copies_forgotten_ms = max(answered_ms, self._copies_forgotten_ms or 0)

    def mark(self, record_id: int) -> list[Mark]:
        """Return a mark after `record_id`, the newest record, behind those within the newest `most`."""
        oldest = 0 if self._most is None else record_id - self._most
        self._marks = [mark for mark in self._marks if oldest <= mark.record_id < record_id]
        self._marks.append(Mark(record_id, self.newest_ms))
        return list(self._marks)

    def restore(self, marks: list[Mark], answers: Iterable[Answer]) -> None:
        """Begin with the answers of all records after the first of the marks up to the last one."""
        begin, end = marks[0], marks[-1]
        self._marks = list(marks)
        self.stored(end.record_id)
        self.forget_up_to(begin.newest_ms)
        self.forget_copies_up_to(end.newest_ms)
        for answer in answers:
            self.add(*answer)

    def _turn(self) -> None:
        if self._old.records:
            self.forget_up_to(self._old.newest_ms)
        self._old, self._young = self._young, _Half()
