"""What is taken from the wire and what is refused, and with which words."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbird.market import decimals, levels
from blackbird.market.book_message import MAX_BOOK_BYTES, decode_book
from blackbird.market.fields import InvalidMessage, is_db_safe
from blackbird.market.instrument import Instrument
from blackbird.market.levels import best_level, canonical_prices, decimal_levels, text_levels
from blackbird.market.subscriptions import (
    decode_resync,
    decode_subscriptions,
    encode_resync,
    encode_subscriptions,
)
from blackbird.trading.orders import (
    MAX_ORDER_BYTES,
    QUESTION,
    LeftoverRequest,
    OpenSpread,
    Order,
    Reply,
    decode_reply,
    decode_request,
    encode_leftover_request,
    encode_order,
    encode_reply,
)
from tests.support.market import levels_json

D = Decimal

BOOK: dict[str, Any] = {
    "topic": "orderbook.50.BTCUSDT",
    "type": "delta",
    "ts": 1723161255608,
    "data": {
        "s": "BTCUSDT",
        "b": [["61837.24", "0"]],
        "a": [["61837.64", "1.2"]],
        "u": 5002,
        "seq": 50093239220,
    },
    "cts": 1723161255600,
    "channel": "spot",
    "matching_key": "a",
}
ORDER: dict[str, Any] = {
    "order_id": "9b0f",
    "action": "Open Spread",
    "spread_id": "4c1e",
    "expires_at": 1723161258300,
    "buy": ["linear", "BTCPERP"],
    "buy_price": 61800.3,
    "sell": ["spot", "BTCUSDT"],
    "sell_price": 61837.63,
    "size": 0.25,
    "ts_buy": 1723161256298,
    "ts_sell": 1723161256208,
}
OPTIONAL = ("order_id", "spread_id", "expires_at")


def body(template: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps({**template, **changes}).encode()


def without(template: dict[str, Any], *names: str) -> bytes:
    return json.dumps({name: value for name, value in template.items() if name not in names}).encode()


def order_with(field: str, number: str) -> bytes:
    """Return an order with the JSON text `number` as the value of a field."""
    return body(ORDER, **{field: "@"}).replace(b'"@"', number.encode())


def refusal(request: bytes) -> str:
    with pytest.raises(InvalidMessage) as error:
        decode_request(request)
    return str(error.value)


# --- order-book messages -------------------------------------------------------------------------


def test_book_message_is_read_as_it_was_sent() -> None:
    message = decode_book(body(BOOK))
    assert message.instrument == Instrument("spot", "BTCUSDT")
    assert (message.topic, message.type, message.ts, message.cts) == (
        "orderbook.50.BTCUSDT",
        "delta",
        1723161255608,
        1723161255600,
    )
    assert (message.data.u, message.data.seq, message.matching_key) == (5002, 50093239220, "a")
    assert decimal_levels(message.data.b) == [(D("61837.24"), D(0))]
    assert decimal_levels(message.data.a) == [(D("61837.64"), D("1.2"))]


def test_fields_that_bybit_may_add_are_no_error() -> None:
    assert decode_book(body(BOOK, creationTime=5, data={**BOOK["data"], "new": [1]})).data.u == 5002


@pytest.mark.parametrize("field", list(BOOK))
def test_book_message_without_a_field_is_refused_by_its_name(field: str) -> None:
    with pytest.raises(InvalidMessage, match=f"`{field}`"):
        decode_book(without(BOOK, field))


@pytest.mark.parametrize("field", ["s", "b", "a", "u", "seq"])
def test_book_data_without_a_field_is_refused_by_its_name(field: str) -> None:
    data = {name: value for name, value in BOOK["data"].items() if name != field}
    with pytest.raises(InvalidMessage, match=f"`{field}`"):
        decode_book(body(BOOK, data=data))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("topic", 5),
        ("topic", ""),
        ("topic", "x" * 257),
        ("type", "SNAPSHOT"),
        ("type", "trade"),
        ("ts", "1723161255608"),
        ("ts", -1),
        ("ts", 1.5),
        ("cts", True),
        ("cts", None),
        ("cts", 2**63),
        ("channel", "futures"),
        ("channel", ["spot"]),
        ("matching_key", ""),
        ("matching_key", "x" * 257),
        ("matching_key", None),
        ("data", []),
    ],
)
def test_book_message_with_a_wrong_field_is_refused_by_its_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidMessage, match=rf"\$\.{field}"):
        decode_book(body(BOOK, **{field: value}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("s", ""),
        ("s", 5),
        ("u", -1),
        ("u", "5"),
        ("u", 2**63),
        ("seq", 1.5),
    ],
)
def test_book_data_with_a_wrong_field_is_refused_by_its_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidMessage, match=rf"\$\.data\.{field}"):
        decode_book(body(BOOK, data={**BOOK["data"], field: value}))


GARBAGE = [
    b"",
    b"{",
    b"no json",
    b"null",
    b"[]",
    b'"text"',
    b"\xff\xfe\x00",
    b"\x00" * 50,
    b"[" * 60_000,
    b'{"a":' * 10_000,
    b"NaN",
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda garbage: repr(garbage[:12]))
def test_garbage_is_refused_on_every_queue(garbage: bytes) -> None:
    for decode in (decode_book, decode_request, decode_reply, decode_subscriptions, decode_resync):
        with pytest.raises(InvalidMessage):
            decode(garbage)


def test_bodies_that_are_too_large_are_refused_unread() -> None:
    assert decode_book(body(BOOK).ljust(MAX_BOOK_BYTES)) == decode_book(body(BOOK))
    with pytest.raises(InvalidMessage, match="1000000 bytes, was 1000001"):
        decode_book(body(BOOK).ljust(MAX_BOOK_BYTES + 1))
    assert decode_request(body(ORDER).ljust(MAX_ORDER_BYTES))
    assert refusal(body(ORDER).ljust(MAX_ORDER_BYTES + 1)) == "body: expected at most 65536 bytes, was 65537"
    assert refusal(b"x" * 10_000_000).startswith("body: expected at most")


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "a\udfffb"])
def test_text_that_no_database_holds_is_refused(text: str) -> None:
    assert not is_db_safe(text)
    for changes in ({"topic": text}, {"matching_key": text}, {"data": {**BOOK["data"], "s": text}}):
        with pytest.raises(InvalidMessage):
            decode_book(body(BOOK, **changes))
    for field in ("order_id", "spread_id"):
        assert refusal(body(ORDER, **{field: text})).startswith(f"{field}: ")
    for field in ("buy", "sell"):
        assert refusal(body(ORDER, **{field: ["spot", text]})).startswith(f"{field}: ")


@pytest.mark.parametrize("text", ["tab\t", "line\n", "back\\slash", '"', "\u2028", "é", "日本", "😀", "\x7f"])
def test_odd_text_is_taken_as_it_is(text: str) -> None:
    assert is_db_safe(text)
    for ascii_only in (True, False):
        message = json.dumps({**BOOK, "matching_key": text}, ensure_ascii=ascii_only).encode()
        assert decode_book(message).matching_key == text
    order = decode_request(body(ORDER, order_id=text))
    assert isinstance(order, Order)
    assert order.order_id == text


# --- levels --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "levels", [{}, [["1"]], [["1", "2", "3"]], [[1, 2]], [[None, "1"]], "61837", None, 5]
)
def test_levels_that_are_no_pairs_of_texts_are_refused(levels: Any) -> None:
    side = decode_book(body(BOOK, data={**BOOK["data"], "b": levels})).data.b
    for read in (decimal_levels, text_levels):
        with pytest.raises(InvalidMessage, match="levels: Expected `"):
            read(side)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("61837.24", "61837.24"),
        ("0001.50", "1.5"),
        ("1e-7", "0.0000001"),
        ("2E+3", "2000"),
        ("99999999999999999999.99999999999999999999", "99999999999999999999.99999999999999999999"),
        ("0.00000000000000000001", "1E-20"),
    ],
)
def test_prices_and_sizes_are_exact(text: str, number: str) -> None:
    assert decimal_levels(levels_json([(text, text)])) == [(D(number), D(number))]


@pytest.mark.parametrize("text", ["0", "0.0", "0.00000000", "0e5", "0E-9"])
def test_zero_is_a_size_and_no_price(text: str) -> None:
    assert decimal_levels(levels_json([("1", text)])) == [(D(1), D(0))]
    with pytest.raises(InvalidMessage, match="expected a price above zero"):
        decimal_levels(levels_json([(text, "1")]))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1",
        "+1",
        "NaN",
        "sNaN",
        "inf",
        "Infinity",
        "1,5",
        ".5",
        "5.",
        "1e",
        "1_0",
        " 1",
        "1 ",
        "1\n",
        "0x1",
    ],
)
def test_text_other_than_a_decimal_is_neither_price_nor_size(text: str) -> None:
    for level in ((text, "1"), ("1", text)):
        with pytest.raises(InvalidMessage, match="expected a decimal number, was"):
            decimal_levels(levels_json([level]))


@pytest.mark.parametrize(
    "text", ["1e20", "100000000000000000000", "1e99", "1e-21", "0.000000000000000000001"]
)
def test_number_out_of_bounds_is_neither_price_nor_size(text: str) -> None:
    for level in ((text, "1"), ("1", text)):
        with pytest.raises(InvalidMessage, match=r"expected 1E-20 to 1E\+20, was"):
            decimal_levels(levels_json([level]))


@pytest.fixture
def all_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sides of few levels are looked at like those of many."""
    monkeypatch.setattr(levels, "FAST_PATH_MIN_BYTES", 0)


