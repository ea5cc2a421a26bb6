"""The collector on an exchange behind TLS, as the real one is, against the same without it.

Each push is a record of its own. A burst waits on one stream when the collector begins to read, as it does
after a pause of the process; then all instruments push at a steady rate, which shows what TLS costs a push.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine
from benchmarks.latency import collecting, consuming
from benchmarks.place import place
from benchmarks.results import Row, check, progress, thousands
from tests.support.certificates import make_certificate

BURST = 1000
RATE = 3000


@dataclass
class Figures:
    """What came of one way to connect."""

    burst_rate: float  # pushes read a second
    cpu: float  # seconds a push, at RATE


def measure(certificate: str, bursts: int, seconds: int) -> Figures:
    """Measure bursts and steady pushes, over TLS where there is a certificate."""
    with place() as there, collecting(there, certificate) as (exchange, collector):
        lasted = 0.0
        for _ in range(bursts):
            with consuming(there, BURST) as taken:
                collector.service.pause()
                exchange.tell(f"burst {BURST}")
                exchange.says()
                collector.service.go_on()
                times = taken()
            check(sorted(times["sent"]) == times["sent"], "the pushes of a burst came in another order")
            # Of times in whole milliseconds, the last is that of its beginning.
            lasted += (times["received_ms"][-1] - times["received_ms"][0] + 1) / 1000
        count = RATE * seconds
        with consuming(there, count) as taken:
            used = machine.cpu_seconds(collector.pid)
            exchange.tell(f"rate {RATE} {count}")
            taken()
            used = machine.cpu_seconds(collector.pid) - used
    return Figures(bursts * BURST / lasted, used / count)


def run(*, quick: bool) -> list[Row]:
    bursts, seconds = (5, 3) if quick else (20, 10)
    with tempfile.TemporaryDirectory(prefix="blackbird-certificate-") as folder:
        certificate = str(make_certificate(Path(folder)).file)
        progress("tls: without")
        plain = measure("", bursts, seconds)
        progress("tls: with")
        secure = measure(certificate, bursts, seconds)
    return [
        Row(
            f"collector, waiting bursts of {BURST:,} pushes on one stream, over wss://",
            thousands(secure.burst_rate, "pushes/s read"),
            thousands(plain.burst_rate, "pushes/s over ws://"),
            secure.burst_rate / plain.burst_rate,
            least=0.7,
        ),
        Row(
            f"collector, {RATE:,} pushes/s over wss://",
            f"{secure.cpu * 1e6:.0f} us CPU a push",
            f"{plain.cpu * 1e6:.0f} us over ws://",
            secure.cpu / plain.cpu,
        ),
    ]
