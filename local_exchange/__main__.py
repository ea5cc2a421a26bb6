"""Runs a local stand-in of Bybit's V5 interface: `python -m local_exchange --help`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from typing import TYPE_CHECKING, Any

import uvloop

from local_exchange import LocalExchange, RecordingError, Replay, SyntheticMarket
from local_exchange.options import parse_arguments, private_settings
from local_exchange.public_requests import AnswerTiming

if TYPE_CHECKING:
    from local_exchange.source import Source


def make_source(options: argparse.Namespace) -> Source:
    """Make the market that the command line asks for.

    Raises:
        RecordingError: the file is not a recording.
        OSError: it can't be read.
    """
    if options.recording is not None:
        return Replay(
            options.recording,
            speed=options.speed,
            once=options.once,
            verbatim=options.verbatim,
        )
    return SyntheticMarket(
        pairs=options.instruments,
        rate=options.rate,
        levels=options.levels,
        changes=options.changes,
        seed=options.seed,
        crossing=not options.no_crossing,
        swings=options.swings,
    )


async def run(options: argparse.Namespace) -> None:
    """Serve until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    exchange = LocalExchange(
        make_source(options),
        port=options.port,
        control_port=options.control_port,
        rest_port=options.rest_port,
        wait_for=options.wait_for,
        repeat_after=options.repeat_after,
        record=options.record,
        answers=AnswerTiming(options.answer_delay / 1000, options.answer_order),
        private=private_settings(options),
    )
    async with exchange:
        print(
            f"listening on {exchange.url}, control on {exchange.control_url} | REST on {exchange.rest_url}"
            f" | private stream on {exchange.private_url}",
            flush=True,
        )
        stopping = asyncio.ensure_future(stop.wait())
        either: set[asyncio.Future[Any]] = {stopping, exchange.failure}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if exchange.failure.done():
            await exchange.failure


def main() -> int:
    """Run the command, and return its exit status."""
    options = parse_arguments()
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    # What becomes of a recording is said even where connections are not logged.
    logging.getLogger("local_exchange.replay").setLevel(logging.INFO)
    # The library logs every broken handshake with its traceback; breaking them is a purpose here.
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    try:
        uvloop.run(run(options))
    except (OSError, RecordingError) as error:
        print(f"local_exchange: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