PLAIN = [
    b'[["61837.24","0"]]',
    b'[["2","1"],["1","0.00000000000000000001"]]',
    b'[["1","1"],["2","99999999999999999999.99999999999999999999"]]',
    b'[["1","1"],["1","1"],["0.5","0.50"]]',
]


@pytest.mark.usefixtures("all_sides")
@pytest.mark.parametrize("side", PLAIN)
def test_plain_levels_are_recognized(side: bytes) -> None:
    assert canonical_prices(side) == [float(price) for price, _ in decimal_levels(side)]


NOT_PLAIN = [
    b"",
    b"[]",
    b"[[]]",
    b"[1,2]",
    b"[[1,2]]",
    b'["1","2"]',
    b'[["1","2"]',
    b'[["1"]]',
    b'[["1","2","3"]]',
    b'[["1","2"],["3"]]',
    b'[["1","2"],["3","4","5"]]',
    b'[["1","2"],["3","4"],["5"]]',
    b'[["1"],["2","3","4"]]',
    b'[["1,2","3"]]',
    b'["[1","2]"]',
    b'[["1","2],[3","4"]]',
    b'[["","1"]]',
    b'[["1",""]]',
    b'[["1","."]]',
    b'[["1.","1"]]',
    b'[[".5","1"]]',
    b'[["1.2.3","1"]]',
    b'[["01","1"]]',
    b'[["1e5","1"]]',
    b'[["-1","1"]]',
    b'[["1","-0"]]',
    b'[["0","1"]]',
    b'[["1","1"],["0.000","1"]]',
    b'[["1" ,"1"]]',
    b'[["1 ","1"]]',
    b'[["1","1"]]\n',
    b'[["1","\\u0031"]]',
    b'[["1","' + b"1" * 21 + b'"]]',
    b'[["1","0.' + b"0" * 20 + b'1"]]',
    b'[["NaN","1"]]',
    '[["\u0661","1"]]'.encode(),
]


