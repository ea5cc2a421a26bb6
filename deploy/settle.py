"""List the open spreads, or close one at prices given by hand, as after the expiry of an instrument.

usage: python -m deploy.settle
       python -m deploy.settle SPREAD_ID LONG_PRICE SHORT_PRICE

All that is left of the spread is closed: the long leg is sold, the short leg bought back. The trading engine
has to run. A close is made once, however often it is asked for. For simulated orders alone.
"""

from __future__ import annotations

import argparse
import sys
import time
import uuid
from decimal import Decimal, InvalidOperation

import pika
from pika.exceptions import AMQPError

from blackbird.broker.parameters import connection_parameters
from blackbird.broker.topology import DIRECT_REPLY, ORDERS
from blackbird.trading.orders import (
    CLOSE_SPREAD,
    QUESTION,
    OpenSpread,
    Order,
    Reply,
    decode_reply,
    encode_order,
)
from config import Config, check_settings

REPLY_SECONDS = 10.0


def ask(request: bytes) -> Reply:
    """Send a request to the trading engine and return its reply; raises TimeoutError."""
    replies: list[bytes] = []
    where = connection_parameters(**Config.BROKER_CONFIG, name="settle")
    with pika.BlockingConnection(where.of_each_host()) as connection:
        channel = connection.channel()
        channel.basic_consume(DIRECT_REPLY, lambda *delivery: replies.append(delivery[3]), auto_ack=True)
        properties = pika.BasicProperties(reply_to=DIRECT_REPLY, correlation_id=uuid.uuid4().hex)
        channel.basic_publish("", ORDERS, request, properties)
        deadline = time.monotonic() + REPLY_SECONDS
        while not replies and (left := deadline - time.monotonic()) > 0:
            connection.process_data_events(left)
    if not replies:
        raise TimeoutError(f"the trading engine has not answered within {REPLY_SECONDS:.0f} s")
    return decode_reply(replies[0])


def closing(spread: OpenSpread, long_price: Decimal, short_price: Decimal) -> Order:
    """Return the order that closes what is left of a spread, always under the same `order_id`."""
    now = time.time_ns() // 1_000_000
    return Order(
        action=CLOSE_SPREAD,
        sell=spread.long,
        sell_price=long_price,
        buy=spread.short,
        buy_price=short_price,
        size=spread.quantity,
        ts_sell=now,
        ts_buy=now,
        order_id=f"settle-{spread.spread_id}",
        spread_id=spread.spread_id,
    )


def price(text: str) -> Decimal:
    """Return a price of the command line."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or value <= 0:
        raise argparse.ArgumentTypeError(f"expected a number above zero, was {text!r}")
    return value


def settle(arguments: argparse.Namespace) -> str:
    """Return what is to be printed; raises TimeoutError, AMQPError, and LookupError for an unknown spread."""
    spreads = ask(QUESTION).open_spreads or []
    if arguments.spread_id is None:
        lines = (
            f"{each.spread_id}  long {'/'.join(each.long)}  short {'/'.join(each.short)}  {each.quantity}"
            for each in spreads
        )
        return "\n".join(lines) or "no open spreads"
    found = next((each for each in spreads if each.spread_id == arguments.spread_id), None)
    if found is None:
        raise LookupError(f"no open spread {arguments.spread_id}")
    reply = ask(encode_order(closing(found, arguments.long_price, arguments.short_price)))
    if not reply.acked:
        raise LookupError(reply.info)
    return reply.info


def main() -> int:
    """Do what the command line says; 1 with one line where that was not possible."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.settle", description="List the open spreads, or close one at the given prices."
    )
    parser.add_argument("spread_id", nargs="?", metavar="SPREAD_ID")
    parser.add_argument("long_price", nargs="?", type=price, metavar="LONG_PRICE", help="for the leg to sell")
    parser.add_argument(
        "short_price", nargs="?", type=price, metavar="SHORT_PRICE", help="for the leg to buy"
    )
    arguments = parser.parse_args()
    if arguments.spread_id is not None and arguments.short_price is None:
        parser.error("a spread needs two prices")
    check_settings()
    if Config.REAL_ORDER_SENDING:
        parser.error("with REAL_ORDER_SENDING the close would go to the exchange")
    try:
        print(settle(arguments))
    except (AMQPError, OSError, LookupError) as error:
        print(f"settle: {str(error) or repr(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
