"""Where a benchmark runs: a virtual host and a database of its own, services and ceilings as processes."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Self, cast

from benchmarks.raw_broker import RawBroker
from benchmarks.results import check
from blackbird.broker.topology import EXCHANGE, FEED_QUEUES, QUEUE_ARGUMENTS
from tests.support.workspace import ANY_AGE, HERE, PYTHON, Service, Workspace, workspace

ANY_PRICE = {"MAX_PRICE_RATIO": "1000000000"}
PROGRAMS = Path(__file__).resolve().parent


class Program:
    """One of the programs of bare.py or timed.py."""

    def __init__(self, place: Place, script: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [PYTHON, str(PROGRAMS / script), *arguments],
            cwd=HERE,
            env=place.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        cast("IO[str]", self.process.stdin).close()
        cast("IO[str]", self.process.stdout).close()

    def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        cast("IO[str]", self.process.stdin).write(f"{line}\n")

    def says(self) -> dict[str, Any]:
        """Return the next line that it prints."""
        line = cast("IO[str]", self.process.stdout).readline()
        check(line, "a ceiling's process ended without a result")
        said: dict[str, Any] = json.loads(line)
        return said


class Place:
    """A workspace of the tests' kind, with what the benchmarks need beside."""

    def __init__(self, space: Workspace) -> None:
        self.space = space
        self.environment = space.environment

    def raw(self) -> RawBroker:
        """Return a connection of its own to the virtual host, to be used in a `with`."""
        return RawBroker(self.space.name, self.environment)

    def bare(self, *arguments: str) -> Program:
        return Program(self, "bare.py", *arguments)

    def timed(self, *arguments: str) -> Program:
        return Program(self, "timed.py", *arguments)

    def declare_queues(self, *more: str) -> None:
        """Declare exchange and queues as the services do, so that they can be filled before those start."""
        channel = self.space.channel()
        channel.exchange_declare(EXCHANGE, exchange_type="topic", durable=True)
        for queue, arguments in QUEUE_ARGUMENTS.items():
            channel.queue_declare(queue, durable=True, arguments=arguments or None)
        for queue in more:
            channel.queue_declare(queue, durable=True)
        for queue, key in FEED_QUEUES.items():
            channel.queue_bind(queue, EXCHANGE, key)
        channel.connection.close()


@contextlib.contextmanager
def place(**settings: str) -> Iterator[Place]:
    """Make a place; everything in it ends with the block."""
    with (
        tempfile.TemporaryDirectory(prefix="blackbird-benchmark-") as folder,
        workspace(Path(folder), **ANY_AGE, **ANY_PRICE, **settings) as space,
    ):
        yield Place(space)


def time_of_line(service: Service, text: str) -> float:
    """Return the time (seconds since 1970) at which the service logged a line with `text`."""
    line = next(line for line in service.output.splitlines() if text in line)
    return datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp()


def wait_until(condition: Any, what: str, seconds: float = 120, pause: float = 0.02) -> float:
    """Return the time at which the condition was true."""
    deadline = time.time() + seconds
    while not condition():
        check(time.time() < deadline, f"not within {seconds} s: {what}")
        time.sleep(pause)
    return time.time()
