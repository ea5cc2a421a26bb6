"""List what real trades have left over, or say what became of it by hand.

usage: python -m deploy.leftover
       python -m deploy.leftover TRADE_ID NUMBER --traded-at PRICE
       python -m deploy.leftover TRADE_ID NUMBER --keep

With --traded-at you have sold it (or bought it back) at the exchange yourself, all of it, at that average
price: it is booked so. With --keep you want to hold it: it still counts as held, and blocks nothing any more.
Either way spreads of its pair are opened again. The trading engine has to run. What is said twice is done
once.
"""

from __future__ import annotations

import argparse
import sys
from decimal import Decimal

from pika.exceptions import AMQPError

from blackbird.trading.orders import LeftoverRequest, encode_leftover_request
from config import Config, check_settings
from database_manager import Cursor, DatabaseManager, DatabaseUnavailable
from deploy.settle import ask, price

OPEN_LEFTOVERS = """
SELECT trade_id, number, channel, symbol_name, size, price, reason, to_timestamp(since / 1000)::timestamp(0)
FROM bybit.open_leftover ORDER BY since, trade_id, number
"""


def listed() -> str:
    """Return the open leftovers, a line each; raises DatabaseUnavailable."""

    def work(cursor: Cursor) -> list[tuple[str, int, str, str, Decimal, Decimal, str, object]]:
        cursor.execute(OPEN_LEFTOVERS)
        return cursor.fetchall()

    database = DatabaseManager("leftover", Config.DB_CONFIG)
    try:
        rows = database.transaction(work)
    finally:
        database.close()
    lines = (
        f"{trade_id} {number}  {size} of {channel}:{symbol} at {average}, {reason}, since {since} UTC"
        for trade_id, number, channel, symbol, size, average, reason, since in rows
    )
    return "\n".join(lines) or "nothing is left over"


def resolve(request: LeftoverRequest) -> str:
    """Return the engine's answer; raises TimeoutError, AMQPError, and LookupError where it refuses."""
    reply = ask(encode_leftover_request(request))
    if not reply.acked:
        raise LookupError(reply.info)
    return reply.info


def main() -> int:
    """Do what the command line says; 1 with one line where that was not possible."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.leftover",
        description="List what real trades have left over, or say what became of it by hand.",
    )
    parser.add_argument("trade_id", nargs="?", metavar="TRADE_ID")
    parser.add_argument("number", nargs="?", type=int, metavar="NUMBER")
    parser.add_argument("--traded-at", type=price, metavar="PRICE", help="you have traded it away yourself")
    parser.add_argument("--keep", action="store_true", help="it stays as it is, and blocks nothing")
    arguments = parser.parse_args()
    if arguments.trade_id is not None:
        if arguments.number is None:
            parser.error("a leftover needs its number")
        if (arguments.traded_at is not None) == arguments.keep:
            parser.error("say either --traded-at PRICE or --keep")
    check_settings()
    try:
        if arguments.trade_id is None:
            print(listed())
        else:
            print(resolve(LeftoverRequest(arguments.trade_id, arguments.number, arguments.traded_at)))
    except (AMQPError, OSError, LookupError, DatabaseUnavailable) as error:
        print(f"leftover: {str(error) or repr(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
