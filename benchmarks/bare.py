"""The ceilings: programs that do with the broker what a service does, and nothing else.

Each is a process of its own, with the client library that the services use (pika's AsyncioConnection, on the
event loop that they use), and prints one line of JSON when it is done. Started by the benchmarks:

    python bare.py consume QUEUE COUNT | relay IN OUT | echo QUEUE | publish COUNT SIZE IN_FLIGHT
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from pika.adapters.asyncio_connection import AsyncioConnection  # noqa: E402
from pika.channel import Channel  # noqa: E402
from pika.spec import Basic, BasicProperties  # noqa: E402

from blackbird.broker.session import connection_parameters  # noqa: E402
from blackbird.broker.topology import EXCHANGE, SIGNAL, STORAGE  # noqa: E402
from config import Config  # noqa: E402

ACKNOWLEDGE_EVERY = 100
PREFETCH = 2000


def _say(**fields: Any) -> None:
    print(json.dumps({**fields, "cpu": time.process_time()}), flush=True)


def consume(channel: Channel, done: Callable[[], None], queue: str, count: str) -> None:
    """Take COUNT messages and acknowledge every 100."""
    taken = 0
    begin = 0.0
    cpu = 0.0
    most = int(count)

    def take(channel: Channel, deliver: Basic.Deliver, _: BasicProperties, __: bytes) -> None:
        nonlocal taken, begin, cpu
        if not taken:
            begin = time.perf_counter()
            cpu = time.process_time()
        taken += 1
        if taken % ACKNOWLEDGE_EVERY == 0 or taken == most:
            channel.basic_ack(deliver.delivery_tag or 0, multiple=True)
        if taken == most:
            _say(taken=taken, seconds=time.perf_counter() - begin, used=time.process_time() - cpu)
            done()

    channel.basic_qos(prefetch_count=PREFETCH)
    channel.basic_consume(queue, take)


def relay(channel: Channel, _: Callable[[], None], source: str, target: str) -> None:
    """Publish each message of one queue to another, persistent, until killed."""
    properties = BasicProperties(delivery_mode=2)

    def take(channel: Channel, deliver: Basic.Deliver, _: BasicProperties, body: bytes) -> None:
        channel.basic_publish("", target, body, properties)
        channel.basic_ack(deliver.delivery_tag or 0)

    channel.basic_qos(prefetch_count=PREFETCH)
    channel.basic_consume(source, take, callback=lambda _: _say(ready=True))


def echo(channel: Channel, _: Callable[[], None], queue: str) -> None:
    """Answer each request with a body as long as the trading engine's answer, until killed."""
    answer = b'{"status":"ACK","info":"order placed"}'

    def take(channel: Channel, deliver: Basic.Deliver, properties: BasicProperties, _: bytes) -> None:
        correlation = BasicProperties(correlation_id=properties.correlation_id)
        channel.basic_publish("", properties.reply_to or "", answer, correlation)
        channel.basic_ack(deliver.delivery_tag or 0)

    channel.basic_qos(prefetch_count=PREFETCH)
    channel.basic_consume(queue, take, callback=lambda _: _say(ready=True))


def publish(channel: Channel, done: Callable[[], None], count: str, size: str, in_flight: str) -> None:
    """Publish COUNT bodies of SIZE bytes to both feed queues, persistent, IN_FLIGHT unconfirmed."""
    most, window = int(count), int(in_flight)
    properties = BasicProperties(delivery_mode=2, headers={"CC": [SIGNAL], "published_at": 1723161255608})
    body = b"x" * int(size)
    sent = confirmed = 0
    begin = time.perf_counter()

    def send() -> None:
        nonlocal sent
        while sent < most and sent - confirmed < window:
            channel.basic_publish(EXCHANGE, STORAGE, body, properties)
            sent += 1

    def confirm(frame: Any) -> None:
        nonlocal confirmed
        method = frame.method
        confirmed = method.delivery_tag if method.multiple else confirmed + 1
        if confirmed >= most:
            _say(published=confirmed, seconds=time.perf_counter() - begin)
            done()
        else:
            send()

    channel.confirm_delivery(confirm, callback=lambda _: send())


PROGRAMS: dict[str, Callable[..., None]] = {
    "consume": consume,
    "relay": relay,
    "echo": echo,
    "publish": publish,
}


async def main() -> None:
    """Run the program that the command line names."""
    program, arguments = PROGRAMS[sys.argv[1]], sys.argv[2:]
    finished = asyncio.Event()

    def opened(connection: AsyncioConnection) -> None:
        connection.channel(on_open_callback=lambda channel: program(channel, finished.set, *arguments))

    def failed(_: object, error: BaseException) -> None:
        raise SystemExit(f"no broker: {error}")

    connection = AsyncioConnection(
        connection_parameters(**Config.BROKER_CONFIG), on_open_callback=opened, on_open_error_callback=failed
    )
    await finished.wait()
    closed = asyncio.Event()
    connection.add_on_close_callback(lambda *_: closed.set())
    connection.close()
    await asyncio.wait_for(closed.wait(), 10)


if __name__ == "__main__":
    asyncio.run(main())
