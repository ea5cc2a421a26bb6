from __future__ import annotations

from typing import Any

import msgspec
import pytest

from blackbird.market.fields import InvalidMessage
from blackbird.monitor.board import Board
from blackbird.status.messages import Status
from tests.support import statuses

AT = 1_723_161_600_000


def receive(board: Board, status: Status) -> None:
    board.receive(msgspec.json.encode(status))


def storage(at: int, messages: int, **changes: Any) -> Status:
    body = msgspec.structs.replace(statuses.storage(), messages=messages)
    return statuses.status("storage", body, at, **changes)


def test_rates_are_over_the_last_seconds() -> None:
    board = Board()
    for second in range(20):
        # 10 a second at first, 100 a second for the last ones.
        receive(board, storage(AT + 1000 * second, 10 * second + max(0, second - 10) * 90))
    assert board.rate("storage", "in") == 100


def test_there_is_no_rate_of_one_status_nor_across_a_restart() -> None:
    board = Board()
    assert board.rate("storage", "in") is None
    receive(board, storage(AT, 1000))
    assert board.rate("storage", "in") is None
    receive(board, storage(AT + 1000, 5, started_ms=AT + 500))
    assert board.rate("storage", "in") is None


def test_latencies_are_those_of_the_last_minute() -> None:
    board = Board()
    slow, fast = [0.9] * 100, [0.002] * 100
    for second in range(0, 120, 5):
        seen = slow if second < 30 else slow + fast
        body = msgspec.structs.replace(statuses.storage(), batch_write=statuses.counts(*seen))
        receive(board, statuses.status("storage", body, AT + 1000 * second))
    # Nothing was observed in the last minute.
    assert board.latency("storage", "batch_write").median is None
    body = msgspec.structs.replace(statuses.storage(), batch_write=statuses.counts(*slow, *fast, *fast))
    receive(board, statuses.status("storage", body, AT + 120_000))
    high = board.latency("storage", "batch_write").high
    assert high is not None
    assert high <= 0.002


def test_a_status_of_an_engine_that_was_replaced_does_not_count() -> None:
    board = Board()
    receive(board, storage(AT + 1000, 7, pid=2))
    receive(board, storage(AT, 99, pid=1))
    assert board.statuses["storage"].pid == 2


@pytest.mark.parametrize("body", [b"", b"{}", b'{"service": "storage"}', b"[1]", b"\xff"])
def test_what_is_no_status_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidMessage):
        Board().receive(body)


def test_a_status_without_the_body_of_its_service_is_refused() -> None:
    status = msgspec.structs.replace(statuses.status("storage", statuses.storage()), service="engine")
    with pytest.raises(InvalidMessage, match="engine"):
        receive(Board(), status)


def test_levels_that_were_left_out_are_the_ones_sent_before() -> None:
    board = Board()
    spot, _ = statuses.legs(0)
    receive(board, statuses.status("signal", statuses.signal(), AT))
    body = statuses.signal()
    bare = [msgspec.structs.replace(book, bids=None, asks=None) for book in body.books]
    receive(board, statuses.status("signal", msgspec.structs.replace(body, books=bare), AT + 500))
    assert board.ladders[spot].sent_ms == AT
    assert len(board.ladders[spot].bids) == 5
