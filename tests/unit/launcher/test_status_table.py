"""What the demo's live table shows."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from blackbird.market.instrument import Instrument
from blackbird.status.histogram import Counts
from blackbird.status.messages import (
    CollectorStatus,
    Direction,
    EngineStatus,
    LegStatus,
    PairStatus,
    SignalStatus,
    Status,
    StorageStatus,
    WhyNot,
)
from launcher.status_table import StatusTable

SPOT = Instrument("spot", "BTCUSDT")
PERP = Instrument("linear", "BTCPERP")
ZERO = Decimal(0)
PAIR = PairStatus(
    "a",
    (
        Direction(
            PERP, SPOT, Decimal("26.19"), Decimal("0.981"), ZERO, Decimal("26.31"), 2, Decimal(3), Decimal(90)
        ),
        Direction(SPOT, PERP, Decimal("-26.31"), Decimal(1), ZERO, Decimal("-26.19")),
    ),
    WhyNot.RISK_LIMIT,
    6000,
)


def status(service: Any, number: int, **body: Any) -> Status:
    return Status(
        service=service,
        version="1",
        mode="simulated",
        mode_text="SIMULATED ORDERS",
        host="h",
        pid=1,
        started_ms=1000,
        published_ms=1000 + number * 1000,
        number=number,
        interval_seconds=1,
        broker="connected",
        cpu_seconds=0.1 * number,
        resident_bytes=50_000_000,
        failures={},
        **body,
    )


def collector(number: int) -> Status:
    body = CollectorStatus([], "connected", 0, 100, 20 * number, 20 * number, 0, Counts(), Counts())
    return status("collector", number, collector=body)


def storage(number: int) -> Status:
    body = StorageStatus("storing", 10 * number, 10 * number, 150 * number, 0, Counts(), 0, 0, 0)
    return status("storage", number, storage=body)


def signal(number: int, *pairs: PairStatus) -> Status:
    body = SignalStatus(
        books=[],
        pairs=list(pairs),
        pairs_left_out=0,
        orders=[],
        orders_in_flight=0,
        may_trade=True,
        updates={"applied": 10 * number},
        untraded={},
        answers={},
        snapshots_requested=0,
        waiting=0,
        tick_age=Counts(),
        answer_time=Counts(),
        book_age=Counts(),
        spreads_open=2,
    )
    return status("signal", number, signal=body)


def engine(number: int) -> Status:
    body = EngineStatus(
        state="active",
        stores=True,
        limit=Decimal(1000),
        risk_model="cash",
        legs=[LegStatus(*SPOT, Decimal(-800), Decimal(-1)), LegStatus(*PERP, Decimal(790), Decimal(1))],
        pnl=Decimal(100),
        credit=Decimal(90),
        cash_without_spread=ZERO,
        turnover={},
        pairs=[],
        spreads_open=2,
        open_spreads=[],
        orders_known=5,
        answers={"Open Spread": {"ACK": number}},
        answer_time=Counts(),
        journal_records=0,
        stored_lag_seconds=0,
        dead_letters=0,
    )
    return status("engine", number, engine=body)


class Scene:
    def __init__(self) -> None:
        self.now = 100.0
        self.table = StatusTable(lambda: self.now)

    def take(self, *statuses: Status) -> None:
        for each in statuses:
            self.table.take(each)

    def drawn(self, width: int = 200, height: int = 40, *, colours: bool = False) -> list[str]:
        return self.table.draw(width, height, colours=colours)


def test_a_service_that_has_said_nothing_is_named_so() -> None:
    lines = Scene().drawn()
    assert len(lines) == 4
    assert all("nothing heard yet" in line for line in lines)


def test_rates_reason_and_pnl_are_shown() -> None:
    scene = Scene()
    for number in (1, 2, 3):
        scene.take(collector(number), storage(number), signal(number, PAIR), engine(number))
    text = "\n".join(scene.drawn())
    for part in ("20.0 pushes/s", "10.0 messages/s; 150 rows/s", "10.0 updates/s", "2 ACK", "cpu 10%"):
        assert part in text
    row = next(line for line in scene.drawn() if "BTCPERP / BTCUSDT" in line)
    assert row.split() == [
        "a:",
        "BTCPERP",
        "/",
        "BTCUSDT",
        "+26.19",
        "0.981",
        "0",
        "2",
        "3",
        "risk",
        "limit",
        "for",
        "0",
        "s",
    ]
    # At mark: 90 - 26.31 x 3.
    assert "PnL: closed +10.00, open at mark +11.07, total +21.07; exposure 800 of 1,000, before fees" in text


def test_a_service_that_stopped_talking_is_dimmed_with_its_age() -> None:
    scene = Scene()
    scene.take(storage(1))
    fresh = scene.drawn(colours=True)[1]
    scene.now += 2.5
    stale = scene.drawn(colours=True)[1]
    assert "0.0 s" in fresh
    assert "2.5 s" in stale
    assert "\x1b[2m" in stale
    assert "\x1b[2m" not in fresh


def test_counters_of_a_restarted_service_are_not_compared_with_those_before() -> None:
    scene = Scene()
    scene.take(storage(1), storage(50))
    restarted = storage(1)
    scene.take(
        Status(**{name: getattr(restarted, name) for name in restarted.__struct_fields__} | {"started_ms": 7})
    )
    assert "0.0 messages/s" in scene.drawn()[1]


def test_it_stays_within_width_and_height_and_without_escapes() -> None:
    scene = Scene()
    scene.take(collector(1), storage(1), signal(1, *[PAIR] * 20), engine(1))
    lines = scene.drawn(width=60, height=7)
    assert len(lines) == 7
    assert all(len(line) <= 60 for line in lines)
    assert "\x1b" not in "".join(lines)
    assert any("12 more" in line for line in scene.drawn())
