"""The journal on real files: all or nothing, whatever dies or runs full."""

from __future__ import annotations

import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from blackbird.engine.journal import Journal, JournalInUse
from blackbird.trading.orders import Order
from blackbird.trading.records import Execution, Record, Refusal
from blackbird.trading.trade import Trade
from tests.support.market import PERP, SPOT
from tests.support.trade_model import START, new_state
from tests.support.workspace import HERE


def execution(number: int, text: str = "order", size: str = "0.25") -> Execution:
    order = Order(
        action="Open Spread",
        buy=PERP,
        buy_price=Decimal("61800.3"),
        sell=SPOT,
        sell_price=Decimal("0.1000000000000000000001"),
        size=Decimal(size),
        ts_buy=1723161256298,
        ts_sell=1723161256208,
        order_id=text,
        spread_id=None,
        expires_at=5,
    )
    return Execution(number, order, 1723161256300, "request 1")


def ids(journal: Journal, limit: int = 1000) -> list[int]:
    return [record.execution_id for record in journal.pending(limit)]


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes: what a full disk does to a write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_records_come_back_as_they_went_in_oldest_first(tmp_path: Path) -> None:
    records: list[Record] = [
        execution(3, 'odd "\\\t\n\u2028 é 日本 😀'),
        Refusal(4, "risk limit exceed", 1723161256300, "o", None),
        execution(5, size="1E+3"),
        Refusal(6, "expired", 1723161256300, None, "request 2"),
    ]
    with closing(Journal(tmp_path / "folder" / "made" / "j.sqlite")) as journal:
        assert journal.pending(10) == []
        journal.append(records[2:])
        journal.append(records[:2])
        assert journal.pending(10) == records
        assert ids(journal, 2) == [3, 4]


def test_records_are_there_in_the_next_life(tmp_path: Path) -> None:
    with closing(Journal(tmp_path / "j.sqlite")) as journal:
        journal.append([execution(1), execution(2)])
    with closing(Journal(tmp_path / "j.sqlite")) as journal:
        assert journal.pending(10) == [execution(1), execution(2)]


def test_appending_nothing_is_no_error(tmp_path: Path) -> None:
    with closing(Journal(tmp_path / "j.sqlite")) as journal:
        journal.append([])
        assert ids(journal) == []


def test_stored_records_are_forgotten_up_to_the_last_one(tmp_path: Path) -> None:
    with closing(Journal(tmp_path / "j.sqlite")) as journal:
        journal.append([execution(number) for number in (1, 2, 3, 10)])
        journal.forget(2)
        assert ids(journal) == [3, 10]
        journal.forget(10)
        assert ids(journal) == []
    with closing(Journal(tmp_path / "j.sqlite")) as journal:
        assert ids(journal) == []


def test_records_of_one_append_are_there_all_or_none(tmp_path: Path) -> None:
    with closing(Journal(tmp_path / "j.sqlite")) as journal:
        journal.append([execution(2)])
        with pytest.raises(sqlite3.Error):
            journal.append([execution(1), execution(2), execution(3)])
        assert ids(journal) == [2]
        journal.append([execution(1), execution(3)])
        assert ids(journal) == [1, 2, 3]


def test_full_disk_takes_none_of_an_append_and_the_journal_goes_on_afterwards(tmp_path: Path) -> None:
    with closing(Journal(tmp_path / "j.sqlite")) as journal:
        journal.append([execution(1)])
        grown = (tmp_path / "j.sqlite-wal").stat().st_size
        with file_size_limit(grown + 5000):
            with pytest.raises(sqlite3.Error):
                journal.append([execution(number, "x" * 200) for number in range(2, 500)])
            assert ids(journal) == [1]
        journal.append([execution(2)])
        assert ids(journal) == [1, 2]
    with closing(Journal(tmp_path / "j.sqlite")) as journal:
        assert ids(journal) == [1, 2]


def test_append_stopped_at_any_byte_of_the_disk_leaves_all_or_none(tmp_path: Path) -> None:
    for room in range(0, 40_000, 1700):
        path = tmp_path / f"{room}.sqlite"
        with closing(Journal(path)) as journal:
            journal.append([execution(1)])
            more = [execution(number, "x" * 200) for number in range(2, 60)]
            with file_size_limit((tmp_path / f"{room}.sqlite-wal").stat().st_size + room):
                try:
                    journal.append(more)
                except sqlite3.Error:
                    expected = [1]
                else:
                    expected = list(range(1, 60))
        with closing(Journal(path)) as journal:
            assert ids(journal) == expected