@pytest.mark.usefixtures("all_sides")
@pytest.mark.parametrize("side", NOT_PLAIN)
def test_levels_that_are_not_plain_are_left_to_be_read(side: bytes) -> None:
    assert canonical_prices(side) is None


@pytest.mark.usefixtures("all_sides")
def test_only_the_first_level_of_a_plain_side_can_be_its_best() -> None:
    bids = b'[["2.50","0.10"],["2","3"],["2","4"]]'
    assert best_level(bids, highest=True) == (D("2.5"), D("0.1"))
    assert best_level(b'[["2","3"],["2.5","0.1"]]', highest=False) == (D(2), D(3))
    assert (
        best_level(b'[["7","3"]]', highest=False) == best_level(b'[["7","3"]]', highest=True) == (D(7), D(3))
    )
    for unsure in (b'[["2","1"],["3","1"]]', b'[["2","1"],["2.0","3"]]', b'[["2","0.0"],["1","3"]]', b"[]"):
        assert best_level(unsure, highest=True) is None
    nearly = b'[["1.00000000000000000001","1"],["1.00000000000000000002","1"]]'
    assert best_level(nearly, highest=True) is best_level(nearly, highest=False) is None


PIECES = ["[", "]", '"', ",", '","', '"],["', '[["', '"]]', "1", "0", "20.5", "7", ".", "-", "e", " ", "\\"]


