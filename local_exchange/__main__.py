"""Runs a local stand-in of Bybit's V5 public WebSocket: `python -m local_exchange --help`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from local_exchange import LocalExchange, RecordingError, Replay, SyntheticMarket
from local_exchange.public_requests import FIRST, AnswerTiming

if TYPE_CHECKING:
    from local_exchange.source import Source

DESCRIPTION = """\
A local stand-in of Bybit's V5 public WebSocket, for use without internet and for tests.
Order books only: orderbook.{1,50,200,1000}.SYMBOL on /v5/public/{spot,linear,inverse},
orderbook.{25,100}.SYMBOL on /v5/public/option. Listens on 127.0.0.1 and prints one line
when it is ready:

  listening on ws://127.0.0.1:9500, control on http://127.0.0.1:40123

Without --recording it plays a seeded synthetic market: spot BTCUSDT, ETHUSDT, T003USDT, ...
and linear BTCPERP, ETHPERP, T003PERP, ... cross and uncross pair by pair; linear BTCUSDT and
ETHUSDT, inverse BTCUSD and ETHUSD and an option on each are there too. An instrument is
pushed only while somebody is subscribed to it.

A subscription is answered after some milliseconds, as over a network (--answer-delay): on spot
and option with the acknowledgement and then the snapshot, on linear and inverse the other way,
pushes between the two included. An option topic of a depth that is not served is accepted and
then silent.

With --recording it replays a file of lines {"t": ns, "category": ..., "message": ...}
(.ndjson or .ndjson.gz), with ts and cts of now and a u that rises by one, over and over;
at each new round a topic continues with its recorded snapshot, u one above the last, and the
first new round is logged. With --verbatim the numbers are the recorded ones: a client that has
seen this recording before ignores it, and a line at the start says so. Depths that are not in
the recording are cut from the deepest one that is: no deeper than recorded.
A subscription is followed by a snapshot once the first line of the instrument was played.
"""

EPILOG = """\
control interface (JSON over HTTP, e.g. curl -d '{"symbol": "BTCUSDT"}' $CONTROL/faults/gap):
  GET  /counters                 connections, subscribes, refusals, pushes sent by topic
  GET  /sockets                  open connections and their topics
  GET  /instruments              symbols by channel
  GET  /book?channel=&symbol=    the exchange's own book, with &depth=N
  POST /pause, /resume           stop the market, let it go on; connections stay alive
  POST /pace {pace}              another rate (synthetic) or speed (recording)
  POST /step {channel, symbol, count}    make the next pushes now (synthetic)
  POST /book {channel, symbol, b, a}     set a book and push the difference (synthetic)
  GET  /faults                   faults that stand
  POST /faults/NAME {...}        answers {"matched": how many sockets, topics or rules}

faults (all narrowed by channel and symbol; * also by socket, the number in /sockets):
  drop* {how: close|fin|rst, code, reason}
  refuse_tcp {seconds}, refuse_handshake {status, seconds, count},
  hang_handshake {seconds, count}
  no_pong* {new}, no_close_answer* {new}      new: also connections still to come
  refuse_subscription {text, seconds, count},
  slow_ack {delay, only_ack, seconds, count}  only_ack: snapshot and pushes are in time
  answer_order {first: ack|snapshot, seconds, count}
  silence* {seconds, new}                     connected, answering, no pushes
  gap* {count}                                the next pushes are lost
  repeat, snapshot, restart (u = 1), cross, delete_absent
  garbage* {kind: text|list|number|null|empty|object|cut|nan|huge|binary, size}
  send* {text}, clear
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--port", type=int, default=9500, help="WebSocket port, 0: a free one (default 9500)")
    add("--control-port", type=int, default=0, help="port of the control interface (default: a free one)")
    add("--wait-for", type=int, default=0, metavar="N", help="begin when N topics are subscribed")
    add(
        "--repeat-after",
        type=_at_least_zero,
        default=3.0,
        metavar="SECONDS",
        help="a quiet depth-1 topic repeats itself after this, 0: never (default 3)",
    )
    add(
        "--answer-delay",
        type=_at_least_zero,
        default=10.0,
        metavar="MS",
        help="milliseconds before a subscription is answered, and from a snapshot to an acknowledgement"
        " after it (default 10)",
    )
    add(
        "--answer-order",
        choices=FIRST,
        default="real",
        help="what answers a subscription first; real: as on Bybit, by channel (default real)",
    )
    add("--record", type=Path, metavar="FILE", help="write every push sent, as a recording")
    add("--verbose", action="store_true", help="log connections")

    market = parser.add_argument_group("synthetic market")
    add = market.add_argument
    add("--instruments", type=int, default=2, metavar="N", help="spot/linear pairs (default 2)")
    add(
        "--rate",
        type=_at_least_zero,
        default=20.0,
        help="pushes a second and instrument, 0: only by the control interface (default 20)",
    )
    add("--levels", type=int, default=60, help="levels a side of each book (default 60)")
    add("--changes", type=int, default=4, help="levels changed by each push (default 4)")
    add("--seed", type=int, default=1, help="another seed, another market (default 1)")
    add("--no-crossing", action="store_true", help="the two legs of a pair never cross")
    add(
        "--swings",
        type=_share,
        default=1.0,
        metavar="SHARE",
        help="share of the swings of a premium that take place; less of them, less to trade (default 1)",
    )

    recording = parser.add_argument_group("recording")
    add = recording.add_argument
    add("--recording", type=Path, metavar="FILE", help="play this instead")
    add(
        "--speed",
        type=_speed,
        default=1.0,
        metavar="X",
        help="times the recorded speed, 0 or max: as fast as the clients read (default 1)",
    )
    add("--once", action="store_true", help="stop after the last line; books stay, it stays up")
    add(
        "--verbatim",
        action="store_true",
        help="messages exactly as recorded (ts, cts, u, seq too), once, recorded depths only",
    )
    parsed = parser.parse_args(arguments)
    if parsed.recording is None and (parsed.once or parsed.verbatim):
        parser.error("--once and --verbatim need --recording")
    if parsed.instruments < 1 or parsed.levels < 2 or parsed.changes < 1:
        parser.error("expected --instruments and --changes of at least 1, --levels of at least 2")
    return parsed


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"expected 0 to 1, was {text}")
    return share


def _at_least_zero(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected at least 0, was {text}")
    return number


def _speed(text: str) -> float:
    return 0.0 if text == "max" else _at_least_zero(text)


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
        wait_for=options.wait_for,
        repeat_after=options.repeat_after,
        record=options.record,
        answers=AnswerTiming(options.answer_delay / 1000, options.answer_order),
    )
    async with exchange:
        print(f"listening on {exchange.url}, control on {exchange.control_url}", flush=True)
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
