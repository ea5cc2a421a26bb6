"""What the trading engine says of itself."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from pika.spec import BasicProperties

from blackbird.engine.answerer import Answerer
from blackbird.engine.engine_status import MOST_SPREADS, EngineStatusSource
from blackbird.engine.journal_loops import StoreLoop
from blackbird.engine.replies import Replies
from blackbird.engine.requests import Request
from blackbird.engine.state import EngineState
from blackbird.trading.orders import QUESTION, encode_order
from tests.support.fake_history import FakeHistory, new_engine, new_order
from tests.support.market import PERP, SPOT


class FakeSession:
    """Takes everything."""

    def publish(self, exchange: str, key: str, body: bytes, properties: BasicProperties) -> None:
        pass

    def dead_letter(self, queue: str, reason: str, properties: BasicProperties, body: bytes) -> None:
        pass

    def acknowledge(self, delivery_tag: int, *, multiple: bool = False) -> None:
        pass

    async def declare_queue(self, name: str) -> int:
        del name
        return 0

    def close(self) -> None:
        pass


class Scene:
    def __init__(self, journals: Path) -> None:
        self.is_connected = True
        self.state = EngineState(new_engine, FakeHistory(), journals)
        self.storing = StoreLoop(self.state, self._on_fenced)
        self.replies = Replies(remembered=10)
        self.answerer = Answerer(self.state, self.replies, self.storing.notify)
        self.source = EngineStatusSource(
            new_engine(),
            self.state,
            self.replies.counts,
            self.storing,
            is_connected=lambda: self.is_connected,
            stores=True,
        )

    async def _on_fenced(self) -> None:
        raise AssertionError

    async def recover(self) -> None:
        await self.state.recover(asyncio.get_running_loop().create_future())

    async def answer(self, *bodies: bytes) -> None:
        requests = [Request(1, False, BasicProperties(reply_to="x"), body) for body in bodies]
        assert self.state.engine is not None
        await self.answerer.answer(self.state.engine, FakeSession(), requests)


def test_figures_are_those_of_the_engine(tmp_path: Path) -> None:
    async def run() -> Any:
        scene = Scene(tmp_path)
        await scene.recover()
        orders = [encode_order(new_order()) for _ in range(MOST_SPREADS + 1)]
        await scene.answer(*orders, QUESTION, b"no order", orders[0])
        engine, status = scene.state.engine, await scene.source.describe()
        assert engine is not None
        assert status.pnl == engine.pnl
        assert status.credit == sum(spread.quantity * spread.spread for spread in engine.spreads)
        assert {(leg.channel, leg.symbol): leg.position for leg in status.legs} == engine.positions
        assert {(leg.channel, leg.symbol): leg.exposure for leg in status.legs} == engine.risks
        scene.state.close()
        return status

    status = asyncio.run(run())
    assert (status.state, status.stores, status.limit, status.risk_model) == (
        "active",
        True,
        1_000_000,
        "cash",
    )
    assert status.spreads_open == MOST_SPREADS + 1 == status.orders_known
    assert len(status.open_spreads) == MOST_SPREADS
    assert (status.open_spreads[0].long, status.open_spreads[0].short) in {(PERP, SPOT), (SPOT, PERP)}
    assert status.open_spreads[0].opened_ms == 1000
    assert status.answers == {
        "Open Spread": {"ACK": MOST_SPREADS + 1},
        "": {"open spreads": 1, "invalid order": 1, "ACK": 1},
    }
    assert status.answer_time.total == MOST_SPREADS + 4
    assert status.dead_letters == 1
    assert status.journal_records == MOST_SPREADS + 1
    (pair,) = status.pairs
    assert (pair.open_spreads, pair.opened, pair.closed) == (MOST_SPREADS + 1, MOST_SPREADS + 1, 0)
    assert pair.cash == status.pnl
    assert pair.turnover == sum(status.turnover.values())


def test_the_state_is_named(tmp_path: Path) -> None:
    async def run() -> list[str]:
        scene = Scene(tmp_path)
        scene.is_connected = False
        seen = [await scene.source.describe()]
        scene.is_connected = True
        seen.append(await scene.source.describe())
        await scene.recover()
        seen.append(await scene.source.describe())
        scene.state.close()
        return [status.state for status in seen]

    assert asyncio.run(run()) == ["waiting", "recovering", "active"]


def test_the_lag_lasts_as_long_as_something_is_not_stored(tmp_path: Path) -> None:
    async def run() -> None:
        scene = Scene(tmp_path)
        await scene.recover()
        assert scene.storing.lag_seconds == 0
        await scene.answer(encode_order(new_order()))
        await asyncio.sleep(0)
        first = scene.storing.lag_seconds
        assert first > 0
        await scene.answer(encode_order(new_order()))
        assert scene.storing.lag_seconds >= first
        storing = asyncio.create_task(scene.storing.run())
        await scene.storing.drain(10)
        assert (await scene.source.describe()).journal_records == 0
        assert scene.storing.lag_seconds == 0
        storing.cancel()
        scene.state.close()

    asyncio.run(run())
