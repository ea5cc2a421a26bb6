"""The faults of the local exchange's private side, with pybit as the client."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
import requests.exceptions
from pybit.exceptions import FailedRequestError, InvalidRequestError

from local_exchange.process import ControlError, ExchangeProcess
from tests.support.bybit_account import Trader, private_stream, session, until

Message = dict[str, Any]
UNLIMITED = (
    *("--orders-per-second", "linear=0", "--orders-per-second", "spot=0"),
    *("--lookups-per-second", "0", "--ip-requests", "0"),
)
BIDS = [["63999.0", "1.000"], ["63998.0", "9.000"]]
ASKS = [["64001.0", "1.000"], ["64002.0", "9.000"]]
SPOT = {"category": "spot", "symbol": "BTCUSDT"}
# A connection that is cut is left to the garbage collector by the client.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(scope="module")
def exchange() -> Iterator[ExchangeProcess]:
    balances = [f"--balance={coin}=1000000" for coin in ("BTC", "USDT", "USDC")]
    with ExchangeProcess("--rate", "0", *UNLIMITED, *balances) as started:
        yield started


@pytest.fixture
def trader(exchange: ExchangeProcess) -> Iterator[Trader]:
    trader = Trader(exchange)
    for category in ("linear", "spot"):
        trader.set_book(category, BIDS, ASKS)
    yield trader
    exchange.fault("clear")
    trader.set_book("linear", BIDS, ASKS)
    trader.flatten()


def attempt(trader: Trader, link_id: str, **order: Any) -> str:
    """Place an order, and return how that ended for the client."""
    try:
        trader.place(qty="0.01", orderLinkId=link_id, **order)
    except InvalidRequestError as error:
        return f"retCode {error.status_code}"
    except FailedRequestError as error:
        return f"status {error.status_code}"
    except requests.exceptions.RequestException as error:
        return type(error).__name__
    except (AttributeError, TypeError, KeyError) as error:
        # What pybit makes of an answer that is not the object that it expects.
        return type(error).__name__
    return "accepted"


def truth(exchange: ExchangeProcess, link_id: str) -> tuple[list[str], int]:
    """Return the outcomes of the requests with a link id, and how often it was filled."""
    outcomes = [one["outcome"] for one in exchange.get("/orders") if one["link_id"] == link_id]
    return outcomes, exchange.get("/counters")["private"]["fills_by_link_id"].get(link_id, 0)


# Requests.


@pytest.mark.parametrize(
    ("fault", "given", "seen", "taken"),
    [
        ("lost_reply", {}, "ConnectionError", True),
        ("lost_request", {}, "ConnectionError", False),
        ("http", {"status": 502}, "status 502", True),
        ("http", {"status": 503, "taken": False}, "status 503", False),
        ("http", {"status": 429}, "status 429", False),
        ("http", {"status": 403}, "status 403", False),
        ("http", {"status": 408, "taken": True}, "status 408", True),
        ("not_json", {}, "status 409", True),
        ("not_json", {"taken": False}, "status 409", False),
        ("json_list", {}, "AttributeError", True),
        ("json_null", {}, "TypeError", True),
        ("empty_object", {}, "KeyError", True),
        ("empty_object", {"taken": False}, "KeyError", False),
    ],
)
def test_request_whose_answer_says_nothing_was_taken_or_not_as_told(
    exchange: ExchangeProcess, trader: Trader, fault: str, given: Message, seen: str, taken: bool
) -> None:
    exchange.fault(fault, **given, count=1)
    link_id = f"{fault}-{len(exchange.get('/orders'))}"
    assert attempt(trader, link_id) == seen
    query = {"category": "linear", "symbol": "BTCPERP", "orderLinkId": link_id}
    if taken:
        until(lambda: trader.http.get_executions(**query)["result"]["list"], "the fill")
        assert truth(exchange, link_id) == (["taken"], 1)
        assert attempt(trader, link_id) == "retCode 110072"
        assert truth(exchange, link_id) == (["taken", "110072"], 1)
    else:
        assert trader.http.get_open_orders(**query)["result"]["list"] == []
        assert truth(exchange, link_id) == (["lost"], 0)
        assert attempt(trader, link_id) == "accepted"


@pytest.mark.parametrize(("fault", "outcome"), [("lost_reply", "taken"), ("lost_request", "lost")])
def test_request_that_is_never_answered_ends_with_the_clients_patience(
    exchange: ExchangeProcess, trader: Trader, fault: str, outcome: str
) -> None:
    exchange.fault(fault, how="hang", count=1)
    impatient = Trader(exchange, timeout=0.3)
    link_id = f"hang-{fault}"
    assert attempt(impatient, link_id) == "ReadTimeout"
    assert truth(exchange, link_id)[0] == [outcome]
    assert attempt(trader, f"{link_id}-after") == "accepted"


def test_hanging_request_is_let_go_when_the_fault_ends(exchange: ExchangeProcess, trader: Trader) -> None:
    exchange.fault("lost_request", how="hang")
    seen: list[str] = []
    waiting = threading.Thread(target=lambda: seen.append(attempt(trader, "let-go")))
    waiting.start()
    until(lambda: truth(exchange, "let-go")[0] == ["lost"], "the request received")
    assert seen == []
    exchange.fault("clear")
    waiting.join(10)
    assert seen == ["ConnectionError"]


def test_slow_reply_comes_after_the_fill(exchange: ExchangeProcess, trader: Trader) -> None:
    exchange.fault("slow_reply", ms=300, count=1)
    assert attempt(trader, "slow-1") == "accepted"
    answered_ns = time.time_ns()
    [fill] = [one for one in exchange.get("/fills") if one["orderLinkId"] == "slow-1"]
    assert fill["time_ns"] < answered_ns


def test_refusal_has_the_code_and_text_given_and_meets_what_it_is_narrowed_to(
    exchange: ExchangeProcess, trader: Trader
) -> None:
    exchange.fault("refuse", code=170131, text="Insufficient balance.", channel="spot", side="Sell")
    exchange.fault("refuse", code=10016, link="-s1", count=1)
    assert trader.refusal(**SPOT, side="Sell", qty="1") == (170131, "Insufficient balance.")
    assert attempt(trader, "trade-b1") == "accepted"
    assert attempt(trader, "trade-s1") == "retCode 10016"
    assert attempt(trader, "trade-s1") == "accepted"
    trader.trade(**SPOT, side="Buy", qty="10")


def test_fault_meets_its_share_of_what_fits(exchange: ExchangeProcess, trader: Trader) -> None:
    exchange.fault("refuse", code=110007, share=0.3)
    seen = [attempt(trader, f"share-{number}") for number in range(60)]
    assert 6 <= seen.count("retCode 110007") <= 32
    assert seen.count("retCode 110007") + seen.count("accepted") == 60


def test_fault_of_a_look_up_leaves_orders_alone(exchange: ExchangeProcess, trader: Trader) -> None:
    exchange.fault("http", status=500, path="/v5/position/list")
    with pytest.raises(FailedRequestError):
        trader.http.get_positions(category="linear", symbol="BTCPERP")
    assert attempt(trader, "beside-1") == "accepted"
    exchange.fault("http", status=504, path="*")
    with pytest.raises(FailedRequestError):
        trader.http.get_server_time()


@pytest.mark.parametrize(("header", "offset"), [("with", 500), ("past", -500), ("without", None)])
def test_rate_limit_comes_with_its_header_or_a_past_one_or_none(
    exchange: ExchangeProcess, trader: Trader, header: str, offset: int | None
) -> None:
    exchange.fault("rate_limit", header=header, count=1)
    with pytest.raises(InvalidRequestError) as refusal:
        trader.place(qty="0.01")
    assert refusal.value.status_code == 10006
    reset = refusal.value.resp_headers.get("X-Bapi-Limit-Reset-Timestamp")
    if offset is None:
        assert reset is None
    else:
        received_ms = exchange.get("/orders")[-1]["time_ns"] // 1_000_000
        assert offset <= int(reset) - received_ms < offset + 400
    # pybit's own retry sleeps until then, and fails on a time that is past.
    if header == "past":
        exchange.fault("rate_limit", header=header, count=1)
        with pytest.raises(ValueError, match="non-negative"):
            session(exchange, retry_codes=None).place_order(
                category="linear", symbol="BTCPERP", side="Buy", orderType="Market", qty="0.01"
            )


# Orders.


def test_part_and_zero_fills(exchange: ExchangeProcess, trader: Trader) -> None:
    exchange.fault("part_fill", part=0.35, channel="linear", count=1)
    row = trader.trade(qty="0.1")
    assert (row["orderStatus"], row["cumExecQty"]) == ("Cancelled", "0.035")
    assert row["rejectReason"] == "EC_CancelForNoFullFill"
    exchange.fault("no_fill", symbol="BTCUSDT", count=1)
    row = trader.trade(**SPOT, side="Sell", qty="0.1")
    assert (row["orderStatus"], row["rejectReason"]) == ("Cancelled", "EC_NoImmediateQtyToFill")
    assert row["cumExecQty"] == "0"


def test_order_rejected_after_it_was_accepted_may_carry_fills(
    exchange: ExchangeProcess, trader: Trader
) -> None:
    exchange.fault("reject_after_accept", count=1)
    row = trader.trade(qty="0.1")
    assert (row["orderStatus"], row["rejectReason"]) == ("Rejected", "EC_ReachMarketPriceLimit")
    assert row["cumExecQty"] == "0"
    exchange.fault("reject_after_accept", reason="EC_Others", part=0.5, count=1)
    row = trader.trade(qty="0.1")
    assert (row["orderStatus"], row["rejectReason"], row["cumExecQty"]) == ("Rejected", "EC_Others", "0.05")
    assert trader.position() == Decimal("0.05")


def test_look_ups_find_an_order_only_after_its_lag(exchange: ExchangeProcess, trader: Trader) -> None:
    exchange.fault("order_lag", ms=400, count=1)
    with private_stream(exchange, ("execution",)) as stream:
        trader.place(qty="0.01", orderLinkId="lag-1")
        until(lambda: stream.rows("execution"), "the push")
        query = {"category": "linear", "symbol": "BTCPERP", "orderLinkId": "lag-1"}
        look_ups: list[Callable[..., Message]] = [
            trader.http.get_open_orders,
            trader.http.get_order_history,
            trader.http.get_executions,
        ]
        assert [look_up(**query)["result"]["list"] for look_up in look_ups] == [[], [], []]
        until(lambda: all(look_up(**query)["result"]["list"] for look_up in look_ups), "found")


def test_realtime_forgets_closed_orders_and_history_keeps_them(
    exchange: ExchangeProcess, trader: Trader
) -> None:
    trader.trade(qty="0.01", orderLinkId="wiped-1")
    assert exchange.fault("realtime_wiped") > 0
    query = {"category": "linear", "symbol": "BTCPERP", "orderLinkId": "wiped-1"}
    assert trader.http.get_open_orders(**query)["result"]["list"] == []
    assert len(trader.http.get_order_history(**query)["result"]["list"]) == 1
    assert len(trader.http.get_executions(**query)["result"]["list"]) == 1


def test_restart_takes_rest_and_private_stream_away_and_brings_them_back(
    exchange: ExchangeProcess, trader: Trader
) -> None:
    trader.trade(qty="0.01", orderLinkId="before-1")
    exchange.fault("private_restart", seconds=0.4)
    with pytest.raises(requests.exceptions.ConnectionError):
        trader.http.get_server_time()

    def answers() -> bool:
        try:
            trader.http.get_server_time()
        except requests.exceptions.ConnectionError:
            return False
        return True

    until(answers, "REST back")
    query = {"category": "linear", "symbol": "BTCPERP", "orderLinkId": "before-1"}
    assert trader.http.get_open_orders(**query)["result"]["list"] == []
    assert trader.position() == Decimal("0.01")
    until(lambda: exchange.get("/faults") == [], "the private stream back")
    with private_stream(exchange, ("order",)):
        assert attempt(trader, "after-1") == "accepted"


# What happens to the account.


def test_trade_by_hand_has_no_link_id_and_moves_the_position(
    exchange: ExchangeProcess, trader: Trader
) -> None:
    with private_stream(exchange) as stream:
        exchange.fault("manual_trade", symbol="BTCPERP", side="Sell", qty="0.02")
        until(lambda: stream.rows("execution"), "the execution")
    [fill] = stream.rows("execution")
    assert (fill["orderLinkId"], fill["side"], fill["execQty"]) == ("", "Sell", "0.02")
    assert trader.position() == Decimal("-0.02")
    btc = trader.balance("BTC")
    exchange.fault("manual_trade", channel="spot", symbol="BTCUSDT", side="Sell", qty="0.5")
    until(lambda: trader.balance("BTC") == btc - Decimal("0.5"), "the sale")
    with pytest.raises(ControlError, match="expected an order that is taken"):
        exchange.fault("manual_trade", symbol="BTCPERP", side="Sell", qty="0.0001")


def test_funding_is_an_execution_that_changes_no_position(exchange: ExchangeProcess, trader: Trader) -> None:
    trader.trade(qty="0.2", side="Sell")
    usdc = trader.balance("USDC")
    with private_stream(exchange) as stream:
        assert exchange.fault("funding", symbol="BTCPERP", rate="0.0001") == 1
        until(lambda: stream.rows("execution"), "the execution")
    [row] = stream.rows("execution")
    # The short side is paid: the fee is below zero.
    assert (row["execType"], row["side"], row["execQty"], row["execFee"]) == (
        "Funding",
        "Sell",
        "0.2",
        "-1.28",
    )
    assert (row["orderLinkId"], row["orderType"]) == ("", "UNKNOWN")
    assert trader.balance("USDC") == usdc + Decimal("1.28")
    assert trader.position() == Decimal("-0.2")
    listed = trader.http.get_executions(category="linear", symbol="BTCPERP", execType="Funding")
    assert [one["execId"] for one in listed["result"]["list"]] == [row["execId"]]


def test_deleveraging_and_liquidation_take_positions_away(exchange: ExchangeProcess, trader: Trader) -> None:
    trader.trade(qty="0.2")
    exchange.fault("adl", symbol="BTCPERP", qty="0.15")
    assert trader.position() == Decimal("0.05")
    exchange.fault("liquidate", symbol="BTCPERP")
    assert trader.position() == 0
    kinds = [one["execType"] for one in exchange.get("/fills")[-2:]]
    assert kinds == ["AdlTrade", "BustTrade"]
    assert exchange.fault("liquidate", symbol="BTCPERP") == 0


def test_session_settlement_pays_the_open_result_once(exchange: ExchangeProcess, trader: Trader) -> None:
    usdc = trader.balance("USDC")
    opened = trader.trade(qty="0.1")
    trader.set_book("linear", [["64999.0", "1.000"]], [["65001.0", "1.000"]])
    exchange.fault("settle_session", symbol="BTCPERP")
    [row] = trader.http.get_positions(category="linear", symbol="BTCPERP")["result"]["list"]
    assert (row["avgPrice"], row["sessionAvgPrice"], row["unrealisedPnl"]) == ("64001", "65000", "0")
    closed = trader.trade(qty="0.1", side="Sell")
    fees = [Decimal(row["cumFeeDetail"]["USDC"]) for row in (opened, closed)]
    assert trader.balance("USDC") == usdc + Decimal("99.8") - sum(fees)
    with pytest.raises(ControlError, match="settled in USDC"):
        exchange.fault("settle_session", symbol="BTCUSDT")


def test_deposit_shows_in_the_wallet_and_is_pushed(exchange: ExchangeProcess, trader: Trader) -> None:
    btc = trader.balance("BTC")
    with private_stream(exchange, ("wallet",)) as stream:
        exchange.fault("deposit", coin="BTC", amount="-0.000000001")
        until(lambda: stream.rows("wallet"), "the push")
    assert trader.balance("BTC") == btc - Decimal("1e-9")


# How the account, its instruments and the exchange are.


def test_hedge_mode_wants_a_position_index_for_usdt_contracts_alone(
    exchange: ExchangeProcess, trader: Trader
) -> None:
    exchange.fault("hedge_mode")
    assert trader.refusal(symbol="BTCUSDT", qty="0.01") == (
        10001,
        "position idx not match position mode",
    )
    rows = trader.http.get_positions(category="linear", symbol="BTCUSDT")["result"]["list"]
    assert [row["positionIdx"] for row in rows] == [1, 2]
    assert attempt(trader, "usdc-1") == "accepted"
    exchange.fault("hedge_mode", on=False)
    [row] = trader.http.get_positions(category="linear", symbol="BTCUSDT")["result"]["list"]
    assert row["positionIdx"] == 0


def test_missing_money_closed_instruments_and_isolated_margin(
    exchange: ExchangeProcess, trader: Trader
) -> None:
    exchange.fault("no_money", coin="BTC")
    assert trader.refusal(**SPOT, side="Sell", qty="0.1")[0] == 170131
    exchange.fault("no_money", coin="USDC")
    assert trader.refusal(qty="0.1")[0] == 110007
    exchange.fault("isolated")
    assert trader.http.get_account_info()["result"]["marginMode"] == "ISOLATED_MARGIN"
    exchange.fault("status", channel="spot", symbol="BTCUSDT", status="Closed")
    exchange.fault("status", channel="linear", symbol="BTCPERP", status="Delivering")
    assert trader.refusal(**SPOT, qty="10")[0] == 170151
    assert trader.refusal(qty="0.1")[0] == 110074
    assert trader.http.get_instruments_info(category="spot", symbol="BTCUSDT")["result"]["list"] == []
    exchange.fault("clear")
    assert trader.http.get_account_info()["result"]["marginMode"] == "REGULAR_MARGIN"
    trader.trade(qty="0.1")
    trader.trade(**SPOT, side="Sell", qty="0.1")


def test_taxes_come_on_top_of_the_fee_and_another_coin_may_pay_spot_fees(
    exchange: ExchangeProcess, trader: Trader
) -> None:
    exchange.fault("extra_fee", rate="0.000099")
    usdc = trader.balance("USDC")
    row = trader.trade(qty="0.1")
    [fill] = trader.http.get_executions(category="linear", orderId=row["orderId"])["result"]["list"]
    [tax] = fill["extraFees"]
    assert (tax["fee"], tax["feeCoin"]) == ("0.6336099", "USDC")
    assert trader.balance("USDC") == usdc - Decimal(fill["execFee"]) - Decimal("0.6336099")
    exchange.fault("fee_coin", coin="MNT", price="0.5")
    btc = trader.balance("BTC")
    row = trader.trade(**SPOT, qty="0.01", marketUnit="baseCoin", side="Buy")
    assert row["cumFeeDetail"] == {"MNT": "1.28002"}
    assert trader.balance("BTC") == btc + Decimal("0.01")
    assert trader.balance("MNT") == Decimal("-1.28002")


def test_order_pushes_without_fees(exchange: ExchangeProcess, trader: Trader) -> None:
    exchange.fault("private_no_fees")
    with private_stream(exchange, ("order", "execution")) as stream:
        row = trader.trade(qty="0.01", orderLinkId="free-1")
        until(lambda: {one["orderStatus"] for one in stream.rows("order")} >= {"Filled"}, "the end")
        until(lambda: stream.rows("execution"), "the execution")
    assert row["cumFeeDetail"] == {"USDC": stream.rows("execution")[0]["execFee"]}
    assert [one["cumFeeDetail"] for one in stream.rows("order")] == [{}] * len(stream.rows("order"))


def test_clock_of_the_exchange_shows_in_everything(exchange: ExchangeProcess, trader: Trader) -> None:
    exchange.fault("clock", ms=600)
    ahead = trader.http.get_server_time()["time"] - time.time() * 1000
    assert 300 < ahead <= 600
    row = trader.trade(qty="0.01")
    assert int(row["createdTime"]) - time.time() * 1000 > 200


@pytest.mark.parametrize(
    ("name", "given", "reason"),
    [
        ("lost_reply", {"how": "softly"}, "close, hang"),
        ("lost_reply", {"cuont": 1}, "expected channel, symbol, path"),
        ("lost_reply", {"count": -1}, "expected count"),
        ("lost_reply", {"share": "half"}, "expected share"),
        ("http", {"status": 200}, "expected an HTTP status"),
        ("part_fill", {"part": 2}, "at most 1"),
        ("refuse", {}, "missing a required argument"),
        ("slow_reply", {"ms": "long"}, "expected ms"),
        ("status", {"channel": "spot", "symbol": "BTCUSDT", "status": "Open"}, "PreLaunch"),
        ("status", {"channel": "spot", "symbol": "NOPE", "status": "Closed"}, "expected an instrument"),
        ("deposit", {"coin": "BTC", "amount": "much"}, "expected amount to be a number"),
        ("clock", {"ms": "late"}, "expected ms to be a number"),
    ],
)
def test_fault_that_makes_no_sense_is_refused_with_the_reason(
    exchange: ExchangeProcess, name: str, given: Message, reason: str
) -> None:
    with pytest.raises(ControlError, match=reason):
        exchange.fault(name, **given)
    assert exchange.get("/faults") == []