@pytest.mark.usefixtures("all_sides")
@given(
    st.lists(st.sampled_from(PIECES), max_size=8), st.sampled_from([b'[["5","1"],["3","2"]]', b'[["1","2"]]'])
)
def test_what_is_plain_can_be_read(pieces: list[str], side: bytes) -> None:
    """Text put into a message's side anywhere: whatever is taken for plain reads as the same prices."""
    text = "".join(pieces).encode()
    for at in range(len(side) + 1):
        changed = body(BOOK, data={**BOOK["data"], "b": "@"}).replace(b'"@"', side[:at] + text + side[at:])
        try:
            bids = decode_book(changed).data.b
        except InvalidMessage:
            continue
        prices = canonical_prices(bytes(bids))
        if prices is not None:
            assert prices == [float(price) for price, _ in decimal_levels(bids)]


@pytest.mark.parametrize(
    "side",
    [
        b'[["1"5,"2"]]',
        b'[["1",5"2"]]',
        b'[[5"1","2"]]',
        b'[["1","2"5]]',
        b'[5["1","2"]]',
        b'[["1","2"]5]',
        b'5[["1","2"]]',
        b'[["1","2"]]5',
        b'[["1","2"],5["1","2"]]',
    ],
)
def test_levels_that_are_no_json_are_refused_with_the_message(side: bytes) -> None:
    with pytest.raises(InvalidMessage, match="malformed"):
        decode_book(body(BOOK, data={**BOOK["data"], "b": "@"}).replace(b'"@"', side))


def test_endless_number_is_refused_in_few_words() -> None:
    with pytest.raises(InvalidMessage) as error:
        decimal_levels(levels_json([("1" * 900_000, "1")]))
    assert len(str(error.value)) < 100


def test_numbers_stay_right_when_more_were_seen_than_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decimals, "DECIMAL_CACHE_SIZE", 10)
    decimals.PRICES.clear()
    decimals.SIZES.clear()
    for number in [*range(1, 50), *range(1, 50)]:
        assert decimal_levels(levels_json([(f"{number}.5", f"{number}")])) == [
            (D(number) + D("0.5"), D(number))
        ]
        assert len(decimals.PRICES) <= 10
        assert len(decimals.SIZES) <= 10


# --- subscription map and resync request ---------------------------------------------------------


def test_map_comes_back_in_its_order() -> None:
    instruments = [Instrument("linear", "B"), Instrument("linear", "A"), Instrument("spot", "A")]
    encoded = encode_subscriptions(instruments)
    assert json.loads(encoded) == {"linear": ["B", "A"], "spot": ["A"]}
    assert decode_subscriptions(encoded) == instruments
    assert decode_subscriptions(b"{}") == []
    assert decode_subscriptions(b'{"spot": []}') == []


@pytest.mark.parametrize(
    "garbage", [b'{"futures": []}', b'{"spot": "A"}', b'{"spot": [5]}', b'{"spot": [""]}', b'{"spot": null}']
)
def test_map_that_is_none_is_refused(garbage: bytes) -> None:
    with pytest.raises(InvalidMessage):
        decode_subscriptions(garbage)


