"""Programs that send and take pushes with the time of their sending in them, each a process of its own.

    python timed.py exchange [CERTIFICATE]    a stand-in of the exchange; commands on its standard input:
                                              `rate PUSHES_A_SECOND PUSHES`, `burst PUSHES`
    python timed.py publish RATE PUSHES       what the collector does with the broker, and nothing else
    python timed.py consume QUEUE COUNT       take COUNT messages, print the times of each

They print lines of JSON. Nothing here waits for an event loop, so that what is measured is the other side.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from pika.spec import BasicProperties  # noqa: E402

from benchmarks.raw_broker import RawBroker  # noqa: E402
from blackbird.broker.topology import EXCHANGE, SIGNAL, STORAGE  # noqa: E402
from tests.support.certificates import server_context  # noqa: E402
from tests.support.raw_server import Client, RawServer, frame  # noqa: E402

INSTRUMENTS = 12
LEVELS = '["61837.24","1.25"],["61837.10","0"]'
SENT = b'"sent":'
PUBLISHED_AT = b"\x0cpublished_atl"  # a header's name, and the type of a 64-bit number


def symbols() -> list[str]:
    return [f"T{number:03}USDT" for number in range(INSTRUMENTS)]


def push(symbol: str, kind: str, number: int) -> bytes:
    """Return a push like those of depth 50, with the nanoseconds at which it was made."""
    now = time.time_ns()
    ts = now // 1_000_000
    data = f'{{"s":"{symbol}","b":[{LEVELS}],"a":[{LEVELS}],"u":{number},"seq":{number}}}'
    return (
        f'{{"topic":"orderbook.50.{symbol}","type":"{kind}","ts":{ts},"data":{data},"cts":{ts},"sent":{now}}}'
    ).encode()


def due(rate: float, count: int) -> Iterator[int]:
    """Yield the numbers of pushes that come by chance, `rate` a second, each when it is due."""
    chance = random.Random(7)
    at = time.perf_counter()
    for number in range(1, count + 1):
        at += chance.expovariate(rate)
        wait = at - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        yield number


def say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


class Exchange:
    """Serves each instrument to the client that subscribed it last."""

    def __init__(self) -> None:
        self._clients: dict[str, Client] = {}
        self._numbers = dict.fromkeys(symbols(), 1)

    def on_text(self, client: Client, text: bytes) -> None:
        request = json.loads(text)
        answer = {"success": True, "ret_msg": "", "conn_id": "c", "op": request["op"]}
        if request["op"] == "ping":
            answer["ret_msg"] = "pong"
        client.send(frame(1, json.dumps({**answer, "req_id": request.get("req_id", "")}).encode()))
        if request["op"] == "subscribe":
            symbol = request["args"][0].rpartition(".")[2]
            self._clients[symbol] = client
            client.send(frame(1, push(symbol, "snapshot", self._numbers[symbol])))

    def send(self, symbol: str) -> None:
        self._numbers[symbol] += 1
        self._clients[symbol].send(frame(1, push(symbol, "delta", self._numbers[symbol])))


def exchange(certificate: str = "") -> None:
    """Serve pushes to the collector as the commands say."""
    served = Exchange()
    context = server_context(Path(certificate)) if certificate else None
    with RawServer(context, on_text=served.on_text) as server:
        say(url=server.url)
        for line in sys.stdin:
            command, *numbers = line.split()
            if command == "rate":
                for number in due(float(numbers[0]), int(numbers[1])):
                    served.send(symbols()[number % INSTRUMENTS])
            else:
                for _ in range(int(numbers[0])):
                    served.send(symbols()[0])
            say(done=command)


def publish(rate: str, count: str) -> None:
    """Publish pushes with the collector's properties, confirmed by the broker."""
    with RawBroker(os.environ["RABBITMQ_VHOST"], os.environ) as broker:
        broker.confirm_publishes()
        threading.Thread(target=broker.discard, daemon=True).start()
        headers: dict[str, Any] = {"CC": [SIGNAL], "published_at": 2**40, "number": 2**60}
        properties = BasicProperties(delivery_mode=2, content_type="application/json", headers=headers)
        for number in due(float(rate), int(count)):
            body = push(symbols()[number % INSTRUMENTS], "delta", number)
            broker.write(broker.frames(EXCHANGE, STORAGE, body, properties))
        say(done="publish")
        sys.stdin.read()  # the connection stays until all is taken


def consume(queue: str, count: str) -> None:
    """Take messages and print of each when it was sent (ns), its age (s), and when it was received (ms)."""
    sent = []
    received = []
    ages = []
    with RawBroker(os.environ["RABBITMQ_VHOST"], os.environ) as broker:
        broker.consume(queue)
        say(ready=True)
        for _ in range(int(count)):
            header, body = broker.take(60)
            now = time.time_ns()
            at = body.index(SENT) + len(SENT)
            sent.append(int(body[at : at + 19]))
            ages.append((now - sent[-1]) / 1e9)
            at = header.index(PUBLISHED_AT) + len(PUBLISHED_AT)
            received.append(int.from_bytes(header[at : at + 8], "big"))
    say(ages=ages, sent=sent, received_ms=received)


PROGRAMS: dict[str, Callable[..., None]] = {"exchange": exchange, "publish": publish, "consume": consume}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](*sys.argv[2:])