def test_log_torn_at_any_byte_leaves_whole_appends(tmp_path: Path) -> None:
    """A power cut may leave any part of the log that was not synced."""
    with closing(Journal(tmp_path / "j.sqlite")) as journal:
        sizes = []
        for first in (1, 4, 7):
            journal.append([execution(first + step, "x" * 2000) for step in range(3)])
            sizes.append((tmp_path / "j.sqlite-wal").stat().st_size)
        database, log = (tmp_path / "j.sqlite").read_bytes(), (tmp_path / "j.sqlite-wal").read_bytes()
    assert sizes == sorted(set(sizes))
    whole = {tuple(range(1, last + 1)) for last in (3, 6, 9)}
    for end in (*range(sizes[0], len(log), 1237), *sizes):
        torn = tmp_path / f"torn{end}.sqlite"
        torn.write_bytes(database)
        torn.with_name(f"torn{end}.sqlite-wal").write_bytes(log[:end])
        with closing(Journal(torn)) as journal:
            expected = sum(3 for size in sizes if size <= end)
            found = tuple(ids(journal))
            assert found in whole
            assert len(found) == expected


WRITER = """
import sys
from pathlib import Path
from blackbird.engine.journal import Journal
from tests.unit.engine.test_journal import execution

journal = Journal(Path(sys.argv[1]))
number = 0
while True:
    journal.append([execution(number + step) for step in range(1, 4)])
    number += 3
    print(number, flush=True)
"""


def test_killed_writer_leaves_every_append_that_returned_and_no_part_of_one(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], cwd=HERE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) >= 90:
                break
        writer.kill()
        rest = writer.stdout.read().split()
    returned = int(rest[-1]) if rest else 90
    # The lock of a process that was killed is free.
    with closing(Journal(path)) as journal:
        found = ids(journal, 1_000_000)
    assert found == list(range(1, len(found) + 1))
    assert len(found) % 3 == 0
    assert returned <= len(found) <= returned + 3


def test_journal_belongs_to_one_engine_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    first = Journal(path)
    with pytest.raises(JournalInUse, match="another trading engine has"):
        Journal(path)
    first.append([execution(1)])
    first.close()
    with closing(Journal(path)) as journal:
        assert ids(journal) == [1]


def test_journals_of_two_histories_are_two(tmp_path: Path) -> None:
    with closing(Journal(tmp_path / "a.sqlite")) as first, closing(Journal(tmp_path / "b.sqlite")) as second:
        first.append([execution(1)])
        assert ids(second) == []


def test_sync_brings_the_records_into_the_file_itself(tmp_path: Path) -> None:
    with closing(Journal(tmp_path / "j.sqlite")) as journal:
        journal.append([execution(1), execution(2)])
        journal.sync()
        (tmp_path / "copy.sqlite").write_bytes((tmp_path / "j.sqlite").read_bytes())
    with closing(Journal(tmp_path / "copy.sqlite")) as journal:
        assert ids(journal) == [1, 2]


def test_log_does_not_grow_for_ever_when_it_is_synced(tmp_path: Path) -> None:
    with closing(Journal(tmp_path / "j.sqlite")) as journal:
        sizes = []
        for number in range(1, 40):
            journal.append([execution(number, "x" * 3000)])
            journal.forget(number)
            journal.sync()
            sizes.append((tmp_path / "j.sqlite-wal").stat().st_size)
        assert max(sizes[5:]) <= 2 * max(sizes[:5])


def test_trade_is_open_until_its_outcome_is_there(tmp_path: Path) -> None:
    first = new_state()
    with closing(Journal(tmp_path / "journal.sqlite")) as journal:
        journal.put_trade(first)
        journal.put_trade(msgspec.structs.replace(first, trade_id="other", intended_at=first.intended_at - 1))
    with closing(Journal(tmp_path / "journal.sqlite")) as journal:
        assert [trade.trade_id for trade in journal.open_trades()] == ["other", "trade"], "oldest first"
        assert journal.open_trades()[1] == first
        journal.append([execution(1)], ended="other")
        assert journal.open_trades() == [first]
        assert ids(journal) == [1]


def test_trade_is_replaced_by_what_is_known_of_it_later(tmp_path: Path) -> None:
    with closing(Journal(tmp_path / "journal.sqlite")) as journal:
        trade = Trade(new_state(), lambda _, __: Decimal(0))
        journal.put_trade(trade.state)
        trade.start(START)
        journal.put_trade(trade.state)
        assert journal.open_trades() == [trade.state]
        assert len(journal.open_trades()[0].orders) == 2


def test_trade_stays_open_where_its_outcome_is_not_taken(tmp_path: Path) -> None:
    with closing(Journal(tmp_path / "journal.sqlite")) as journal:
        journal.put_trade(new_state())
        journal.append([execution(1)])
        with pytest.raises(sqlite3.IntegrityError):
            journal.append([execution(1)], ended="trade")
        assert len(journal.open_trades()) == 1


def test_it_knows_how_many_records_it_has_after_each_change_and_when_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with closing(Journal(path)) as journal:
        assert journal.records == 0
        journal.append([execution(number) for number in (1, 2, 3)])
        journal.forget(1)
        assert journal.records == 2 == len(ids(journal))
        with pytest.raises(sqlite3.Error):
            journal.append([execution(4), execution(2)])
        assert journal.records == 2 == len(ids(journal))
    with closing(Journal(path)) as journal:
        assert journal.records == 2
