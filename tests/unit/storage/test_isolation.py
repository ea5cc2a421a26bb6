"""Which updates of a rejected batch are at fault, on a database that is a dictionary."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from pika.spec import BasicProperties

from blackbird.storage.isolation import store_updates
from blackbird.storage.orderbook_store import UpdateKey
from blackbird.storage.update import Update
from database_manager import DatabaseUnavailable, RowsRejected


def key(number: int) -> UpdateKey:
    return number, number, number, "spot", "orderbook.50.BTCUSDT", "delta"


def update(lines: str) -> Update:
    return Update(lines, BasicProperties(), b"")


def updates(*numbers: int) -> dict[UpdateKey, Update]:
    return {key(number): update(f"line {number}\n") for number in numbers}


class FakeStore:
    """Keeps updates; `rejects` says which lines it does not take, those of a trial with "trial of" before."""

    def __init__(self, rejects: Callable[[str], bool]) -> None:
        self.rejects = rejects
        self.rows: dict[UpdateKey, Update] = {}
        self.calls = 0

    def add(self, batch: Mapping[UpdateKey, Update]) -> None:
        self.calls += 1
        for each in batch.values():
            self._check(each.lines)
        self.rows.update(batch)

    def trial(self, lines: str) -> None:
        self._check("trial of " + lines)

    def _check(self, lines: str) -> None:
        if self.rejects(lines):
            raise RowsRejected(f"no {lines.strip()}")


def bad(*numbers: int) -> Callable[[str], bool]:
    return lambda lines: lines in {each.lines for each in updates(*numbers).values()}


def test_batch_without_fault_is_one_transaction() -> None:
    store = FakeStore(bad())
    assert store_updates(store, updates(*range(200))) == {}
    assert store.rows == updates(*range(200))
    assert store.calls == 1


@pytest.mark.parametrize("at_fault", [[0], [117], [199], [0, 1], [3, 77, 199], list(range(199))])
def test_updates_at_fault_are_named_and_all_others_stored(at_fault: list[int]) -> None:
    store = FakeStore(bad(*at_fault))
    assert store_updates(store, updates(*range(200))) == {
        key(number): f"no line {number}" for number in at_fault
    }
    assert store.rows == updates(*(set(range(200)) - set(at_fault)))


def test_nobody_is_at_fault_while_everything_is_rejected() -> None:
    store = FakeStore(lambda _: True)
    for batch in (updates(1), updates(*range(50))):
        with pytest.raises(DatabaseUnavailable, match="every message is rejected: no line"):
            store_updates(store, batch)
    assert store.rows == {}


def test_update_without_levels_does_not_show_that_the_table_takes_rows() -> None:
    store = FakeStore(bad(1))
    with pytest.raises(DatabaseUnavailable):
        store_updates(store, {**updates(1), key(2): update("")})


def test_nobody_is_at_fault_when_the_database_stops_taking_rows_meanwhile() -> None:
    # It took line 1, and takes nothing since.
    store = FakeStore(lambda lines: lines != "line 1\n")
    with pytest.raises(DatabaseUnavailable, match="what was taken before is rejected"):
        store_updates(store, updates(1, 2))
    assert store.rows == updates(1)


def test_update_that_was_rejected_in_a_trouble_that_is_over_is_stored() -> None:
    seen: list[str] = []

    def rejects_the_first_ten(lines: str) -> bool:
        seen.append(lines)
        return len(seen) <= 10

    store = FakeStore(rejects_the_first_ten)
    assert store_updates(store, updates(*range(20))) == {}
    assert store.rows == updates(*range(20))


def test_unavailable_database_ends_the_search() -> None:
    class Failing(FakeStore):
        def add(self, batch: Mapping[UpdateKey, Update]) -> None:
            if self.calls == 3:
                raise DatabaseUnavailable("gone")
            super().add(batch)

    with pytest.raises(DatabaseUnavailable, match="gone"):
        store_updates(Failing(bad(7)), updates(*range(20)))
