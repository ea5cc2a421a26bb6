"""cryptofeed's order book and its RabbitMQ and PostgreSQL backends on the same messages, next to ours.

cryptofeed is brought into an environment of its own under `.tools` by uv; where that fails the comparison is
left out. It is no ceiling: its backends give other guarantees (RabbitMQ: one queue, a confirm awaited for
each message, not persistent; PostgreSQL: one JSON row a message from memory, lost with the process), so there
is no target.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import market
from benchmarks.books import ten_level_bodies
from benchmarks.others import missing
from benchmarks.place import Place, place
from benchmarks.results import Row, check, progress, thousands
from benchmarks.storage import Load, stored
from blackbird.broker.topology import SIGNAL, STORAGE
from blackbird.market.book_message import decode_book
from blackbird.market.order_book import OrderBook
from config import Config
from tests.support.workspace import HERE, PYTHON

FOLDER = HERE / ".tools" / "cryptofeed"
PACKAGES = ("cryptofeed==2.4.1", "aio-pika", "asyncpg")
SIDE = Path(__file__).resolve().parent / "cryptofeed_side.py"
PUBLISHING = Path(__file__).resolve().parent / "publishing.py"
TABLE = """
CREATE TABLE book (id serial PRIMARY KEY, timestamp timestamp, receipt_timestamp timestamp,
                   exchange varchar(32), symbol varchar(32), data jsonb)
"""


def _side(program: str, file: Path, **settings: Any) -> Any:
    python = [str(FOLDER / "bin" / "python"), "-W", "ignore"]
    command = [*python, str(SIDE), program, str(file), json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    check(done.returncode == 0, f"cryptofeed {program}: {(done.stderr.splitlines() or ['?'])[-1]}")
    return json.loads(done.stdout)


def _write(folder: str, bodies: Sequence[bytes]) -> Path:
    file = Path(folder) / "bodies"
    file.write_bytes(b"\n".join(bodies))
    return file


def _books(folder: str, count: int) -> list[Row]:
    progress("cryptofeed: order book")
    bodies = ten_level_bodies(count)
    theirs = _side("book", _write(folder, bodies))
    best: list[str] = []
    ours = whole = float("inf")
    decoded = [decode_book(body) for body in bodies]
    for _ in range(5):
        book = OrderBook()
        begin = time.process_time()
        for message in decoded:
            book.apply(message, 0)
            bid, ask = book.bids.best_price(), book.asks.best_price()
            check(bid and ask, "a side of the book is empty")
            best = [str(bid), str(ask)]
        ours = min(ours, time.process_time() - begin)
        begin = time.process_time()
        for body in bodies:
            decode_book(body)
        whole = min(whole, ours + time.process_time() - begin)
    check(best == theirs["best"], f"the books end at {best} and {theirs['best']}")
    return [
        Row(
            f"comparison: book, decoded ten-level delta{what}",
            f"{mine / len(bodies) * 1e6:.1f} us",
            f"{other / len(bodies) * 1e6:.1f} us cryptofeed",
            mine / other,
            note="both exact decimals; its book is written in C",
        )
        for what, mine, other in (
            ("", ours, theirs["seconds"]),
            (" with decoding", whole, theirs["with_decoding"]),
        )
    ]


def _publishing(there: Place, folder: str, pushes: list[market.Push]) -> Row:
    progress("cryptofeed: RabbitMQ")
    file = _write(folder, [market.body(push, "a") for push in pushes])
    with there.raw() as raw:
        raw.purge(STORAGE)
        raw.purge(SIGNAL)
        done = subprocess.run(
            [PYTHON, str(PUBLISHING), str(file)],
            env=there.environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        ours = json.loads(done.stdout)
        counts = raw.waiting(STORAGE), raw.waiting(SIGNAL), ours["dropped"]
        check(counts == (len(pushes), len(pushes), 0), f"storage, signal, dropped: {counts}")
        raw.purge(STORAGE)
        raw.purge(SIGNAL)
        broker = f"{Config.RABBITMQ_HOST}:{Config.RABBITMQ_PORT}/{there.space.name}"
        login = f"{Config.RABBITMQ_USER}:{Config.RABBITMQ_PASSWORD}"
        queue = "cryptofeed"
        theirs = _side("rabbitmq", file, host=f"{login}@{broker}", queue_name=queue, routing_key=queue)
        check(raw.waiting(queue) == len(pushes), f"cryptofeed published {raw.waiting(queue)}")
    return Row(
        "comparison: publish book updates",
        thousands(len(pushes) / ours["seconds"], "msg/s"),
        f"{thousands(len(pushes) / theirs['seconds'], 'msg/s')} cryptofeed RabbitMQ",
        theirs["seconds"] / ours["seconds"],
        note="ours: two queues, persistent, confirmed; its: one queue, confirmed, not persistent",
    )


def _storing(there: Place, folder: str, pushes: list[market.Push]) -> Row:
    progress("cryptofeed: PostgreSQL")
    load = Load("comparison", pushes)
    seconds, _ = stored(there, load)
    there.space.query(TABLE)
    theirs = _side(
        "postgres",
        _write(folder, load.bodies),
        host=Config.DB_CONFIG["host"],
        port=int(Config.DB_CONFIG["port"]),
        user=Config.DB_CONFIG["user"],
        pw=Config.DB_CONFIG["password"],
        db=there.space.name,
        table="book",
    )
    found = there.space.query("SELECT count(*) FROM book")[0][0]
    check(found == len(pushes), f"cryptofeed stored {found} of {len(pushes)}")
    rows = load.rows / len(pushes)
    return Row(
        "comparison: store book updates",
        thousands(len(pushes) / seconds, "msg/s"),
        f"{thousands(len(pushes) / theirs['seconds'], 'msg/s')} cryptofeed PostgreSQL",
        theirs["seconds"] / seconds,
        note=f"ours: {rows:.0f} rows a message, from the broker; its: one JSON row, from memory",
    )


def run(*, quick: bool) -> list[Row]:
    in_the_way = missing(FOLDER, PACKAGES)
    if in_the_way is not None:
        return [Row("comparison with cryptofeed", "left out", note=in_the_way)]
    pushes = list(market.updates(50, 4_000 if quick else 20_000))
    with tempfile.TemporaryDirectory(prefix="blackbird-benchmark-") as folder, place() as there:
        there.declare_queues()
        return [
            *_books(folder, 2_000 if quick else 10_000),
            _publishing(there, folder, pushes),
            _storing(there, folder, pushes),
        ]
