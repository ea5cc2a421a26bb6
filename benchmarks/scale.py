"""Cost a message with the number of instruments, memory with the number of messages, and a burst."""

from __future__ import annotations

import itertools
import time

from benchmarks import machine, market
from benchmarks.pipeline import Pipeline, market_process
from benchmarks.place import Place, place, wait_until
from benchmarks.results import Row, check, progress, thousands
from benchmarks.storage import Load as StorageLoad
from benchmarks.storage import stored
from benchmarks.updates import Engine, drained
from benchmarks.updates import Load as SignalLoad
from exchange.synthetic import SyntheticMarket
from messaging import ORDERS, SIGNAL, STORAGE

PAIRS = (1, 10, 50, 200)
CHUNK = 20_000


def _cost_by_instruments(there: Place, count: int) -> list[Row]:
    """Return CPU a message of signal and storage; the ratio is to two instruments."""
    rows = []
    first: dict[str, float] = {}
    for pairs in PAIRS:
        progress(f"scale: {2 * pairs} instruments")
        pushes, state = market.calm(1, pairs, count)
        # The first message of each instrument makes its book; what a message costs is wanted.
        cost = {
            "signal": drained(there, SignalLoad("", pushes, state))[1] / count * 1e6,
            "storage": stored(there, StorageLoad("", pushes))[1] / count * 1e6,
        }
        if not first:
            first = cost
        for name, cpu in cost.items():
            rows.append(
                Row(
                    f"{name}, {2 * pairs} instruments in pairs",
                    f"{cpu:.1f} us CPU a message",
                    f"{first[name]:.1f} us with 2" if pairs > 1 else "",
                    cpu / first[name] if pairs > 1 else None,
                    most=1.3,
                )
            )
    for instruments in (20, 100):
        cpu = drained(there, SignalLoad.in_one_group(instruments, count))[1] / count * 1e6
        rows.append(
            Row(
                f"signal, {instruments} instruments in one group",
                f"{cpu:.1f} us CPU a message",
                note=f"{2 * (instruments - 1)} pairs to look at",
            )
        )
    return sorted(rows, key=lambda row: row.what.partition(",")[0])


def _memory(there: Place, service: str, queue: str, count: int) -> Row:
    """Run `count` messages through a service; the ratio is of its memory at the end to that after a tenth."""
    made = SyntheticMarket(pairs=10, crossing=False).stream(market.pair_topics(1, 10), count)
    bodies = (market.body(push, market.group_of(push[1]["data"]["s"])) for push in made)
    sizes: list[int] = []
    with there.raw() as raw, there.raw() as played:
        process = there.space.start(service, ready="connected to the broker")
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
    """Push at 300 a second, then ten times that, and time how long it takes until nothing waits."""
    seconds = 3.0 if quick else 10.0
    topics = market.pair_topics(1, 2)
    with place() as there, market_process(1) as exchange, there.raw() as raw:
        pipeline = Pipeline(there, exchange, topics, 1)
        pipeline.flow(raw, 300, seconds, "scale: before the burst")
        burst = pipeline.flow(raw, 3000, seconds, "scale: the burst")
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
        rows = _cost_by_instruments(there, 10_000 if quick else 60_000)
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
