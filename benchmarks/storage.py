"""Storage: a filled queue to the table, against bare COPY of the same rows and a bare consumer.

The ceiling of COPY has the rows ready made as text, in one process with the same number of messages a
transaction; the ceiling of the consumer acknowledges every 100. Both ceilings store or take nothing twice
because they are told what to take; the service has to see to it, and is checked.
"""

from __future__ import annotations

import contextlib
import io
import time
from decimal import Decimal

from benchmarks import machine, market
from benchmarks.place import Place, place, time_of_line, wait_until
from benchmarks.results import Row, check, median, progress, thousands
from blackbird.broker.topology import STORAGE
from config import Config
from data_storage_service import BATCH
from tests.support.workspace import connect

# Logged when the first message may come; the time of it is measured from here.
READY = "connected to the broker"


class Load:
    """Messages with all that has to come out of them."""

    def __init__(self, name: str, pushes: list[market.Push]) -> None:
        self.name = name
        self.bodies = [market.body(push, "a") for push in pushes]
        self.lines = [_lines(push) for push in pushes]
        self.rows = sum(line.count("\n") for line in self.lines)
        levels = [level for _, message in pushes for side in "ba" for level in message["data"][side]]
        self.sum_of_prices = sum((Decimal(price) for price, _ in levels), Decimal())
        self.sum_of_sizes = sum((Decimal(size) for _, size in levels), Decimal())
        data = pushes[-1][1]
        self.last = (data["cts"], data["data"]["u"], pushes[-1][0])


def _lines(push: market.Push) -> str:
    channel, message = push
    data = message["data"]
    return "".join(
        f"{message['topic']}\t{message['type']}\t{message['ts']}\t{channel}\t{data['s']}\t{data['u']}"
        f"\t{data['seq']}\t{side}\t{price}\t{size}\t{message['cts']}\ta\n"
        for side, levels in (("bid", data["b"]), ("ask", data["a"]))
        for price, size in levels
    )


def _empty(there: Place) -> None:
    there.space.query("TRUNCATE bybit.orderbook")


def _check_rows(there: Place, load: Load) -> None:
    found = there.space.query(
        "SELECT count(*), count(DISTINCT (topic, update_id, side, price)), sum(price), sum(size)"
        " FROM bybit.orderbook"
    )[0]
    expected = (load.rows, load.rows, load.sum_of_prices, load.sum_of_sizes)
    check(found == expected, f"storage: expected rows {expected}, were {found}")


def stored(there: Place, load: Load) -> tuple[float, float]:
    """Let the service drain a filled queue; return its seconds and CPU seconds."""
    _empty(there)
    with there.raw() as raw, contextlib.closing(connect(there.environment, there.space.name)) as database:
        raw.fill(STORAGE, load.bodies, market.properties(STORAGE))
        cursor = database.cursor()

        def last_is_there() -> bool:
            cursor.execute(
                "SELECT 1 FROM bybit.orderbook_update"
                " WHERE ts_orderbook = %s AND update_id = %s AND channel = %s",
                load.last,
            )
            return cursor.fetchone() is not None

        service = there.space.start_storage()
        wait_until(lambda: READY in service.output, "the storage service has begun")
        begin = time_of_line(service, READY)
        used = machine.cpu_seconds(service.process.pid)
        seconds = wait_until(last_is_there, f"{load.name} in the table") - begin
        used = machine.cpu_seconds(service.process.pid) - used
        check(service.stop() == 0, "the storage service did not end in order")
        check(raw.waiting(STORAGE) == 0, "messages are left in the queue")
    _check_rows(there, load)
    return seconds, used


def copied(there: Place, load: Load) -> float:
    """Copy the same rows, ready made, in batches of as many messages; return the seconds."""
    _empty(there)
    table = Config.TABLES["orderbook"]
    statement = f"COPY {table.name} ({', '.join(table.columns)}) FROM STDIN"
    batches = ["".join(load.lines[at : at + BATCH]) for at in range(0, len(load.lines), BATCH)]
    with contextlib.closing(connect(there.environment, there.space.name)) as database:
        cursor = database.cursor()
        begin = time.perf_counter()
        for batch in batches:
            cursor.copy_expert(statement, io.StringIO(batch))
        seconds = time.perf_counter() - begin
    _check_rows(there, load)
    return seconds


def consumed(there: Place, queue: str, bodies: list[bytes]) -> tuple[float, float]:
    """Let the bare consumer drain the same messages; return its seconds and CPU seconds."""
    with there.raw() as raw:
        raw.fill(queue, bodies, market.properties(queue))
        with there.bare("consume", queue, str(len(bodies))) as consumer:
            said = consumer.says()
            consumer.process.wait(10)
        check(said["taken"] == len(bodies) and raw.waiting(queue) == 0, "the bare consumer left messages")
    return said["seconds"], said["used"]


def measure(there: Place, load: Load, rounds: int) -> list[Row]:
    """Return the rows of the table for one kind of message, medians over interleaved rounds."""
    count = len(load.bodies)
    runs = []
    for number in range(rounds):
        progress(f"storage: {load.name}, round {number + 1} of {rounds}")
        runs.append((stored(there, load), copied(there, load), consumed(there, STORAGE, load.bodies)))
    seconds = median([ours[0] for ours, _, _ in runs])
    copy_seconds = median([copy for _, copy, _ in runs])
    consume_seconds = median([bare[0] for _, _, bare in runs])
    per_message = median([ours[1] for ours, _, _ in runs]) / count * 1e6
    note = f"service's CPU {per_message:.0f} us a message"
    # What is nearer binds: the target of COPY where a message has many rows, else that of the consumer.
    many = load.rows / count > 5
    by_copy = median([copy / ours[0] for ours, copy, _ in runs])
    by_consumer = median([bare[0] / ours[0] for ours, _, bare in runs])
    return [
        Row(
            f"storage, {load.name} ({load.rows / count:.0f} rows a message)",
            f"{thousands(load.rows / seconds, 'rows/s')}",
            f"{thousands(load.rows / copy_seconds, 'rows/s')} bare COPY",
            by_copy,
            least=0.7 if many else None,
            note=note,
        ),
        Row(
            "  the same in messages",
            thousands(count / seconds, "msg/s"),
            f"{thousands(count / consume_seconds, 'msg/s')} bare consumer",
            by_consumer,
            least=None if many else 0.7,
        ),
    ]


def run(*, quick: bool) -> list[Row]:
    small, large = (20_000, 5_000) if quick else (90_000, 10_000)
    loads = [
        Load("depth 1", list(market.updates(1, small))),
        Load("depth 50, deltas", list(market.updates(50, small // 3))),
        Load("depth 50, whole books", market.whole_books(large)[0]),
    ]
    rows: list[Row] = []
    with place() as there:
        there.declare_queues()
        for load in loads:
            rows += measure(there, load, 3 if quick else 5)
    return rows
