"""The command line of `python -m local_exchange`."""

from __future__ import annotations

import argparse
from decimal import Decimal, InvalidOperation
from pathlib import Path

from local_exchange.private.rules import CATEGORIES
from local_exchange.private.settings import ORDERS_PER_SECOND, TAKER_FEES, PrivateSettings
from local_exchange.public_requests import FIRST

DESCRIPTION = """\
A local stand-in of Bybit's V5 interface, for use without internet and for tests: order books on
public WebSockets, and one account with REST and a private WebSocket. Listens on 127.0.0.1 and
prints one line when it is ready:

  listening on ws://127.0.0.1:9500, control on http://127.0.0.1:40123 | REST on
  http://127.0.0.1:40124 | private stream on ws://127.0.0.1:9500/v5/private

Order books: orderbook.{1,50,200,1000}.SYMBOL on /v5/public/{spot,linear,inverse},
orderbook.{25,100}.SYMBOL on /v5/public/option.

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
private side (one unified account, API key and secret as set below; spot and linear only):
  GET  /v5/market/time, /instruments-info, /tickers, /orderbook
  POST /v5/order/create, /cancel         GET /v5/order/realtime, /history
  GET  /v5/execution/list, /v5/position/list, /v5/account/wallet-balance, /v5/account/info,
       /v5/user/query-api; /v5/account/fee-rate is refused as on demo trading
  WebSocket /v5/private: auth, subscribe, unsubscribe, ping; topics order, execution,
       execution.fast, position, wallet, also .spot and .linear of them
  Everything else is HTTP 404. Requests are checked for key, signature, time window and rate.
  An order is accepted, and milliseconds later matched with the books that are pushed: Limit
  with IOC, FOK, GTC or PostOnly (what rests is never filled), Market with slippageTolerance.
  What is taken is gone from a synthetic book until the market fills it up again; a recorded
  market does not notice.

control interface (JSON over HTTP, e.g. curl -d '{"symbol": "BTCUSDT"}' $CONTROL/faults/gap):
  GET  /counters                 connections, subscribes, refusals, pushes sent by topic;
                                 orders by outcome and link id, rates, bad signatures
  GET  /sockets                  open connections and their topics
  GET  /instruments              symbols by channel
  GET  /book?channel=&symbol=    the exchange's own book, with &depth=N
  GET  /account                  wallets, positions and open orders, exact
  GET  /orders, /fills           requests to create orders and executions, with &after=N
  POST /pause, /resume           stop the market, let it go on; connections stay alive
  POST /pace {pace}              another rate (synthetic) or speed (recording)
  POST /step {channel, symbol, count}    make the next pushes now (synthetic)
  POST /book {channel, symbol, b, a}     set a book and push the difference (synthetic)
  GET  /faults                   faults that stand
  POST /faults/NAME {...}        answers {"matched": how many sockets, topics or rules}

faults (all narrowed by channel and symbol; * also by socket, the number in /sockets; the
private stream is the channel "private"):
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

faults of the private side (the first three groups also narrowed by side, link (part of the link
id), share (of what fits), count and seconds; those of requests by path, "*" for all):
  lost_reply {how: close|hang}, lost_request {how}, slow_reply {ms}, refuse {code, text},
  http {status, taken}, not_json|json_list|json_null|empty_object {taken},
  rate_limit {header: with|without|past}
  late_fill {ms}, part_fill {part}, no_fill, reject_after_accept {reason, part}, order_lag {ms}
  private_repeat, private_shuffle {ms}, private_delay {ms}, private_no_fees, auth_refused
  private_drop {how, code, seconds}, private_silence {seconds}, private_restart {seconds},
  realtime_wiped, clock {ms}
  deposit {coin, amount}, manual_trade {channel, symbol, side, qty, position_idx},
  funding {symbol, rate}, settle_session {symbol}, adl {symbol, qty}, liquidate {symbol}
  hedge_mode {on}, isolated {on}, no_money {coin, on}, no_loan {seconds}, extra_fee {rate},
  fee_coin {coin, price},
  status {channel, symbol, status},
  rules {channel, symbol, step, tick, least_qty, least_value, most_qty}
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m local_exchange",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_general(parser)
    _add_market(parser)
    _add_recording(parser)
    _add_private(parser)
    parsed = parser.parse_args(arguments)
    if parsed.recording is None and (parsed.once or parsed.verbatim):
        parser.error("--once and --verbatim need --recording")
    if parsed.instruments < 1 or parsed.levels < 2 or parsed.changes < 1:
        parser.error("expected --instruments and --changes of at least 1, --levels of at least 2")
    return parsed


def _add_general(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--port", type=int, default=9500, help="WebSocket port, 0: a free one (default 9500)")
    add("--control-port", type=int, default=0, help="port of the control interface (default: a free one)")
    add("--rest-port", type=int, default=0, help="port of REST (default: a free one)")
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


def _add_market(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("synthetic market").add_argument
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


def _add_recording(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("recording").add_argument
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


def _add_private(parser: argparse.ArgumentParser) -> None:
    usual = PrivateSettings()
    add = parser.add_argument_group("private side").add_argument
    add("--api-key", default=usual.api_key, help="the key that is known (default %(default)s)")
    add("--api-secret", default=usual.api_secret, help="its secret (default %(default)s)")
    balances = ", ".join(f"{coin}={amount}" for coin, amount in usual.balances.items())
    add(
        "--balance",
        type=_named_number,
        action="append",
        default=[],
        metavar="COIN=AMOUNT",
        help=f"what a wallet holds at the start, any number of times; none of it: {balances}",
    )
    add(
        "--taker-fee",
        type=_category_number,
        action="append",
        default=[],
        metavar="CATEGORY=RATE",
        help=f"as a fraction (default {_pairs(TAKER_FEES)})",
    )
    add(
        "--orders-per-second",
        type=_category_number,
        action="append",
        default=[],
        metavar="CATEGORY=N",
        help=f"0: as many as come (default {_pairs(ORDERS_PER_SECOND)})",
    )
    add("--lookups-per-second", type=int, default=50, metavar="N", help="of each look-up (default 50)")
    add(
        "--ip-requests",
        type=int,
        default=600,
        metavar="N",
        help="HTTP requests in 5 seconds before 403 for ten minutes, 0: as many as come (default 600)",
    )
    add("--leverage", type=_number, default=usual.leverage, help="of every position (default 10)")
    add(
        "--fill-delay", type=_range, default=(0.001, 0.008), metavar="MS,MS", help="accepted to matched (1,8)"
    )
    add("--push-delay", type=_range, default=(0.001, 0.005), metavar="MS,MS", help="matched to pushed (1,5)")
    add("--spot-margin", action="store_true", help="isLeverage 1 borrows what is missing")


def private_settings(options: argparse.Namespace) -> PrivateSettings:
    """Return the account that the command line asks for."""
    usual = PrivateSettings()
    rates = {category: int(number) for category, number in options.orders_per_second}
    return PrivateSettings(
        api_key=options.api_key,
        api_secret=options.api_secret,
        balances=dict(options.balance) or usual.balances,
        taker_fees=TAKER_FEES | dict(options.taker_fee),
        leverage=options.leverage,
        fill_delay=options.fill_delay,
        push_delay=options.push_delay,
        orders_per_second=ORDERS_PER_SECOND | rates,
        lookups_per_second=options.lookups_per_second,
        ip_requests=options.ip_requests,
        spot_margin=options.spot_margin,
        seed=options.seed,
    )


def _pairs(values: dict[str, Decimal] | dict[str, int]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


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


def _number(text: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or number < 0:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, was {text}")
    return number


def _named_number(text: str) -> tuple[str, Decimal]:
    name, _, number = text.partition("=")
    return name, _number(number)


def _category_number(text: str) -> tuple[str, Decimal]:
    category, number = _named_number(text)
    if category not in CATEGORIES:
        raise argparse.ArgumentTypeError(f"expected {' or '.join(CATEGORIES)}, was {category}")
    return category, number


def _range(text: str) -> tuple[float, float]:
    shortest, _, longest = text.partition(",")
    low, high = _at_least_zero(shortest), _at_least_zero(longest or shortest)
    if low > high:
        raise argparse.ArgumentTypeError(f"expected the shorter one first, was {text}")
    return low / 1000, high / 1000
