"""What data storage says of itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pika.spec import BasicProperties

from blackbird.runtime.failure_log import FailureLog
from blackbird.storage.batch import Batch
from blackbird.storage.orderbook_store import UpdateKey
from blackbird.storage.storage_status import Progress, StorageStatusSource
from blackbird.storage.update import Update

PROPERTIES = BasicProperties()


class Scene:
    def __init__(self, *, discard: bool = False) -> None:
        self.progress: Progress[UpdateKey] = Progress(lambda: 5000)
        self.gathered = 0
        self.source = StorageStatusSource(
            self.progress,
            FailureLog(),
            rows=lambda: 6,
            gathered=lambda: self.gathered,
            is_connected=lambda: True,
            discard=discard,
        )

    @property
    def status(self) -> Any:
        return asyncio.run(self.source.describe())


def batch(*cts: int, unreadable: int = 0) -> Batch[UpdateKey]:
    made: Batch[UpdateKey] = Batch("storage")
    for number, each in enumerate(cts, 1):
        made.count(number)
        made.add((each, number, 0, "spot", "t", "delta"), Update("row\nrow\nrow\n", PROPERTIES, b"body"))
    for number in range(unreadable):
        made.count(len(cts) + number + 1)
        made.dead_letter_message("garbage", PROPERTIES, b"body")
    return made


def test_a_batch_is_counted_when_it_is_committed() -> None:
    scene = Scene()
    one = batch(100, 101, unreadable=1)
    scene.gathered = 4
    scene.progress.begun(one)
    assert (scene.status.messages, scene.status.stored, scene.status.waiting) == (7, 0, 7)
    scene.progress.done(one, 0.004)
    status = scene.status
    assert (status.messages, status.stored, status.rows, status.waiting) == (7, 3, 6, 4)
    assert (status.dead_letters, status.stored_cts_ms, status.stored_ms) == (1, 101, 5000)
    assert status.batch_write.total == 1
    assert status.batch_write.sum == pytest.approx(0.004)


def test_a_database_that_takes_nothing_is_named_until_it_does() -> None:
    scene = Scene()
    one = batch(100)
    scene.progress.begun(one)
    assert scene.status.state == "storing"
    scene.progress.begun(one, failed=True)
    assert scene.status.state == "database unavailable"
    scene.progress.done(one, 3)
    assert scene.status.state == "storing"


def test_what_is_discarded_is_no_batch() -> None:
    scene = Scene(discard=True)
    one: Batch[UpdateKey] = Batch("storage")
    one.count(1)
    scene.progress.begun(one)
    scene.progress.done(one, 0)
    assert (scene.status.state, scene.status.stored) == ("discarding", 1)
    assert scene.status.batch_write.total == 0
