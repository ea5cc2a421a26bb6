"""Many runs of one market: every combination of some settings, on all cores or on a cluster.

A task is a few hundred bytes, the market's place and the settings; each worker reads the market itself. The
lines of the result are written as they come, so that a sweep that was interrupted goes on where it was.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, get_args

from blackbird.archive.market import Market
from blackbird.archive.parsed import parsed
from blackbird.archive.source import Source, SourceError, Timed
from blackbird.backtest.parameters import Parameters
from blackbird.backtest.result import Result, result_of
from blackbird.backtest.simulation import Simulation
from blackbird.trading.risk import RiskModel
from blackbird.trading.spread_rules import CloseRule

# A market of so many messages is kept parsed in a worker for its next combination: 200 MB.
KEPT_MESSAGES = 100_000
BASIS_POINTS = Decimal(10_000)

FIGURES = (
    "executions",
    "opened",
    "closed",
    "left",
    "pnl_closed",
    "pnl_open",
    "fees",
    "pnl_total",
    "drawdown",
    "hit_rate",
    "break_even_bps",
)


class SweepError(Exception):
    """A sweep that cannot be made; the text says what was expected."""


class Axis:
    """A setting that a sweep varies."""

    def __init__(self, read: Callable[[str], Any], apply: Callable[[Parameters, Any], Parameters]) -> None:
        self._read = read
        self._apply = apply

    def change(self, parameters: Parameters, text: str) -> Parameters:
        """Return `parameters` with the value that `text` says; raises ValueError."""
        try:
            return self._apply(parameters, self._read(text))
        except InvalidOperation:
            raise ValueError(f"expected a number, was {text!r}") from None


def _amount(text: str) -> Decimal:
    number = Decimal(text)
    if not number.is_finite() or number < 0:
        raise ValueError(f"expected a number of at least 0, was {text!r}")
    return number


def _whole(text: str) -> int:
    number = _amount(text)
    if number != int(number):
        raise ValueError(f"expected a whole number, was {text!r}")
    return int(number)


def _one_of(kind: Any) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in get_args(kind):
            raise ValueError(f"expected one of {', '.join(get_args(kind))}, was {text!r}")
        return text

    return read


def _fees(parameters: Parameters, bps: Decimal) -> Parameters:
    fee = bps / BASIS_POINTS
    return replace(parameters, taker_fees={"spot": fee, "linear": fee})


AXES: Mapping[str, Axis] = {
    "limit": Axis(_amount, lambda p, value: replace(p, limit=value)),
    "fee_bp": Axis(_amount, _fees),
    "min_profit_bp": Axis(_amount, lambda p, value: replace(p, min_profit_bps=value)),
    "max_age_ms": Axis(_whole, lambda p, value: replace(p, limits=replace(p.limits, stale_after_ms=value))),
    "max_book_lag_ms": Axis(
        _whole, lambda p, value: replace(p, limits=replace(p.limits, max_book_lag_ms=value))
    ),
    "close_rule": Axis(_one_of(CloseRule), lambda p, value: replace(p, close_rule=value)),
    "risk_model": Axis(_one_of(RiskModel), lambda p, value: replace(p, risk_model=value)),
}

Combination = tuple[str, ...]  # a value of each axis, as it was written


@dataclass(frozen=True)
class Grid:
    """The axes of a sweep with their values, as they were written."""

    axes: dict[str, list[str]]

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Grid:
        """Return the grid of texts like "limit=5e5,1e6"; raises SweepError."""
        axes: dict[str, list[str]] = {}
        for text in texts:
            name, _, values = text.partition("=")
            if name not in AXES or name in axes:
                raise SweepError(
                    f"expected each of {', '.join(AXES)} once, as name=value,value; was {text!r}"
                )
            axes[name] = values.split(",")
            if len(set(axes[name])) != len(axes[name]):
                raise SweepError(f"{name}: expected each value once, was {values!r}")
            for value in axes[name]:
                try:
                    AXES[name].change(Parameters(), value)
                except ValueError as error:
                    raise SweepError(f"{name}: {error}") from None
        return cls(axes)

    def __iter__(self) -> Iterator[Combination]:
        return iter(itertools.product(*self.axes.values()))

    def parameters(self, base: Parameters, combination: Combination) -> Parameters:
        """Return the settings of a combination."""
        for name, value in zip(self.axes, combination, strict=True):
            base = AXES[name].change(base, value)
        return base


Line = dict[str, str]  # of the result: axes, figures, and an error in place of the figures


@dataclass(frozen=True)
class Sweep:
    """A grid on a market. `base` has the settings that the grid does not vary."""

    grid: Grid
    market: Market
    base: Parameters

    @property
    def columns(self) -> list[str]:
        """The columns of the result."""
        return ["sweep", *self.grid.axes, *FIGURES, "error"]

    @property
    def identity(self) -> str:
        """What makes lines of a file those of this sweep: the market and the other settings."""
        return hashlib.blake2b(repr((self.market, self.base)).encode(), digest_size=6).hexdigest()

    def line(self, combination: Combination, figures: Mapping[str, str]) -> Line:
        """Return the line of a combination."""
        values = {"sweep": self.identity, **dict(zip(self.grid.axes, combination, strict=True)), **figures}
        return {name: values.get(name, "") for name in self.columns}

    def run(
        self, path: Path, executor: Executor | None = None, on_line: Callable[[], None] | None = None
    ) -> list[Line]:
        """Run what `path` has no result of, and return all lines in the order of the grid.

        By `executor`, or by a process for each core. Each line is appended to `path` when it is there; in the
        end the file is in the order of the grid. What failed is tried again by the next run.
        Raises SweepError where the file is that of another sweep.
        """
        known = self._known(path)
        todo = [combination for combination in self.grid if combination not in known]
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            if not file.tell():
                writer.writeheader()
            outcomes = _own_pool(self, todo) if executor is None else _outcomes(self, todo, executor)
            for combination, figures in outcomes:
                known[combination] = self.line(combination, figures)
                writer.writerow(known[combination])
                file.flush()
                if on_line is not None:
                    on_line()
        lines = [known[combination] for combination in self.grid]
        self._write(path, lines)
        return lines

    def _known(self, path: Path) -> dict[Combination, Line]:
        """Return the lines of earlier runs that have a result."""
        if not path.exists() or not path.stat().st_size:
            return {}
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != self.columns:
                raise SweepError(
                    f"{path}: expected a file of these axes, was another; name another with --out"
                )
            # The last line may have been cut off.
            lines = [line for line in reader if None not in line.values()]
        if any(line["sweep"] != self.identity for line in lines):
            raise SweepError(f"{path}: expected this market and these settings, was another sweep's")
        combinations = set(self.grid)
        known = {tuple(line[name] for name in self.grid.axes): line for line in lines if not line["error"]}
        self._write(path, list(known.values()))
        return {combination: line for combination, line in known.items() if combination in combinations}

    def _write(self, path: Path, lines: Sequence[Line]) -> None:
        part = path.with_name(f"{path.name}.part")
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)
        part.replace(path)


# --- workers -------------------------------------------------------------------------------------


_kept: dict[Market, list[Timed]] = {}


def run_one(market: Market, parameters: Parameters) -> dict[str, str]:
    """Run one combination in this process and return its figures; raises SourceError."""
    simulation = Simulation(parameters)
    simulation.run(_messages(market))
    return _figures(result_of(simulation, ""))


def _messages(market: Market) -> Source | list[Timed]:
    if market in _kept:
        return _kept[market]
    source = market.open()
    if not market.is_small(KEPT_MESSAGES):
        return source
    _kept.clear()
    _kept[market] = parsed(source)
    return _kept[market]


def _figures(result: Result) -> dict[str, str]:
    spreads, pnl = result.spreads, result.pnl
    values = (
        sum(orders.count for orders in result.orders if orders.answer == "ACK"),
        spreads.opened,
        spreads.closed,
        spreads.left,
        pnl.closed,
        pnl.open_at_mark,
        pnl.fees,
        pnl.total,
        result.drawdown.largest,
        "" if spreads.hit_rate is None else f"{spreads.hit_rate:.6f}",
        "" if result.break_even.total_bps is None else result.break_even.total_bps,
    )
    return {
        name: f"{value:f}" if isinstance(value, Decimal) else str(value)
        for name, value in zip(FIGURES, values, strict=True)
    }


# --- executors -----------------------------------------------------------------------------------

Outcome = tuple[Combination, dict[str, str]]


def _outcomes(sweep: Sweep, todo: Sequence[Combination], executor: Executor) -> Iterator[Outcome]:
    """Run combinations by an executor whose tasks fail one by one; return their figures as they come."""
    futures = {
        executor.submit(run_one, sweep.market, sweep.grid.parameters(sweep.base, combination)): combination
        for combination in todo
    }
    while futures:
        done, _ = wait(futures, return_when=FIRST_COMPLETED)
        for future in done:
            yield futures.pop(future), _outcome(future)


def _own_pool(sweep: Sweep, todo: Sequence[Combination], workers: int | None = None) -> Iterator[Outcome]:
    """Run combinations by processes of this machine; one that dies fails its combination alone.

    A process that dies takes its pool with it, and which combination it was at is not known: those that were
    being worked on are run again, each in a pool of its own.
    """
    workers = workers or len(os.sched_getaffinity(0))
    waiting = list(reversed(todo))
    while waiting:
        suspects: list[Combination] = []
        with ProcessPoolExecutor(workers) as pool:
            running: dict[Future[dict[str, str]], Combination] = {}
            while (waiting or running) and not suspects:
                # No more than are worked on, so that all of them are suspects.
                while waiting and len(running) < workers:
                    combination = waiting.pop()
                    parameters = sweep.grid.parameters(sweep.base, combination)
                    running[pool.submit(run_one, sweep.market, parameters)] = combination
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    combination = running.pop(future)
                    if isinstance(future.exception(), BrokenProcessPool):
                        suspects.append(combination)
                    else:
                        yield combination, _outcome(future)
            suspects += running.values()
        for combination in suspects:
            yield combination, _alone(sweep, combination)


def _alone(sweep: Sweep, combination: Combination) -> dict[str, str]:
    with ProcessPoolExecutor(1) as pool:
        parameters = sweep.grid.parameters(sweep.base, combination)
        return _outcome(pool.submit(run_one, sweep.market, parameters))


def _outcome(future: Future[dict[str, str]]) -> dict[str, str]:
    """Return the figures of a combination, or why it has none."""
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, SourceError):
        return {"error": str(error)}
    return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
