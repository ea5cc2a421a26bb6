"""The account of the local exchange, with pybit as its REST client: look-ups, orders, refusals."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from pybit.exceptions import FailedRequestError, InvalidRequestError

from local_exchange.process import ExchangeProcess
from tests.support.bybit_account import Trader, session, until

Start = Callable[..., ExchangeProcess]
Message = dict[str, Any]
UNLIMITED = (
    *("--orders-per-second", "linear=0", "--orders-per-second", "spot=0"),
    *("--lookups-per-second", "0", "--ip-requests", "0"),
)
BIDS = [["63999.0", "0.100"], ["63998.0", "0.200"], ["63000.0", "9.000"]]
ASKS = [["64001.0", "0.100"], ["64002.0", "0.200"], ["65000.0", "9.000"]]
LIMIT = {"orderType": "Limit", "timeInForce": "IOC"}
SPOT = {"category": "spot", "symbol": "BTCUSDT"}


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[ExchangeProcess] = []

    def start_exchange(*arguments: str) -> ExchangeProcess:
        running.append(ExchangeProcess("--rate", "0", *arguments))
        return running[-1]

    yield start_exchange
    assert [exchange.stop() for exchange in running] == [0] * len(running)


@pytest.fixture(scope="module")
def quiet() -> Iterator[ExchangeProcess]:
    with ExchangeProcess("--rate", "0", *UNLIMITED) as exchange:
        yield exchange


@pytest.fixture
def trader(quiet: ExchangeProcess) -> Iterator[Trader]:
    """A trader on books of two near levels a side and one far away."""
    trader = Trader(quiet)
    for category in ("linear", "spot"):
        trader.set_book(category, BIDS, ASKS)
    yield trader
    quiet.fault("clear")
    trader.set_book("linear", BIDS, ASKS)
    trader.flatten()


def amounts(row: Message, *names: str) -> list[Decimal]:
    return [Decimal(row[name]) for name in names]


# Market data and look-ups.


def test_market_data_is_that_of_the_books(trader: Trader) -> None:
    ticker = trader.http.get_tickers(category="linear", symbol="BTCPERP")["result"]["list"][0]
    assert (ticker["bid1Price"], ticker["bid1Size"]) == ("63999.0", "0.100")
    assert (ticker["ask1Price"], ticker["ask1Size"]) == ("64001.0", "0.100")
    book = trader.http.get_orderbook(category="spot", symbol="BTCUSDT", limit=2)["result"]
    assert (book["b"], book["a"]) == (BIDS[:2], ASKS[:2])
    assert len(trader.http.get_orderbook(category="spot", symbol="BTCUSDT")["result"]["a"]) == 1
    time = trader.http.get_server_time()
    assert abs(int(time["result"]["timeNano"]) // 1_000_000 - time["time"]) <= 1


def test_instruments_have_the_filters_of_their_category(trader: Trader) -> None:
    def only(category: str, symbol: str) -> Message:
        [row] = trader.http.get_instruments_info(category=category, symbol=symbol)["result"]["list"]
        return dict(row)

    spot, linear = only("spot", "BTCUSDT"), only("linear", "BTCPERP")
    assert spot["lotSizeFilter"]["basePrecision"] == "0.000001"
    assert spot["lotSizeFilter"]["minOrderAmt"] == "5"
    assert spot["priceFilter"] == {"tickSize": "0.1"}
    assert (linear["baseCoin"], linear["quoteCoin"], linear["settleCoin"]) == ("BTC", "USDC", "USDC")
    assert linear["lotSizeFilter"]["qtyStep"] == "0.001"
    assert linear["lotSizeFilter"]["minNotionalValue"] == "5"
    assert linear["priceFilter"]["tickSize"] == "0.10"
    with pytest.raises(InvalidRequestError) as unknown:
        trader.http.get_instruments_info(category="spot", symbol="NOPE")
    assert unknown.value.status_code == 170121


def test_account_and_key_are_those_of_a_unified_one_way_account(trader: Trader) -> None:
    assert trader.http.get_account_info()["result"]["unifiedMarginStatus"] == 4
    key = trader.http.get_api_key_information()["result"]
    assert (key["readOnly"], key["permissions"]["Spot"]) == (0, ["SpotTrade"])
    [flat] = trader.http.get_positions(category="linear", symbol="ETHPERP")["result"]["list"]
    assert (flat["side"], flat["size"], flat["positionIdx"]) == ("", "0", 0)
    assert trader.http.get_positions(category="linear", settleCoin="USDT")["result"]["list"] == []
    [wallet] = trader.http.get_wallet_balance(accountType="UNIFIED", coin="ETH,SOL")["result"]["list"]
    assert [(row["coin"], row["walletBalance"]) for row in wallet["coin"]] == [("ETH", "10"), ("SOL", "0")]
    with pytest.raises(InvalidRequestError, match="Demo trading are not supported"):
        trader.http.get_fee_rates(category="spot", symbol="BTCUSDT")


@pytest.mark.parametrize("path", ["/v5/order/amend", "/v5/order", "/", "/v5/market/kline", "/v5/asset/coins"])
def test_what_is_not_served_is_not_found(quiet: ExchangeProcess, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(quiet.rest_url + path, timeout=5)  # noqa: S310
    with refusal.value as answer:
        assert answer.status == 404


# Key, signature, time, rate.


def test_key_signature_and_headers_are_checked(quiet: ExchangeProcess) -> None:
    before = quiet.get("/counters")["private"]["bad_signatures"]
    with pytest.raises(InvalidRequestError) as refusal:
        session(quiet, api_key="someone").get_account_info()
    assert (refusal.value.status_code, refusal.value.message) == (10003, "API key is invalid.")
    with pytest.raises(InvalidRequestError) as refusal:
        session(quiet, api_secret="guess").get_wallet_balance(accountType="UNIFIED")
    assert refusal.value.status_code == 10004
    assert refusal.value.message.startswith("error sign! origin_string[")
    with pytest.raises(urllib.error.HTTPError) as bare:
        urllib.request.urlopen(f"{quiet.rest_url}/v5/account/info", timeout=5)  # noqa: S310
    with bare.value as answer:
        assert answer.status == 401
    assert quiet.get("/counters")["private"]["bad_signatures"] == before + 3


@pytest.mark.parametrize(
    ("ahead", "window", "accepted"),
    [
        (800, 5000, True),
        (1100, 5000, False),
        (1100, 60_000, False),
        (-4500, 5000, True),
        (-5200, 5000, False),
        (-5200, 60_000, True),
    ],
)
@pytest.mark.usefixtures("trader")
def test_client_may_be_behind_by_its_window_and_ahead_by_less_than_a_second(
    quiet: ExchangeProcess, ahead: int, window: int, accepted: bool
) -> None:
    quiet.fault("clock", ms=-ahead)
    client = session(quiet, recv_window=window)
    if accepted:
        client.get_account_info()
        return
    with pytest.raises(InvalidRequestError) as refusal:
        client.get_account_info()
    assert refusal.value.status_code == 10002
    assert f"recv_window[{window}]" in refusal.value.message


def test_orders_beyond_the_rate_are_refused_by_category_and_headers_count_down(start: Start) -> None:
    exchange = start("--orders-per-second", "linear=3", "--orders-per-second", "spot=1", "--ip-requests", "0")
    trader = Trader(exchange, return_response_headers=True)
    order = {"symbol": "BTCPERP", "side": "Buy", "orderType": "Market", "qty": "0.001"}
    answered = [trader.http.place_order(category="linear", **order)[2] for _ in range(3)]
    assert [headers["X-Bapi-Limit"] for headers in answered] == ["3", "3", "3"]
    assert [headers["X-Bapi-Limit-Status"] for headers in answered] == ["2", "1", "0"]
    with pytest.raises(InvalidRequestError) as refusal:
        trader.http.place_order(category="linear", **order)
    assert refusal.value.status_code == 10006
    first, reset = (
        int(headers["X-Bapi-Limit-Reset-Timestamp"]) for headers in (answered[0], refusal.value.resp_headers)
    )
    assert 1000 <= reset - first <= 1005, "a second after the first of them"
    trader.http.place_order(**SPOT, side="Sell", orderType="Market", qty="0.001")

    def accepted() -> bool:
        try:
            trader.http.place_order(category="linear", **order)
        except InvalidRequestError:
            return False
        return True

    refused = 1
    while not accepted():
        refused += 1
        assert refused < 10_000, "the second is over"
    limits = exchange.get("/counters")["private"]["limits"]
    assert limits["create linear"] == {"limit": 3, "most_in_a_second": 3, "refused": refused}
    assert limits["create spot"]["most_in_a_second"] == 1


def test_too_many_requests_of_an_address_are_answered_403_until_forgiven(start: Start) -> None:
    exchange = start("--ip-requests", "5")
    client = session(exchange)
    for _ in range(5):
        client.get_server_time()
    for _ in range(2):
        with pytest.raises(FailedRequestError) as refusal:
            client.get_server_time()
        assert refusal.value.status_code == 403
    exchange.fault("clear")
    client.get_server_time()


# Orders: what becomes of them.


def test_order_is_accepted_first_and_filled_later(quiet: ExchangeProcess, trader: Trader) -> None:
    quiet.fault("late_fill", ms=250, count=1)
    order_id = trader.place(qty="0.05", orderLinkId="accepted-1")
    query = {"category": "linear", "symbol": "BTCPERP", "orderLinkId": "accepted-1"}
    [row] = trader.http.get_open_orders(**query)["result"]["list"]
    assert (row["orderId"], row["orderStatus"], row["cumExecQty"]) == (order_id, "New", "0")
    assert trader.http.get_order_history(**query)["result"]["list"] == []
    row = trader.row("linear", order_id)
    assert (row["orderStatus"], row["cumExecQty"], row["leavesQty"]) == ("Filled", "0.05", "0")
    [again] = trader.http.get_order_history(**query)["result"]["list"]
    assert again == row
    [fill] = trader.http.get_executions(**query)["result"]["list"]
    assert (fill["execPrice"], fill["execQty"], fill["execType"]) == ("64001", "0.05", "Trade")


def test_market_order_walks_the_levels_and_takes_them_off_the_public_book(
    quiet: ExchangeProcess, trader: Trader
) -> None:
    row = trader.trade(qty="0.25", side="Buy")
    assert row["orderStatus"] == "Filled"
    assert amounts(row, "cumExecQty", "cumExecValue") == [Decimal("0.25"), Decimal("16000.4")]
    fills = trader.http.get_executions(category="linear", orderId=row["orderId"])["result"]["list"]
    assert sorted((fill["execPrice"], fill["execQty"]) for fill in fills) == [
        ("64001", "0.1"),
        ("64002", "0.15"),
    ]
    asks = quiet.get("/book?channel=linear&symbol=BTCPERP")["a"]
    assert asks == [["64002.0", "0.050"], ["65000.0", "9.000"]]


def test_limit_order_stops_at_its_price_and_tells_how_it_ended(trader: Trader) -> None:
    part = trader.trade(**LIMIT, qty="0.15", price="64001.50")
    assert (part["orderStatus"], part["rejectReason"]) == ("Cancelled", "EC_CancelForNoFullFill")
    assert amounts(part, "cumExecQty", "leavesQty") == [Decimal("0.1"), Decimal(0)]
    none = trader.trade(**LIMIT, qty="0.15", price="64001.50")
    assert (none["orderStatus"], none["rejectReason"]) == ("Cancelled", "EC_NoImmediateQtyToFill")
    assert (none["cumExecQty"], none["avgPrice"], none["cumFeeDetail"]) == ("0", "", {})
    spot = trader.trade(**SPOT, **LIMIT, side="Sell", qty="0.15", price="63999")
    assert (spot["orderStatus"], spot["cumExecQty"]) == ("PartiallyFilledCanceled", "0.1")


def test_slippage_tolerance_bounds_a_market_order(trader: Trader) -> None:
    percent = {"slippageToleranceType": "Percent", "slippageTolerance": "0.01"}
    row = trader.trade(qty="0.5", **percent)
    assert (row["cumExecQty"], row["price"]) == ("0.3", "64007.4")
    row = trader.trade(qty="0.5", side="Sell", slippageToleranceType="TickSize", slippageTolerance="9")
    assert (row["cumExecQty"], row["price"]) == ("0.1", "63998.1")


def test_fill_or_kill_post_only_and_resting_orders(trader: Trader) -> None:
    limit = {"orderType": "Limit", "price": "64001.00", "qty": "0.2"}
    killed = trader.trade(**limit, timeInForce="FOK")
    assert (killed["orderStatus"], killed["cumExecQty"]) == ("Cancelled", "0")
    taken = trader.trade(**limit, timeInForce="PostOnly")
    assert taken["rejectReason"] == "EC_PostOnlyWillTakeLiquidity"
    resting = trader.place(**limit, orderLinkId="rest-1")
    query = {"category": "linear", "symbol": "BTCPERP"}
    until(
        lambda: (
            [row["cumExecQty"] for row in trader.http.get_open_orders(**query)["result"]["list"]] == ["0.1"]
        ),
        "the resting order partly filled",
    )
    trader.http.cancel_order(**query, orderLinkId="rest-1")
    row = trader.row("linear", resting)
    assert (row["orderStatus"], row["cancelType"], row["cumExecQty"]) == ("Cancelled", "CancelByUser", "0.1")
    for known in ("rest-1", "never-sent"):
        with pytest.raises(InvalidRequestError) as refusal:
            trader.http.cancel_order(**query, orderLinkId=known)
        assert refusal.value.status_code == 110001


def test_spot_market_buy_is_in_quote_coin_unless_told_otherwise(trader: Trader) -> None:
    usdt, btc = trader.balance("USDT"), trader.balance("BTC")
    row = trader.trade(**SPOT, qty="10")
    assert (row["orderStatus"], row["rejectReason"]) == ("PartiallyFilledCanceled", "EC_CancelForNoFullFill")
    bought, value = amounts(row, "cumExecQty", "cumExecValue")
    assert bought == Decimal("0.000156")
    assert value == bought * 64001
    assert Decimal(row["leavesValue"]) == 10 - value
    assert trader.balance("USDT") == usdt - value
    # The fee of a buy is taken in what was bought, to the last digit.
    assert trader.balance("BTC") == btc + bought * Decimal("0.999")
    assert row["cumFeeDetail"] == {"BTC": "0.000000156"}
    row = trader.trade(**SPOT, qty="0.001", marketUnit="baseCoin")
    assert (row["orderStatus"], row["qty"], row["cumExecQty"]) == ("Filled", "0.001000", "0.001")


def test_spot_sale_pays_its_fee_in_quote_coin(trader: Trader) -> None:
    usdt, btc = trader.balance("USDT"), trader.balance("BTC")
    row = trader.trade(**SPOT, **LIMIT, side="Sell", qty="0.1", price="63999")
    assert row["orderStatus"] == "Filled"
    assert row["cumFeeDetail"] == {"USDT": "6.3999"}
    assert trader.balance("USDT") == usdt + Decimal("6399.9") - Decimal("6.3999")
    assert trader.balance("BTC") == btc - Decimal("0.1")


def test_linear_round_trip_is_flat_and_costs_spread_and_fees(trader: Trader) -> None:
    usdc = trader.balance("USDC")
    trader.trade(qty="0.1")
    [row] = trader.http.get_positions(category="linear", symbol="BTCPERP")["result"]["list"]
    assert (row["side"], row["size"], row["avgPrice"]) == ("Buy", "0.1", "64001")
    row = trader.trade(qty="0.1", side="Sell", reduceOnly=True)
    assert Decimal(row["closedPnl"]) == Decimal("-0.2")
    fees = Decimal("0.00055") * Decimal("0.1") * (64001 + 63999)
    assert trader.balance("USDC") == usdc - Decimal("0.2") - fees
    assert trader.position() == 0


def test_position_turns_from_long_to_short(trader: Trader) -> None:
    trader.trade(qty="0.1")
    row = trader.trade(qty="0.3", side="Sell")
    assert row["cumExecQty"] == "0.3"
    [row] = trader.http.get_positions(category="linear", symbol="BTCPERP")["result"]["list"]
    assert (row["side"], row["size"], row["avgPrice"]) == ("Sell", "0.2", "63998")


def test_look_ups_page_and_the_cursor_ends_with_an_empty_page(trader: Trader) -> None:
    ids = {trader.trade(qty="0.02")["orderId"] for _ in range(5)}
    cursor, seen = "", []
    while True:
        page = trader.http.get_executions(category="linear", symbol="BTCPERP", limit=2, cursor=cursor or None)
        result = page["result"]
        if not result["list"]:
            break
        assert len(result["list"]) <= 2
        seen += [row["orderId"] for row in result["list"]]
        cursor = result["nextPageCursor"]
    assert ids == set(seen[:5])
    times = [int(row["execTime"]) for row in trader.http.get_executions(category="linear")["result"]["list"]]
    assert times == sorted(times, reverse=True)


# Refusals.


@pytest.mark.parametrize(
    ("order", "code", "text"),
    [
        ({"qty": "0.0015"}, 10001, "Qty invalid"),
        ({"qty": "-1"}, 10001, "Qty invalid"),
        ({"qty": "0.000"}, 10001, "Qty invalid"),
        ({"qty": "1", "side": "Hold"}, 10001, "Side invalid"),
        ({"qty": "1", "symbol": "NOPEPERP"}, 10001, "symbol invalid"),
        ({"qty": "1", "category": "option"}, 10001, "category invalid"),
        ({"qty": "1", "orderType": "Limit"}, 10001, "price invalid"),
        ({"qty": "1", "orderType": "Limit", "price": "64000.05"}, 10001, "price invalid"),
        ({"qty": "2000", **LIMIT, "price": "64000"}, 10001, "maximum limit"),
        ({"qty": "600"}, 10001, "maximum limit"),
        ({"qty": "1", "positionIdx": 1}, 10001, "position idx not match position mode"),
        ({"qty": "1", "slippageToleranceType": "TickSize", "slippageTolerance": "10001"}, 110108, ""),
        ({"qty": "1", "slippageToleranceType": "Percent", "slippageTolerance": "10.01"}, 110109, ""),
        ({"qty": "1", "slippageToleranceType": "Percent", "slippageTolerance": "0.005"}, 110109, ""),
        ({"qty": "1", "reduceOnly": True}, 110017, "current position is zero"),
        ({"qty": "1", "orderLinkId": "x" * 37}, 10001, "order link id is longer than"),
        ({"qty": "1", "orderLinkId": "a b"}, 10001, "OrderLinkID"),
        ({"qty": "100"}, 110007, "ab not enough for new order"),
        ({**SPOT, "qty": "0.0000015", "marketUnit": "baseCoin"}, 170137, "too many decimals"),
        ({**SPOT, "qty": "10.00000001"}, 170148, "decimal too long"),
        ({**SPOT, "qty": "0.00001", "marketUnit": "baseCoin"}, 170136, "lower than the minimum"),
        ({**SPOT, "qty": "0.00005", "marketUnit": "baseCoin"}, 170140, "exceeded lower limit"),
        ({**SPOT, "qty": "4.99"}, 170140, "exceeded lower limit"),
        ({**SPOT, "qty": "84", **LIMIT, "price": "64000"}, 170341, "exceeds maximum"),
        ({**SPOT, "qty": "1", **LIMIT, "price": "64000.05"}, 170134, "too many decimals"),
        ({**SPOT, "qty": "1", **LIMIT, "price": "64320.1"}, 170193, "cannot be higher than 64320.0"),
        ({**SPOT, "qty": "1", **LIMIT, "price": "63679.9", "side": "Sell"}, 170194, "lower than 63680.0"),
        ({"qty": "1", "category": "spot", "symbol": "BTCPERP"}, 170121, "Invalid symbol."),
        ({**SPOT, "qty": "200000"}, 170131, "Insufficient balance."),
        ({**SPOT, "qty": "20", "side": "Sell"}, 170131, "Insufficient balance."),
        ({**SPOT, "qty": "20", "side": "Sell", "isLeverage": 1}, 170036, "margin"),
    ],
)
def test_bad_order_is_refused_with_its_code_and_changes_nothing(
    quiet: ExchangeProcess, trader: Trader, order: Message, code: int, text: str
) -> None:
    before = quiet.get("/account")["wallets"]
    got, message = trader.refusal(**order)
    assert got == code
    assert text in message
    assert quiet.get("/account")["wallets"] == before
    assert quiet.get("/orders")[-1]["outcome"] == str(code)


def test_linear_minimum_value_is_of_the_order(trader: Trader) -> None:
    trader.exchange.fault("rules", channel="linear", symbol="BTCPERP", least_value="70")
    assert trader.refusal(qty="0.001") == (110094, "Order does not meet minimum order value 70USDC")
    trader.exchange.fault("rules", channel="linear", symbol="BTCPERP", least_qty="0.01", step="0.002")
    code, text = trader.refusal(qty="0.008")
    assert (code, text) == (10001, "The number of contracts exceeds minimum limit allowed")
    assert trader.refusal(qty="0.011")[1] == "Qty invalid"


def test_futures_limit_beyond_the_band_is_moved_to_its_edge(trader: Trader) -> None:
    row = trader.trade(**LIMIT, qty="0.35", price="70000.00")
    assert row["price"] == "64640"
    assert row["cumExecQty"] == "0.3"


def test_link_id_is_taken_for_good_in_its_category(trader: Trader) -> None:
    row = trader.trade(**LIMIT, qty="0.01", price="63000", orderLinkId="once-1")
    assert row["orderStatus"] == "Cancelled"
    assert trader.refusal(qty="0.01", orderLinkId="once-1") == (110072, "OrderLinkedID is duplicate")
    trader.trade(**SPOT, qty="10", orderLinkId="once-1")
    assert trader.refusal(**SPOT, qty="10", orderLinkId="once-1") == (170141, "Duplicate clientOrderId")
    assert trader.refusal(**SPOT, qty="1", orderLinkId="once-2")[0] == 170140
    trader.trade(**SPOT, qty="10", orderLinkId="once-2")


def test_reduce_only_never_opens(trader: Trader) -> None:
    trader.trade(qty="0.1")
    assert trader.refusal(qty="0.1", reduceOnly=True) == (110017, "Reduce-only rule not satisfied")
    row = trader.trade(qty="0.25", side="Sell", reduceOnly=True)
    assert (row["qty"], row["cumExecQty"], row["orderStatus"]) == ("0.1", "0.1", "Filled")
    assert trader.position() == 0


def test_reduce_only_is_cut_again_when_it_is_matched(quiet: ExchangeProcess, trader: Trader) -> None:
    trader.trade(qty="0.1")
    quiet.fault("late_fill", ms=200, count=1)
    late = trader.place(qty="0.1", side="Sell", reduceOnly=True)
    trader.trade(qty="0.07", side="Sell")
    assert trader.row("linear", late)["cumExecQty"] == "0.03"
    assert trader.position() == 0


def test_margin_is_needed_for_what_opens_and_not_for_what_closes(start: Start) -> None:
    trader = Trader(start("--balance", "USDC=1000", *UNLIMITED))
    trader.set_book("linear", BIDS, ASKS)
    trader.trade(qty="0.1")
    assert trader.refusal(qty="0.1")[0] == 110007
    trader.trade(qty="0.1", side="Sell")
    assert trader.position() == 0


def test_usdc_contract_borrows_what_the_wallet_has_not(start: Start) -> None:
    trader = Trader(start("--balance", "USDT=1000", *UNLIMITED))
    trader.set_book("linear", BIDS, ASKS)
    trader.trade(qty="0.01")
    [wallet] = trader.http.get_wallet_balance(accountType="UNIFIED", coin="USDC")["result"]["list"]
    [usdc] = wallet["coin"]
    # 64001 times 0.01 times 0.00055, to 8 decimals.
    assert (usdc["walletBalance"], usdc["borrowAmount"]) == ("-0.3520055", "0.3520055")


def test_spot_margin_borrows_what_is_missing_and_does_not_pay_back(start: Start) -> None:
    trader = Trader(start("--balance", "USDT=100000", "--balance", "BTC=0.04", "--spot-margin", *UNLIMITED))
    trader.set_book("spot", BIDS, ASKS)
    sale = {**SPOT, "side": "Sell", "qty": "0.1"}
    assert trader.refusal(**sale)[0] == 170131
    trader.exchange.fault("isolated")
    assert trader.refusal(**sale, isLeverage=1)[0] == 182021
    trader.exchange.fault("isolated", on=False)
    trader.exchange.fault("no_loan")
    assert trader.refusal(**sale, isLeverage=1)[0] == 170207
    trader.exchange.fault("clear")
    trader.trade(**sale, isLeverage=1)
    wallet = trader.exchange.get("/account")["wallets"]["BTC"]
    assert (wallet["balance"], wallet["spot_borrow"]) == ("0", "0.06")
    trader.trade(**SPOT, qty="0.06", marketUnit="baseCoin", side="Buy")
    wallet = trader.exchange.get("/account")["wallets"]["BTC"]
    assert (wallet["balance"], wallet["spot_borrow"]) == ("0.05994", "0.06")


def test_open_orders_set_their_coins_aside(start: Start) -> None:
    trader = Trader(start("--balance", "USDT=1000", *UNLIMITED))
    trader.set_book("spot", BIDS, ASKS)
    trader.place(**SPOT, orderType="Limit", qty="0.01", price="63990")
    [wallet] = trader.http.get_wallet_balance(accountType="UNIFIED", coin="USDT")["result"]["list"]
    assert wallet["coin"][0]["locked"] == "639.9"
    assert trader.refusal(**SPOT, qty="400")[0] == 170131
    trader.trade(**SPOT, qty="300")


def test_body_that_is_not_an_object_is_refused(quiet: ExchangeProcess) -> None:
    client = session(quiet)
    original = client.prepare_payload
    client.prepare_payload = lambda method, parameters: (
        json.dumps([1]) if method == "POST" else original(method, parameters)
    )
    with pytest.raises(InvalidRequestError) as refusal:
        client.place_order(category="linear")
    assert refusal.value.status_code == 10001