def test_resync_request_names_an_instrument() -> None:
    encoded = encode_resync(Instrument("spot", "BTCUSDT"))
    assert json.loads(encoded) == {"channel": "spot", "symbol": "BTCUSDT"}
    assert decode_resync(encoded) == Instrument("spot", "BTCUSDT")
    for garbage in (
        b'{"channel": "spot"}',
        b'{"channel": "x", "symbol": "A"}',
        b'{"channel": "spot", "symbol": ""}',
    ):
        with pytest.raises(InvalidMessage):
            decode_resync(garbage)


# --- orders --------------------------------------------------------------------------------------


def test_order_is_read_as_it_was_sent() -> None:
    assert decode_request(body(ORDER)) == Order(
        action="Open Spread",
        buy=Instrument("linear", "BTCPERP"),
        buy_price=D("61800.3"),
        sell=Instrument("spot", "BTCUSDT"),
        sell_price=D("61837.63"),
        size=D("0.25"),
        ts_buy=1723161256298,
        ts_sell=1723161256208,
        order_id="9b0f",
        spread_id="4c1e",
        expires_at=1723161258300,
    )


def test_third_party_order_may_lack_ids_and_expiry() -> None:
    for request in (without(ORDER, *OPTIONAL), body(ORDER, **dict.fromkeys(OPTIONAL))):
        order = decode_request(request)
        assert isinstance(order, Order)
        assert (order.order_id, order.spread_id, order.expires_at) == (None, None, None)


def test_close_spread_is_the_other_action() -> None:
    order = decode_request(body(ORDER, action="Close Spread", more={"whatever": 1}))
    assert isinstance(order, Order)
    assert order.action == "Close Spread"


@pytest.mark.parametrize("field", [name for name in ORDER if name not in OPTIONAL and name != "action"])
def test_order_without_a_field_is_refused_by_its_name(field: str) -> None:
    assert refusal(without(ORDER, field)) == f"{field}: expected a value, was missing"


@pytest.mark.parametrize("action", [None, "open spread", "", 5, ["Open Spread"], {}, "List open spreads"])
def test_other_action_is_refused(action: Any) -> None:
    assert refusal(body(ORDER, action=action)) == (
        f"action: expected 'Open Spread' or 'Close Spread', was {action!r}"
    )
    assert refusal(without(ORDER, "action")).startswith("action: expected")


@pytest.mark.parametrize("field", ["buy", "sell"])
@pytest.mark.parametrize(
    "leg", [None, "BTCUSDT", [], ["spot"], ["spot", "A", "B"], ["spot", 5], [None, "A"], {"spot": "A"}, 5]
)
def test_leg_that_is_none_is_refused(field: str, leg: Any) -> None:
    assert refusal(body(ORDER, **{field: leg})) == f"{field}: expected [channel, symbol], was {leg!r}"


@pytest.mark.parametrize("field", ["buy", "sell"])
def test_leg_of_an_unknown_channel_or_without_a_symbol_is_refused(field: str) -> None:
    assert refusal(body(ORDER, **{field: ["futures", "A"]})) == (
        f"{field}: expected a channel of spot, linear, inverse, option, was 'futures'"
    )
    assert refusal(body(ORDER, **{field: ["spot", ""]})) == f"{field}: expected 1 to 256 characters, was 0"
    assert refusal(body(ORDER, **{field: ["spot", "x" * 257]})).endswith("was 257")


def test_legs_must_differ() -> None:
    assert (
        refusal(body(ORDER, sell=["linear", "BTCPERP"]))
        == "sell: expected another leg than buy, was the same"
    )
    assert decode_request(body(ORDER, sell=["spot", "BTCPERP"])) is not None


AMOUNTS = ("buy_price", "sell_price", "size")


@pytest.mark.parametrize("field", AMOUNTS)
@pytest.mark.parametrize(
    ("number", "expected"),
    [
        ("0.1000000000000000000001", "0.1000000000000000000001"),
        ("1", "1"),
        ("1E+2", "100"),
        ("61800.30", "61800.3"),
        ("0.1", "0.1"),
        ("1e-20", "0.00000000000000000001"),
        ("99999999999999999999", "99999999999999999999"),
    ],
)
def test_number_is_taken_exactly(field: str, number: str, expected: str) -> None:
    order = decode_request(order_with(field, number))
    assert getattr(order, field) == D(expected)


