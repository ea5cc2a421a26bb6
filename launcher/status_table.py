"""What the services do, as a compact table for a terminal."""

from __future__ import annotations

import io
import time
from collections import deque
from collections.abc import Callable
from decimal import Decimal

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from blackbird.market.decimals import ZERO
from blackbird.status.messages import Direction, EngineStatus, PairStatus, SignalStatus, Status, WhyNot
from blackbird.status.summary import summary

SERVICES = ("collector", "storage", "signal", "engine")
# What is older than this says nothing about now.
STALE_SECONDS = 2.0
# Rates are over so many statuses, half a second each.
WINDOW = 10
MOST_PAIRS = 8


class StatusTable:
    """Takes statuses, and draws the newest of each service. `clock` returns seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._statuses: dict[str, deque[Status]] = {}
        self._heard: dict[str, float] = {}

    def take(self, status: Status) -> None:
        """Take the next status of a service."""
        statuses = self._statuses.get(status.service)
        if statuses is None or statuses[-1].started_ms != status.started_ms:
            statuses = self._statuses[status.service] = deque(maxlen=WINDOW)
        statuses.append(status)
        self._heard[status.service] = self._clock()

    def draw(self, width: int, height: int, *, colours: bool) -> list[str]:
        """Return the table as at most `height` lines of at most `width` characters."""
        text = io.StringIO()
        console = Console(
            file=text,
            width=width,
            force_terminal=colours,
            color_system="standard" if colours else None,
            legacy_windows=False,
        )
        console.print(Group(self._services(), *self._pairs(), *self._money()))
        return text.getvalue().splitlines()[:height]

    def _services(self) -> Table:
        table = Table(box=None, expand=True, show_header=False, padding=(0, 1))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, justify="right")
        table.add_column(ratio=1)
        for service in SERVICES:
            statuses = self._statuses.get(service)
            if statuses is None:
                table.add_row(service, "", "nothing heard yet", style="dim")
                continue
            age = self._age(service)
            style = "dim" if age > STALE_SECONDS else ""
            table.add_row(
                Text(service, style="bold"), f"{age:.1f} s", summary(statuses[0], statuses[-1]), style=style
            )
        return table

    def _pairs(self) -> list[Table]:
        status = self._newest("signal")
        signal = None if status is None else status.signal
        if signal is None or not signal.pairs:
            return []
        table = Table(box=None, expand=True, padding=(0, 1), header_style="dim", style=self._style("signal"))
        table.add_column("pair: buy / sell", no_wrap=True)
        for heading in ("spread now", "size", "opens above", "open", "quantity"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("why it is not trading", ratio=1)
        for pair in signal.pairs[:MOST_PAIRS]:
            _add_pair(table, pair, status.published_ms if status is not None else 0)
        left_out = len(signal.pairs) - MOST_PAIRS + signal.pairs_left_out
        if left_out > 0:
            table.add_row(f"{left_out} more", style="dim")
        return [table]

    def _money(self) -> list[Text]:
        status, signal = self._newest("engine"), self._newest("signal")
        if status is None or status.engine is None:
            return []
        text = Text(_money(status.engine, None if signal is None else signal.signal))
        text.stylize(self._style("engine") or "bold")
        return [text]

    def _newest(self, service: str) -> Status | None:
        statuses = self._statuses.get(service)
        return None if statuses is None else statuses[-1]

    def _age(self, service: str) -> float:
        return self._clock() - self._heard[service]

    def _style(self, service: str) -> str:
        return "dim" if self._age(service) > STALE_SECONDS else ""


def _add_pair(table: Table, pair: PairStatus, now_ms: int) -> None:
    shown: Direction = pair.directions[0]
    other = pair.directions[1]
    seconds = max(0, now_ms - pair.since_ms) / 1000
    why = "" if pair.why is WhyNot.TRADING else f"{pair.why} for {seconds:.0f} s"
    if pair.leg is not None:
        why += f" ({pair.leg})"
    table.add_row(
        f"{pair.group}: {shown.long.symbol} / {shown.short.symbol}",
        _number(shown.spread, signed=True),
        _number(shown.size),
        _number(shown.threshold),
        str(shown.open_spreads + other.open_spreads),
        _number(shown.quantity + other.quantity),
        why,
    )


def _money(engine: EngineStatus, signal: SignalStatus | None) -> str:
    closed = engine.pnl - engine.credit - engine.cash_without_spread
    text = f"PnL: closed {closed:+,.2f}"
    if signal is not None:
        held = [each for pair in signal.pairs for each in pair.directions if each.open_spreads]
        if signal.pairs_left_out == 0 and all(each.exit is not None for each in held):
            at_mark = sum((each.credit - (each.exit or ZERO) * each.quantity for each in held), ZERO)
            text += f", open at mark {at_mark:+,.2f}, total {closed + at_mark:+,.2f}"
    largest = max((abs(leg.exposure) for leg in engine.legs), default=ZERO)
    return f"{text}; exposure {largest:,.0f} of {engine.limit:,.0f}, before fees"


def _number(number: Decimal | None, *, signed: bool = False) -> str:
    if number is None:
        return "-"
    return f"{number:+,f}" if signed else f"{number:,f}"
