"""Several processes of one service: whose statuses count, and one status that stands for all of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from blackbird.status.histogram import Counts
from blackbird.status.messages import Status

# A process that is silent for so long is gone.
GONE_SECONDS = 60.0
SHOWN_ORDERS = 30

Process = tuple[str, int, int]  # host, process id, when it was started


def process_of(status: Status) -> Process:
    """Return which process has published a status."""
    return status.host, status.pid, status.started_ms


class Processes:
    """The newest status of each process of a service."""

    def __init__(self) -> None:
        self._statuses: dict[Process, Status] = {}

    def receive(self, status: Status) -> None:
        """Take a status, and forget the processes that it makes superfluous."""
        known = self._statuses.get(process_of(status))
        if known is None or known.published_ms <= status.published_ms:
            self._statuses[process_of(status)] = status
        newest = max(each.published_ms for each in self._statuses.values())
        for process, each in list(self._statuses.items()):
            if each is not status and self._is_gone(each, newest):
                del self._statuses[process]

    def _is_gone(self, status: Status, now_ms: int) -> bool:
        silent_ms = now_ms - status.published_ms
        if silent_ms > GONE_SECONDS * 1000:
            return True
        if silent_ms <= 3 * status.interval_seconds * 1000:
            return False
        others = [each for each in self._statuses.values() if each.published_ms > status.published_ms]
        # Started again; or another one, which was there before, does its work.
        return any(each.started_ms > status.published_ms for each in others) or (
            status.signal is not None and _shown(status) <= set[object]().union(*map(_shown, others))
        )

    def at_work(self) -> Sequence[Status]:
        """Return the statuses of the processes that do the service's work, the oldest first.

        Those on standby do not count, unless nobody else is there.
        """
        known = sorted(self._statuses.values(), key=lambda each: each.published_ms)
        return [each for each in known if not _stands_by(each)] or known[-1:]

    def merged(self) -> Status:
        """Return one status for all that are at work; raises ValueError before the first.

        It is as old as the oldest of them: what one of them has said can be no newer in all.
        """
        statuses = self.at_work()
        newest = max(statuses, key=lambda each: each.published_ms)
        # One trading engine works at a time; of two that say so the other has not noticed yet.
        if len(statuses) == 1 or newest.engine is not None:
            return newest
        body: Any = getattr(newest, newest.service)
        bodies = [getattr(each, each.service) for each in statuses]
        merged = msgspec.structs.replace(
            body, **{name: _merge(name, bodies) for name in body.__struct_fields__}
        )
        return msgspec.structs.replace(
            newest,
            published_ms=statuses[0].published_ms,
            broker="connected" if all(each.broker == "connected" for each in statuses) else "not connected",
            cpu_seconds=sum(each.cpu_seconds for each in statuses),
            resident_bytes=sum(each.resident_bytes for each in statuses),
            failures=_sum(each.failures for each in statuses),
            **{newest.service: merged},
        )


def _stands_by(status: Status) -> bool:
    if status.engine is not None:
        return status.engine.state == "standby"
    return status.signal is not None and not status.signal.may_trade and not status.signal.books


def _shown(status: Status) -> set[object]:
    if status.signal is None:
        return set()
    return {(book.channel, book.symbol) for book in status.signal.books}


def _merge(name: str, bodies: Sequence[Any]) -> Any:
    """Return a field of several bodies, the newest last: counters and histograms as sums."""
    values = [getattr(body, name) for body in bodies]
    if name in _OF_ALL:
        return _OF_ALL[name](values)
    if isinstance(values[-1], (Counts, Mapping, int)) and not isinstance(values[-1], bool):
        return functools.reduce(_add, values)
    return values[-1]


def _of_newest(key: Callable[[Any], object]) -> Callable[[Sequence[Sequence[Any]]], list[Any]]:
    """Return what merges lists by a key; of two entries for it the one of the newer status is taken."""
    return lambda lists: list({key(each): each for entries in lists for each in entries}.values())


def _newest_orders(lists: Sequence[Sequence[Any]]) -> list[Any]:
    orders = sorted((order for orders in lists for order in orders), key=lambda order: order.answered_ms)
    return orders[-SHOWN_ORDERS:]


def _worst(states: Sequence[str]) -> str:
    return next((state for state in states if state != "storing"), "storing")


def _not_connected(states: Sequence[str]) -> str:
    return next((state for state in states if state != "connected"), "connected")


_OF_ALL: Mapping[str, Callable[[Any], Any]] = {
    "books": _of_newest(lambda book: (book.channel, book.symbol)),
    "pairs": _of_newest(lambda pair: frozenset((pair.directions[0].long, pair.directions[0].short))),
    "streams": _of_newest(lambda stream: (stream.channel, stream.symbol)),
    "orders": _newest_orders,
    "may_trade": all,
    "publisher": _not_connected,
    "state": _worst,
    "stored_cts_ms": max,
    "stored_ms": max,
}


def _add(first: Any, second: Any) -> Any:
    return _sum((first, second)) if isinstance(first, Mapping) else first + second


def _sum(counts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {}
    for each in counts:
        for name, number in each.items():
            total[name] = _add(total[name], number) if name in total else number
    return total
