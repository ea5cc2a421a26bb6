"""Who has the lease of a history and when another engine may take it over, with a clock made by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from blackbird.engine.lease import RENEWALS, Holder, Lease, LeaseHeld
from database_manager import DatabaseUnavailable

SECONDS = 5.0
MINE, OTHER = "my journal", "another journal"


class Table:
    """The lease as one row; `error` is raised instead of an answer."""

    engine = "me"

    def __init__(self) -> None:
        self.holder = Holder("history", "other", OTHER, "host, process 1", 1)
        self.renewed: bool | None = False
        self.error: Exception | None = None
        self.given_back = 0

    def look(self) -> Holder:
        self._fail()
        return self.holder

    def renew(self) -> bool | None:
        self._fail()
        return self.renewed

    def give_back(self) -> None:
        self._fail()
        self.given_back += 1

    def other_renews(self) -> None:
        self.holder = self.holder._replace(renewals=self.holder.renewals + 1)

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Scene:
    def __init__(self, *, inherits: bool = True) -> None:
        self.table = Table()
        self.clock = Clock()
        self.lease = Lease(self.table, SECONDS, inherits=inherits, clock=self.clock)

    async def look(self, after: float = 0.0, journal: str = MINE) -> bool:
        self.clock.now += after
        return await self.lease.look(lambda _: journal)


def run(script: Callable[[Scene], Awaitable[None]], *, inherits: bool = True) -> None:
    async def whole() -> None:
        await script(Scene(inherits=inherits))

    asyncio.run(whole())


def test_a_lease_that_is_not_renewed_is_taken_over_after_its_duration() -> None:
    async def script(scene: Scene) -> None:
        assert not await scene.look()
        assert scene.lease.waits_for == "host, process 1"
        assert not await scene.look(after=SECONDS - 0.5)
        assert await scene.look(after=0.5)
        assert scene.lease.waits_for is None

    run(script)


def test_every_renewal_is_waited_for_anew() -> None:
    async def script(scene: Scene) -> None:
        assert not await scene.look()
        for _ in range(5):
            scene.table.other_renews()
            assert not await scene.look(after=SECONDS - 0.5)
        assert await scene.look(after=SECONDS)

    run(script)


def test_time_in_which_the_database_did_not_answer_counts_only_once_it_was_seen_unrenewed() -> None:
    async def script(scene: Scene) -> None:
        assert not await scene.look()
        scene.table.error = DatabaseUnavailable("away")
        with pytest.raises(DatabaseUnavailable):
            await scene.look(after=60)
        scene.table.error = None
        scene.table.other_renews()  # the other one was back first
        assert not await scene.look()

    run(script)


@pytest.mark.parametrize(
    "holder",
    [
        Holder("history", None, OTHER, None, 1),
        Holder("history", "me", OTHER, None, 1),
        Holder("history", "other", MINE, None, 1),
        Holder("history", "other", None, None, 0),
    ],
    ids=["given back", "own", "same journal", "older than leases"],
)
def test_a_lease_of_nobody_and_one_of_a_dead_owner_of_the_journal_are_taken_at_once(
    holder: Holder,
) -> None:
    async def script(scene: Scene) -> None:
        scene.table.holder = holder
        assert await scene.look()

    run(script)


def test_an_engine_of_real_orders_never_takes_over_what_another_journal_may_know() -> None:
    async def script(scene: Scene) -> None:
        assert not await scene.look()
        assert not await scene.look(after=100 * SECONDS)
        scene.table.holder = scene.table.holder._replace(engine=None)
        assert await scene.look()

    run(script, inherits=False)


def test_the_database_is_asked_once_the_last_renewal_is_too_old() -> None:
    async def script(scene: Scene) -> None:
        scene.lease.claimed(scene.clock.now)
        scene.table.renewed = None
        scene.clock.now += SECONDS - 0.1
        assert await scene.lease.is_certain()
        scene.clock.now += 0.1
        with pytest.raises(LeaseHeld):
            await scene.lease.is_certain()
        scene.table.renewed = False
        assert await scene.lease.is_certain()
        scene.table.renewed = None
        assert await scene.lease.is_certain(), "renewed a moment ago"

    run(script)


@pytest.mark.parametrize("has_standby", [False, True])
def test_without_the_database_orders_are_answered_only_if_nobody_stands_by(*, has_standby: bool) -> None:
    async def script(scene: Scene) -> None:
        scene.lease.claimed(scene.clock.now)
        scene.table.renewed = has_standby
        await scene.lease.renew()
        scene.clock.now += SECONDS
        scene.table.error = DatabaseUnavailable("away")
        assert await scene.lease.is_certain() is not has_standby

    run(script)


def test_the_lease_is_renewed_until_another_engine_has_it() -> None:
    async def script(scene: Scene) -> None:
        lease = Lease(scene.table, seconds=RENEWALS * 0.001, clock=scene.clock)
        lease.claimed(scene.clock.now)
        lost = asyncio.Event()

        async def on_lost() -> None:
            lost.set()

        keeping = asyncio.create_task(lease.keep(on_lost))
        scene.clock.now += 1000
        await until(lambda: scene.clock.now == 1100 and lease.renewed_at == 1100)
        scene.table.error = DatabaseUnavailable("away")
        scene.clock.now += 1000
        await asyncio.sleep(0)
        scene.table.error = None
        await until(lambda: lease.renewed_at == 2100)
        scene.table.renewed = None
        async with asyncio.timeout(10):
            await lost.wait()
        assert lease.renewed_at is None
        keeping.cancel()

    run(script)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def test_only_an_engine_that_has_the_lease_gives_it_back() -> None:
    async def script(scene: Scene) -> None:
        await scene.lease.give_back(1)
        assert scene.table.given_back == 0
        scene.lease.claimed(scene.clock.now)
        await scene.lease.give_back(1)
        await scene.lease.give_back(1)
        assert scene.table.given_back == 1

    run(script)
