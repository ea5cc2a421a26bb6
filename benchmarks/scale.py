"""Cost a message with the number of instruments, memory with the number of messages, and a burst."""

from __future__ import annotations

import itertools
import random
import time
from collections import defaultdict

from benchmarks import machine, market
from benchmarks.pipeline import Pipeline, market_process
from benchmarks.place import Place, place, wait_until
from benchmarks.results import Row, check, progress, thousands
from benchmarks.storage import Load as StorageLoad
from benchmarks.storage import stored
from benchmarks.updates import Engine, drained
from benchmarks.updates import Load as SignalLoad
from blackbird.broker.topology import ORDERS, SIGNAL, STORAGE
from local_exchange.synthetic import SyntheticMarket

PAIRS = (1, 10, 50, 200)
CHUNK = 20_000


def _with_sizes(pushes: list[market.Push]) -> list[market.Push]:
    """Return the pushes with sizes from the same 37,000, as many as the recorded market has, for any of them.

    A size that is new costs more than one that has come before, and one pair has few of them in little time.
    """
    sizes = random.Random(1)
    changed = []
    for channel, message in pushes:
        data = message["data"]
        levels = {
            side: [(price, f"{sizes.randint(1, 37_000) / 1000}") for price, _ in data[side]] for side in "ba"
        }
        changed.append((channel, {**message, "data": {**data, **levels}}))
    return changed


def _cost_by_instruments(there: Place, count: int, rounds: int) -> list[Row]:
    """Return CPU a message of signal and storage; the ratio is to two instruments.

    Of all rounds the least counts: whatever else the machine does only adds to it.
    """
    loads = {}
    for pairs in PAIRS:
        pushes, state = market.calm(1, pairs, count)
        pushes = _with_sizes(pushes)
        # The first message of each instrument makes its book; what a message costs is wanted.
        loads[pairs] = SignalLoad("", pushes, state), StorageLoad("", pushes)
    grouped = {instruments: SignalLoad.in_one_group(instruments, count) for instruments in (20, 100)}
    runs: defaultdict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        for pairs, (of_signal, of_storage) in loads.items():
            progress(f"scale: {2 * pairs} instruments, round {number + 1} of {rounds}")
            runs[f"signal, {2 * pairs} instruments in pairs"].append(drained(there, of_signal)[1])
            runs[f"storage, {2 * pairs} instruments in pairs"].append(stored(there, of_storage)[1])
        for instruments, load in grouped.items():
            progress(f"scale: {instruments} in one group, round {number + 1} of {rounds}")
            runs[f"signal, {instruments} instruments in one group"].append(drained(there, load)[1])
    cost = {what: min(seconds) / count * 1e6 for what, seconds in runs.items()}
    rows = []
    for what in sorted(cost, key=lambda what: what.partition(",")[0]):
        # Those of one group have sizes of their own, and are for comparing with one another.
        first = f"{what.partition(',')[0]}, 2 instruments in pairs"
        compared = what != first and what.endswith("in pairs")
        rows.append(
            Row(
                what,
                f"{cost[what]:.1f} us CPU a message",
                f"{cost[first]:.1f} us with 2" if compared else "",
                cost[what] / cost[first] if compared else None,
                most=1.3 if compared else None,
            )
        )
    return rows


def _memory(there: Place, service: str, queue: str, count: int) -> Row:
    """Run `count` messages through a service; the ratio is of its memory at the end to that after a tenth."""
    made = SyntheticMarket(pairs=10, crossing=False).stream(market.pair_topics(1, 10), count)
    bodies = (market.body(push, market.group_of(push[1]["data"]["s"])) for push in made)
    sizes: list[int] = []
    with there.raw() as raw, there.raw() as played:
        process = there.space.start_ready(service)
        if service == "signal":
            Engine(played).answer_question()
        sent = 0
        while chunk := list(itertools.islice(bodies, CHUNK)):
            sent += raw.publish(queue, chunk, market.properties(queue))
            wait_until(lambda: raw.waiting(queue) == 0, f"{service} to work {sent} messages off", 120, 0.05)
            sizes.append(machine.resident_bytes(process.process.pid))
            progress(f"scale: memory of {service}, {sent:,} of {count:,} messages, {sizes[-1] / 1e6:.0f} MB")
        check(process.stop() == 0, f"{service} did not end in order")
    early = sizes[max(0, len(sizes) // 10)]
    return Row(
        f"{service}: memory after {sent:,} messages",
        f"{sizes[-1] / 1e6:.0f} MB",
        f"{early / 1e6:.0f} MB after a tenth",
        sizes[-1] / early,
        most=1.1,
    )


def _burst(quick: bool) -> Row:
    """Push at 500 a second, then ten times that, and time how long it takes until nothing waits."""
    seconds = 3.0 if quick else 10.0
    topics = market.pair_topics(1, 2)
    with place() as there, market_process(1) as exchange, there.raw() as raw:
        pipeline = Pipeline(there, exchange, topics, 1)
        pipeline.flow(raw, 500, seconds, "scale: before the burst")
        burst = pipeline.flow(raw, 5000, seconds, "scale: the burst")
        end = time.time()
        wait_until(
            lambda: not any(raw.waiting(queue) for queue in (SIGNAL, STORAGE, ORDERS)), "empty queues", 60
        )
        drained_after = time.time() - end
        pipeline.check_rows()
    most = max(burst.most_waiting.values())
    rate = thousands(burst.pushes / burst.seconds, "updates/s")
    return Row(
        f"burst of ten times the rate, {seconds:.0f} s",
        f"drained {drained_after:.1f} s after it was stored",
        "",
        note=f"{rate}, at most {most} waiting, no row missing",
    )


def run(*, quick: bool) -> list[Row]:
    with place() as there:
        there.declare_queues()
        rows = _cost_by_instruments(there, 10_000 if quick else 60_000, 1 if quick else 5)
        count = 100_000 if quick else 1_000_000
        rows.append(_memory(there, "signal", SIGNAL, count))
        there.space.query("TRUNCATE bybit.orderbook")
        rows.append(_memory(there, "data_storage", STORAGE, count))
        with there.raw() as raw:
            # What it had not taken when it ended is in the queue again.
            given_back = raw.waiting(STORAGE)
        found = given_back + there.space.query("SELECT count(*) FROM bybit.orderbook_update")[0][0]
        # Each topic begins with a snapshot of its own.
        check(found == count + len(market.pair_topics(1, 10)), f"{found} updates stored of {count}")
    rows.append(_burst(quick))
    return rows
