"""How the engine's state is recovered, stored and released, with a history that is a list."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import pytest

from blackbird.broker.session import SessionLost
from blackbird.engine.execution_store import Fenced, OtherMode
from blackbird.engine.journal import Journal
from blackbird.engine.state import STORE_AT_ONCE, EngineState
from database_manager import DatabaseUnavailable, RowsRejected
from tests.support.fake_history import FakeHistory, executions, new_engine, new_order
from tests.support.trade_model import new_state

T = TypeVar("T")


def with_state(folder: Path, history: FakeHistory | None, script: Callable[[EngineState], Awaitable[T]]) -> T:
    async def run() -> T:
        state = EngineState(new_engine, history, folder)
        try:
            return await script(state)
        finally:
            state.close()

    return asyncio.run(run())


async def recover(state: EngineState) -> None:
    await state.recover(asyncio.get_running_loop().create_future())


def fill_journal(folder: Path, count: int, name: str = "history") -> None:
    with closing(Journal(folder / f"{name}.sqlite")) as journal:
        journal.append(executions(count))


def journaled(folder: Path) -> int:
    with closing(Journal(folder / "history.sqlite")) as journal:
        return len(journal.pending(1_000_000))


def test_recovered_engine_has_what_the_history_and_the_journal_hold(tmp_path: Path) -> None:
    history = FakeHistory()
    records = executions(5)
    history.records = records[:2]
    with closing(Journal(tmp_path / "history.sqlite")) as journal:
        journal.append(records[1:])  # one of them stored and not removed yet

    async def script(state: EngineState) -> None:
        await recover(state)
        assert state.engine is not None
        assert state.engine.pnl == 10
        assert len(state.engine.orders) == 5
        assert state.engine.execute(executions(1)[0].order).execution_id == 6  # type: ignore[union-attr]

    with_state(tmp_path, history, script)
    # The mode of the history is known for certain only when the journal, which is of that mode, is stored.
    assert history.steps == ["claim", "add", "enter mode", "replay"]
    assert history.records == records
    assert history.owned
    assert journaled(tmp_path) == 0


# --- checkpoints ---------------------------------------------------------------------------------


async def decide(state: EngineState, count: int, *, store: bool = True) -> None:
    """Execute and journal so many orders, and store them."""
    assert state.engine is not None
    for _ in range(count):
        state.append([state.engine.execute(new_order())])
    while store and await state.store_pending():
        pass


@pytest.fixture
def checkpoint_every_10(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blackbird.engine.state.CHECKPOINT_RECORDS", 10)
    monkeypatch.setattr("blackbird.engine.state.CHECKPOINT_SPREADS", 0)


@pytest.mark.usefixtures("checkpoint_every_10")
def test_checkpoint_is_saved_when_due_and_a_start_reads_what_came_after_it(tmp_path: Path) -> None:
    history = FakeHistory()

    async def fill(state: EngineState) -> None:
        await recover(state)
        await decide(state, 9)
        assert "save checkpoint" not in history.steps
        await decide(state, 1)
        assert history.checkpoint is not None
        assert history.checkpoint.execution_id == 10
        await decide(state, 3)
        assert state.engine is not None
        history.books_at_end = state.engine.books()

    async def start_again(state: EngineState) -> None:
        await recover(state)
        assert state.engine is not None
        assert state.engine.books() == history.books_at_end
        assert len(state.engine.orders) == 3
        assert await state.checkpoint_agrees()

    with_state(tmp_path, history, fill)
    with_state(tmp_path, history, start_again)


@pytest.mark.usefixtures("checkpoint_every_10")
def test_checkpoint_waits_until_all_that_it_is_made_of_is_stored(tmp_path: Path) -> None:
    history = FakeHistory()

    async def script(state: EngineState) -> None:
        await recover(state)
        await decide(state, STORE_AT_ONCE + 10, store=False)
        await state.store_pending()
        assert "save checkpoint" not in history.steps
        await state.store_pending()
        assert history.checkpoint is not None
        assert history.checkpoint.execution_id == STORE_AT_ONCE + 10

    with_state(tmp_path, history, script)


@pytest.mark.usefixtures("checkpoint_every_10")
def test_books_of_a_core_that_is_recovered_anew_are_no_checkpoint(tmp_path: Path) -> None:
    history = FakeHistory()

    async def script(state: EngineState) -> None:
        await recover(state)
        await decide(state, STORE_AT_ONCE + 10, store=False)
        assert state.engine is not None
        state.engine.execute(new_order())  # ahead of the journal
        await state.store_pending()  # takes the books, and waits for the rest
        state.invalidate()
        await recover(state)
        await decide(state, 1)
        assert history.checkpoint == state.engine.books()

    with_state(tmp_path, history, script)


@pytest.mark.usefixtures("checkpoint_every_10")
def test_checkpoint_that_turns_out_not_to_agree_is_reported_once(tmp_path: Path) -> None:
    history = FakeHistory()

    async def fill(state: EngineState) -> None:
        await recover(state)
        assert await state.checkpoint_agrees(), "there is none"
        await decide(state, 10)

    async def start_again(state: EngineState) -> None:
        await recover(state)
        history.checkpoint_agrees = False
        assert not await state.checkpoint_agrees()
        assert await state.checkpoint_agrees(), "compared once"

    with_state(tmp_path, history, fill)
    with_state(tmp_path, history, start_again)


def test_long_journal_is_stored_in_portions(tmp_path: Path) -> None:
    history = FakeHistory()
    fill_journal(tmp_path, STORE_AT_ONCE + 1)
    with_state(tmp_path, history, recover)
    assert history.added == [STORE_AT_ONCE, 1]


def test_journal_of_another_history_is_left_alone(tmp_path: Path) -> None:
    fill_journal(tmp_path, 3)
    other = FakeHistory("other")
    with_state(tmp_path, other, recover)
    assert other.records == []
    assert journaled(tmp_path) == 3


def test_without_a_history_nothing_is_written(tmp_path: Path) -> None:
    async def script(state: EngineState) -> None:
        await recover(state)
        engine = state.engine
        assert engine is not None
        assert not state.append([engine.execute(executions(1)[0].order)])  # type: ignore[union-attr]
        assert await state.is_active()
        assert await state.store_pending() == 0
        await state.sync()
        await state.release()
        assert state.engine is engine, "what is in memory alone is not given up"

    with_state(tmp_path, None, script)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error", [DatabaseUnavailable("down"), RowsRejected("row"), Fenced("another"), OSError("full")]
)
def test_recovery_is_tried_again_after_a_failure(tmp_path: Path, error: Exception) -> None:
    history = FakeHistory()
    history.records = executions(2)
    history.errors = [error, error]

    async def script(state: EngineState) -> int:
        await recover(state)
        assert state.engine is not None
        return len(state.engine.orders)

    assert with_state(tmp_path, history, script) == 2


def test_recovery_waits_for_the_journal_of_another_engine(tmp_path: Path) -> None:
    history = FakeHistory()
    other = Journal(tmp_path / "history.sqlite")

    async def script(state: EngineState) -> None:
        recovering = asyncio.create_task(recover(state))
        while len(history.steps) < 3:
            await asyncio.sleep(0.001)
        assert state.engine is None
        other.close()
        await recovering
        assert state.engine is not None

    with_state(tmp_path, history, script)


def test_recovery_ends_with_the_session(tmp_path: Path) -> None:
    history = FakeHistory()
    history.errors = [DatabaseUnavailable("down")] * 1000

    async def script(state: EngineState) -> None:
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lost.set_exception(SessionLost("gone"))
        with pytest.raises(SessionLost):
            await state.recover(lost)

    with_state(tmp_path, history, script)


def test_history_of_another_mode_is_not_waited_for(tmp_path: Path) -> None:
    history = FakeHistory()
    history.errors = [OtherMode("simulated")]
    with pytest.raises(OtherMode):
        with_state(tmp_path, history, recover)


def test_records_are_journaled_until_they_are_stored(tmp_path: Path) -> None:
    history = FakeHistory()

    async def script(state: EngineState) -> None:
        await recover(state)
        assert not state.append([])
        assert state.append(executions(3))
        assert journal_size(state) == 3
        assert await state.store_pending() == 3
        assert journal_size(state) == 0
        assert await state.store_pending() == 0

    with_state(tmp_path, history, script)
    assert len(history.records) == 3


def journal_size(state: EngineState) -> int:
    assert state.journal is not None
    return len(state.journal.pending(1000))


def test_record_that_cannot_be_stored_stays_in_the_journal(tmp_path: Path) -> None:
    history = FakeHistory()

    async def script(state: EngineState) -> None:
        await recover(state)
        state.append(executions(3))
        for error in (DatabaseUnavailable("down"), Fenced("another")):
            history.errors = [error]
            with pytest.raises(type(error)):
                await state.store_pending()
            assert journal_size(state) == 3

    with_state(tmp_path, history, script)


def test_full_disk_is_an_error_of_the_journal(tmp_path: Path) -> None:
    async def script(state: EngineState) -> None:
        await recover(state)
        state.append(executions(2))
        with pytest.raises(sqlite3.Error):
            state.append(executions(2))  # the same ids again

    with_state(tmp_path, FakeHistory(), script)


def test_released_state_leaves_history_and_journal_to_another_engine(tmp_path: Path) -> None:
    history = FakeHistory()

    async def script(state: EngineState) -> None:
        await recover(state)
        state.append(executions(2))
        await state.release()
        assert (state.engine, state.journal) == (None, None)
        assert journaled(tmp_path) == 2
        await state.release()
        await recover(state)
        assert state.engine is not None
        assert len(state.engine.orders) == 2

    with_state(tmp_path, history, script)


def test_engine_is_active_until_another_claims_the_history(tmp_path: Path) -> None:
    history = FakeHistory()

    async def script(state: EngineState) -> None:
        assert await state.is_active(), "nothing is recovered yet that could be outdated"
        await recover(state)
        assert await state.is_active()
        history.errors = [DatabaseUnavailable("down")]
        assert await state.is_active(), "another engine would need the database too"
        history.owned = False
        assert not await state.is_active()

    with_state(tmp_path, history, script)


def test_invalidated_state_is_recovered_with_the_same_journal(tmp_path: Path) -> None:
    history = FakeHistory()

    async def script(state: EngineState) -> None:
        await recover(state)
        assert state.engine is not None
        state.engine.execute(executions(1)[0].order)  # type: ignore[union-attr]
        state.invalidate()
        await recover(state)
        assert state.engine.orders == {}, "what was not journaled did not happen"

    with_state(tmp_path, history, script)


def test_intent_is_on_the_disk_when_it_is_taken(tmp_path: Path) -> None:
    async def script(state: EngineState) -> None:
        await recover(state)
        await state.intend(new_state())
        # Nothing of it is in the log alone, which the checkpoint has synced and copied.
        assert b'"trade_id":"trade"' in (tmp_path / "history.sqlite").read_bytes()
        assert [trade.trade_id for trade in state.open_trades()] == ["trade"]

    with_state(tmp_path, FakeHistory(), script)


def test_nothing_is_intended_once_the_journal_is_left_to_another_engine(tmp_path: Path) -> None:
    async def script(state: EngineState) -> None:
        await recover(state)
        await state.release()
        with pytest.raises(Fenced):
            await state.intend(new_state())
        assert state.open_trades() == []

    with_state(tmp_path, FakeHistory(), script)


def test_engine_is_waited_for_until_it_is_recovered(tmp_path: Path) -> None:
    async def script(state: EngineState) -> None:
        waiting = asyncio.create_task(state.wait_for_engine())
        await recover(state)
        assert await waiting is state.engine
        state.invalidate()
        waiting = asyncio.create_task(state.wait_for_engine())
        await asyncio.sleep(0)
        assert not waiting.done()
        await recover(state)
        assert await waiting is state.engine

    with_state(tmp_path, FakeHistory(), script)