@pytest.mark.parametrize("field", AMOUNTS)
@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "-Infinity", "0", "0.0", "-1", "-0.5", "-0.0", "-1e-300"]
)
def test_number_that_is_not_finite_and_above_zero_is_refused(field: str, number: str) -> None:
    text = refusal(order_with(field, number))
    assert text == f"{field}: expected a finite number above zero, was {D(number)}"


@pytest.mark.parametrize("field", AMOUNTS)
@pytest.mark.parametrize("number", ['"0.25"', '"NaN"', "true", "false", "null", "[1]", "{}", '""'])
def test_what_is_no_number_is_refused(field: str, number: str) -> None:
    assert refusal(order_with(field, number)) == (f"{field}: expected a number, was {json.loads(number)!r}")


@pytest.mark.parametrize("field", AMOUNTS)
@pytest.mark.parametrize("number", ["1e20", "1e400", "9.9e-21", "1e-400", "1." + "1" * 40, "1" * 41])
def test_number_beyond_exact_sums_is_refused(field: str, number: str) -> None:
    text = refusal(order_with(field, number))
    assert text.startswith(f"{field}: expected 1E-20 to 1E+20 in at most 40 digits, was ")
    assert len(text) < 200


@pytest.mark.parametrize("number", ["1e99999999999999999999", "1" * 5000])
def test_number_that_python_does_not_read_is_refused(number: str) -> None:
    assert refusal(order_with("size", number)).startswith("body: expected JSON, was not: ")


@pytest.mark.parametrize("field", ["ts_buy", "ts_sell", "expires_at"])
@pytest.mark.parametrize("value", ["1723161256298", 1723161256298.0, 1.5, -1, True, [], 2**63])
def test_time_that_is_no_whole_number_is_refused(field: str, value: Any) -> None:
    assert refusal(body(ORDER, **{field: value})).startswith(
        f"{field}: expected milliseconds as a whole number, was "
    )


@pytest.mark.parametrize("field", ["ts_buy", "ts_sell"])
def test_time_must_be_there(field: str) -> None:
    assert refusal(body(ORDER, **{field: None})).endswith("was None")
    for value in (0, 2**63 - 1):
        assert getattr(decode_request(body(ORDER, **{field: value})), field) == value


@pytest.mark.parametrize("field", ["order_id", "spread_id"])
@pytest.mark.parametrize("value", [5, True, ["a"], {}, 1.5])
def test_id_that_is_no_text_is_refused(field: str, value: Any) -> None:
    assert refusal(body(ORDER, **{field: value})).startswith(f"{field}: expected text, was ")


@pytest.mark.parametrize("field", ["order_id", "spread_id"])
def test_id_is_1_to_256_characters(field: str) -> None:
    assert getattr(decode_request(body(ORDER, **{field: "x" * 256})), field) == "x" * 256
    assert refusal(body(ORDER, **{field: ""})) == f"{field}: expected 1 to 256 characters, was 0"
    assert refusal(body(ORDER, **{field: "x" * 257})) == f"{field}: expected 1 to 256 characters, was 257"


@pytest.mark.parametrize(
    ("request_body", "kind"), [(b"[]", "list"), (b"5", "int"), (b'"x"', "str"), (b"null", "NoneType")]
)
def test_body_that_is_no_object_is_refused(request_body: bytes, kind: str) -> None:
    assert refusal(request_body) == f"body: expected an object, was {kind}"


def test_refusal_of_an_endless_value_is_short_and_can_be_replied() -> None:
    for field, value in (("buy", ["x" * 50_000]), ("action", "\ud800" * 9000), ("size", "9" * 60_000)):
        text = refusal(body(ORDER, **{field: value}))
        assert len(text) < 200
        assert decode_reply(encode_reply(Reply("NOT ACK", text))).info == text


