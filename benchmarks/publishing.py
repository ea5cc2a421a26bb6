"""The collector's publisher on a file of messages, in a process of its own: `publishing.py FILE`."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from blackbird.broker.session import Session, connection_parameters, keep_session  # noqa: E402
from blackbird.collector.publisher import FeedPublisher  # noqa: E402
from blackbird.market.instrument import Instrument  # noqa: E402
from config import Config  # noqa: E402

MOST_AHEAD = 2000


async def main(bodies: list[bytes]) -> None:
    """Publish all and print the seconds until the broker has confirmed the last one."""
    publisher = FeedPublisher(lambda _: None, buffer=20_000)
    instrument = Instrument("spot", "BTCUSDT")

    async def serve(session: Session) -> None:
        await session.declare_feed()
        await publisher.start(session)

    connection = asyncio.create_task(keep_session(connection_parameters(**Config.BROKER_CONFIG), serve))
    while not publisher.is_up:
        await asyncio.sleep(0.01)
    begin, used = time.perf_counter(), time.process_time()
    for number, body in enumerate(bodies):
        now = int(time.time() * 1000)
        publisher.publish_book(instrument, body, now, now)
        if number % 50 == 0:  # pushes do not come all at once either
            await asyncio.sleep(0)
        while publisher.backlog > MOST_AHEAD:
            await asyncio.sleep(0.001)
    await publisher.drain(60)
    seconds = time.perf_counter() - begin
    print(json.dumps({"seconds": seconds, "cpu": time.process_time() - used, "dropped": publisher.dropped}))
    connection.cancel()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]).read_bytes().splitlines()))
