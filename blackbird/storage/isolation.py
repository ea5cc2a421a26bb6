"""Which updates of a rejected batch are at fault."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

from blackbird.storage.update import Update
from database_manager import DatabaseUnavailable, RowsRejected

K = TypeVar("K")


class UpdateStore(Protocol[K]):
    """Where updates are stored; both methods raise DatabaseUnavailable or RowsRejected."""

    def add(self, batch: Mapping[K, Update]) -> None:
        """Store the rows of each update that is not stored yet, all or none."""

    def trial(self, lines: str) -> None:
        """Write the rows of an update and roll back."""


def store_updates(store: UpdateStore[K], updates: Mapping[K, Update]) -> dict[K, str]:
    """Store updates; return those at fault, each with the database's reason.

    An update is at fault when the database rejects it alone, then takes another one, then rejects it again.
    While the database takes no update at all the fault is its own: that raises DatabaseUnavailable, as every
    other trouble does. What was stored by then stays stored, and is recognised on the next attempt.
    """
    stored, rejected = _separate(store, updates)
    if not rejected:
        return rejected
    reason = next(iter(rejected.values()))
    sample = next((updates[key].lines for key in stored if updates[key].lines), None)
    if sample is None:
        raise DatabaseUnavailable(f"every message is rejected: {reason}")
    try:
        store.trial(sample)
    except RowsRejected as error:
        raise DatabaseUnavailable(f"what was taken before is rejected: {error}") from error
    return _separate(store, {key: updates[key] for key in rejected})[1]


def _separate(store: UpdateStore[K], updates: Mapping[K, Update]) -> tuple[list[K], dict[K, str]]:
    """Store all updates that the database takes, halving what it rejects.

    Return what is stored, and what is rejected, with the database's reason.
    """
    stored: list[K] = []
    rejected: dict[K, str] = {}
    parts = [list(updates)]
    while parts:
        part = parts.pop()
        try:
            store.add({key: updates[key] for key in part})
        except RowsRejected as error:
            if len(part) == 1:
                rejected[part[0]] = str(error)
            else:
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
        else:
            stored.extend(part)
    return stored, rejected