def test_question_for_the_open_spreads_is_no_order() -> None:
    assert json.loads(QUESTION) == {"action": "List Open Spreads"}
    assert decode_request(QUESTION) is None
    assert decode_request(b'{"action": "List Open Spreads", "size": "whatever"}') is None


# --- what we send --------------------------------------------------------------------------------


def test_order_is_written_with_exact_json_numbers() -> None:
    order = decode_request(order_with("size", "0.1000000000000000000001"))
    assert isinstance(order, Order)
    encoded = encode_order(order)
    assert b'"size":0.1000000000000000000001' in encoded
    assert json.loads(encoded) == {**ORDER, "size": 0.1}
    assert decode_request(encoded) == order


def test_order_without_ids_is_written_without_them() -> None:
    order = decode_request(without(ORDER, *OPTIONAL))
    assert isinstance(order, Order)
    assert json.loads(encode_order(order)) == {
        name: value for name, value in ORDER.items() if name not in OPTIONAL
    }


@pytest.mark.parametrize("number", [D("1E+2"), D("1E-20"), D("0.10"), D("99999999999999999999")])
def test_numbers_in_any_spelling_are_json_and_come_back(number: Decimal) -> None:
    reply = Reply(
        "ACK",
        "open spreads",
        [OpenSpread("s", Instrument("spot", "A"), Instrument("linear", "B"), number, number)],
    )
    encoded = encode_reply(reply)
    assert json.loads(encoded, parse_float=D, parse_int=D)["open_spreads"][0]["quantity"] == number
    assert decode_reply(encoded) == reply


def test_reply_has_the_shape_of_the_contract() -> None:
    assert json.loads(encode_reply(Reply("ACK", "order placed"))) == {"status": "ACK", "info": "order placed"}
    spread = OpenSpread(
        "4c1e",
        Instrument("linear", "BTCPERP"),
        Instrument("spot", "BTCUSDT"),
        D("37.33"),
        D("0.25"),
        D("61800.3"),
        D("61837.63"),
    )
    assert json.loads(encode_reply(Reply("ACK", "open spreads", [spread]))) == {
        "status": "ACK",
        "info": "open spreads",
        "open_spreads": [
            {
                "spread_id": "4c1e",
                "long": ["linear", "BTCPERP"],
                "short": ["spot", "BTCUSDT"],
                "spread": 37.33,
                "quantity": 0.25,
                "long_price": 61800.3,
                "short_price": 61837.63,
            }
        ],
    }
    assert json.loads(encode_reply(Reply("ACK", "open spreads", [])))["open_spreads"] == []


def test_reply_is_acked_or_not() -> None:
    assert decode_reply(b'{"status": "ACK", "info": "order placed"}').acked
    assert not decode_reply(b'{"status": "NOT ACK", "info": "order not placed"}').acked
    for garbage in (b'{"status": "ack", "info": "x"}', b'{"status": "ACK"}', b'{"info": "x"}'):
        with pytest.raises(InvalidMessage):
            decode_reply(garbage)


# --- leftovers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("price", [None, Decimal("0.1000000000000000000001")])
def test_request_about_a_leftover_comes_back_from_its_json_exactly(price: Decimal | None) -> None:
    sent = LeftoverRequest("trade", 3, price)
    assert decode_request(encode_leftover_request(sent)) == sent


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"number": 1}, "trade_id: "),
        ({"trade_id": "t"}, "number: "),
        ({"trade_id": "t", "number": 0}, "number: "),
        ({"trade_id": "t", "number": True}, "number: "),
        ({"trade_id": "t", "number": 1.5}, "number: "),
        ({"trade_id": "t", "number": 1, "price": 0}, "price: "),
        ({"trade_id": "t", "number": 1, "price": "1"}, "price: "),
        ({"trade_id": "", "number": 1}, "trade_id: "),
    ],
)
def test_request_about_a_leftover_is_refused_by_the_name_of_its_field(
    fields: dict[str, Any], why: str
) -> None:
    with pytest.raises(InvalidMessage, match=f"^{why}"):
        decode_request(json.dumps({"action": "Resolve Leftover", **fields}).encode())
