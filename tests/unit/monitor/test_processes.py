"""Several processes of one service on one page."""

from __future__ import annotations

from typing import Any

import msgspec

from blackbird.monitor.board import Board
from blackbird.monitor.processes import GONE_SECONDS
from blackbird.status.messages import SignalStatus, Status
from tests.support import statuses

AT = 1_723_161_600_000
OLD = AT - 100_000


def receive(board: Board, *several: Status) -> None:
    for status in several:
        board.receive(msgspec.json.encode(status))


def signal(groups: range, at: int, pid: int, **changes: Any) -> Status:
    """Return the status of a signal engine that has these groups."""
    whole = statuses.signal(groups.stop)
    mine = {leg for group in groups for leg in statuses.legs(group)}
    body = msgspec.structs.replace(
        whole,
        books=[book for book in whole.books if (book.channel, book.symbol) in mine],
        pairs=[pair for pair in whole.pairs if pair.directions[0].long in mine],
        **changes,
    )
    return statuses.status("signal", body, at, pid=pid, started_ms=OLD)


def engine(state: str, at: int, pid: int) -> Status:
    body = msgspec.structs.replace(statuses.engine(), state=state)
    return statuses.status("engine", body, at, pid=pid, started_ms=OLD)


def of_signal(board: Board) -> SignalStatus:
    body = board.statuses["signal"].signal
    assert body is not None
    return body


def test_an_engine_on_standby_hides_nothing_of_the_one_that_works() -> None:
    board = Board()
    receive(board, engine("active", AT, 1), engine("standby", AT + 100, 2))
    status = board.statuses["engine"]
    assert (status.pid, status.published_ms) == (1, AT)
    # The first is dead: what it has said gets old, until the second takes over.
    receive(board, engine("standby", AT + 5000, 2))
    assert (board.statuses["engine"].pid, board.published_ms("engine")) == (1, AT)
    receive(board, engine("recovering", AT + 6000, 2), engine("active", AT + 6500, 2))
    assert board.statuses["engine"].pid == 2


def test_an_engine_on_standby_is_shown_where_there_is_no_other() -> None:
    board = Board()
    receive(board, engine("standby", AT, 1))
    assert board.statuses["engine"].pid == 1


def test_pairs_and_books_of_signal_engines_are_shown_together_and_their_counters_added() -> None:
    board = Board()
    first = signal(range(2), AT, 1, updates={"applied": 10}, orders_in_flight=1)
    second = signal(range(2, 3), AT + 100, 2, updates={"applied": 5, "gap": 1}, orders_in_flight=2)
    receive(board, first, second)
    assert {pair.group for pair in board.pairs} == {pair.group for pair in statuses.signal(3).pairs}
    assert set(board.books) == {leg for group in range(3) for leg in statuses.legs(group)}
    assert set(board.ladders) == set(board.books)
    assert of_signal(board).updates == {"applied": 15, "gap": 1}
    assert of_signal(board).orders_in_flight == 3
    assert board.published_ms("signal") == AT, "what is shown is as old as the oldest part of it"


def test_what_a_silent_engine_has_shown_gets_old_until_another_one_shows_it() -> None:
    board = Board()
    receive(board, signal(range(1), AT, 1), signal(range(1, 2), AT, 2))
    receive(board, signal(range(1, 2), AT + 5000, 2))
    assert board.published_ms("signal") == AT
    assert len(board.pairs) == 2
    # The other one has taken its partitions over.
    receive(board, signal(range(2), AT + 6000, 2))
    assert board.published_ms("signal") == AT + 6000
    assert len(board.pairs) == 2


def test_a_process_that_is_silent_for_a_minute_is_gone() -> None:
    board = Board()
    receive(board, signal(range(1), AT, 1), signal(range(1, 2), AT, 2))
    gone = AT + int(GONE_SECONDS * 1000) + 1
    receive(board, signal(range(1, 2), gone, 2))
    assert board.published_ms("signal") == gone
    assert len(board.pairs) == 1


def test_a_service_that_was_started_again_is_there_at_once() -> None:
    board = Board()
    receive(board, statuses.status("storage", statuses.storage(), AT, pid=1, started_ms=OLD))
    receive(board, statuses.status("storage", statuses.storage(), AT + 2500, pid=2, started_ms=AT + 2000))
    assert board.published_ms("storage") == AT + 2500


def test_a_signal_engine_that_waits_for_the_queue_does_not_count() -> None:
    board = Board()
    waiting = signal(range(0), AT + 100, 2, may_trade=False)
    receive(board, signal(range(1), AT, 1), waiting)
    assert of_signal(board).may_trade
    assert board.published_ms("signal") == AT


def test_rates_and_latencies_are_those_of_all_processes() -> None:
    board = Board()
    for second in range(3):
        for pid, messages, took in ((1, 100, 0.0002), (2, 30, 0.9)):
            counts = statuses.counts(*[took] * second)
            body = msgspec.structs.replace(statuses.storage(), messages=second * messages, batch_write=counts)
            receive(board, statuses.status("storage", body, AT + second * 1000, pid=pid, started_ms=OLD))
    assert board.rate("storage", "in") == 130
    median, high = board.latency("storage", "batch_write")
    assert median is not None
    assert high is not None
    assert median < 0.001
    assert high > 0.5


def test_one_that_cannot_store_is_seen_among_several() -> None:
    board = Board()
    away = msgspec.structs.replace(statuses.storage(), state="database unavailable")
    receive(board, statuses.status("storage", away, AT, pid=1, started_ms=OLD))
    receive(board, statuses.status("storage", statuses.storage(), AT + 1, pid=2, started_ms=OLD))
    storage = board.statuses["storage"].storage
    assert storage is not None
    assert storage.state == "database unavailable"
