"""The page out of statuses, without a browser: the figures, the reasons, and the ages of each card."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from blackbird.monitor import cards
from blackbird.monitor.board import Board
from blackbird.monitor.database import Facts
from blackbird.monitor.history import History
from blackbird.monitor.page import Page, find_pair
from blackbird.monitor.queues import QueueDepth, QueueWatch
from blackbird.monitor.reasons import sentence
from blackbird.monitor.sources import Pnl, Rules, Sources, base_coin
from blackbird.status.messages import Status, WhyNot
from tests.support import statuses

D = Decimal
FREE = Rules("seed", {}, D(0), 10_000)
FEES = Rules("signed", {"spot": D("0.0001"), "linear": D("0.0002")}, D(0), 10_000)


async def no_session() -> Any:
    raise AssertionError("nothing is connected here")


def sources(*given: Status, rules: Rules = FREE, groups: int = 1) -> Sources:
    board = Board()
    for status in given or statuses.all_statuses(groups).values():
        board.receive(msgspec.json.encode(status))
    queues = QueueWatch(no_session)
    queues.seen_ms = statuses.now_ms()
    queues.depths = {"storage": QueueDepth(3, 1), "storage.dead": QueueDepth(2, 0)}
    facts = Facts(statuses.now_ms(), False, [], {"order": 8192}, 71 * 10**9, 252 * 10**9, 6.4e9)
    return Sources(board, History(), queues, rules, facts)


def snapshot(made: Sources, key: str = "", now: int | None = None) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(Page().snapshot(made, key, now or statuses.now_ms()))
    return decoded


def figures(html: str) -> dict[str, str]:
    return dict(re.findall(r'data-figure="([^"]+)"[^>]*>([^<]*)<', html))


def test_the_pnl_is_split_and_adds_up() -> None:
    pnl = sources().pnl()
    assert pnl is not None
    # 577.88 of cash, of it 40.5 credit of what is open; closing 1.5 costs 26.30 each now.
    assert pnl == Pnl(D("537.38"), D("40.5") - D("26.30") * D("1.5"), D(0), D("538.43"), D(5_709_000), False)
    html = snapshot(sources())["html"]["pnl-now"]
    shown = {
        "total": "+538.43",
        "closed": "+537.38",
        "marked": "+1.05",
        "fees": "0.00",
        "turnover": "5,709,000",
    }
    assert figures(html) == shown


def test_fees_are_those_of_the_settings_on_all_that_was_traded() -> None:
    pnl = sources(rules=FEES).pnl()
    assert pnl is not None
    assert pnl.fees == D("285.5") + D("570.8")
    assert pnl.total == D("538.43") - pnl.fees


def test_fees_of_real_orders_are_those_that_were_charged() -> None:
    given = statuses.all_statuses()
    engine = given["engine"].engine
    assert engine is not None
    charged = msgspec.structs.replace(engine, fees=D("12.345"))
    given["engine"] = statuses.status("engine", charged, mode="demo")
    made = sources(*given.values(), rules=FEES)
    pnl = made.pnl()
    assert pnl is not None
    assert (pnl.fees, pnl.fees_charged) == (D("12.345"), True)
    assert pnl.total == D("538.43") - D("12.345")
    shown = snapshot(made)["html"]["pnl-now"]
    assert ">fees charged<" in shown
    assert figures(shown)["fees"] == "\u221212.35"
    assert ">fees by rates<" in snapshot(sources(rules=FEES))["html"]["pnl-now"]


def test_without_a_price_to_close_at_there_is_neither_mark_nor_total() -> None:
    given = statuses.all_statuses()
    signal = given["signal"].signal
    assert signal is not None
    bare = [msgspec.structs.replace(book, bid=None, ask=None) for book in signal.books]
    given["signal"] = statuses.status("signal", msgspec.structs.replace(signal, books=bare, pairs=[]))
    pnl = sources(*given.values()).pnl()
    assert pnl is not None
    assert (pnl.marked, pnl.total) == (None, None)


def test_a_group_is_hedged_when_its_positions_add_up_to_nothing() -> None:
    given = statuses.all_statuses()
    html = snapshot(sources(*given.values()))["html"]["hedged"]
    assert figures(html)["net"] == "0"
    assert ">hedged<" in html
    assert "98.4 % of 1,000,000" in html
    engine = given["engine"].engine
    assert engine is not None
    legs = [msgspec.structs.replace(engine.legs[0], position=D("-1.25")), engine.legs[1]]
    given["engine"] = statuses.status("engine", msgspec.structs.replace(engine, legs=legs))
    html = snapshot(sources(*given.values()))["html"]["hedged"]
    assert figures(html)["net"] == "+0.25"
    assert ">not hedged<" in html


def test_both_directions_are_shown_with_price_and_basis_points() -> None:
    html = snapshot(sources())["html"]["spread-now"]
    assert figures(html) == {"spread a": "+26.19", "spread b": "−26.30"}
    assert "+4.25" in html
    assert "sell spot, buy linear" in html


@pytest.mark.parametrize("why", list(WhyNot))
def test_every_reason_has_a_sentence(why: WhyNot) -> None:
    made = sources()
    pair = msgspec.structs.replace(made.board.pairs[0], why=why, leg=statuses.legs(0)[0])
    assert sentence(pair, made.board, FREE, statuses.now_ms())
    assert sentence(msgspec.structs.replace(pair, leg=None), made.board, FREE, statuses.now_ms())


def test_the_risk_limit_is_named_with_its_figures() -> None:
    html = snapshot(sources())["rows"]["why"][0][2]
    assert "the next open of 0.981 would pass 1,000,000; +26.19 is over the entry" in html


def test_a_name_from_outside_is_no_markup() -> None:
    given = statuses.all_statuses()
    signal = given["signal"].signal
    assert signal is not None
    pair = msgspec.structs.replace(signal.pairs[0], group="<b>&")
    given["signal"] = statuses.status("signal", msgspec.structs.replace(signal, pairs=[pair]))
    state = snapshot(sources(*given.values()))
    assert state["html"]["hedged-note"] == "group &lt;b&gt;&amp;"
    assert "<td>&lt;b&gt;&amp;</td>" in state["rows"]["why"][0][1]


@pytest.mark.parametrize(
    ("silent", "old"),
    [
        ("collector", {"card-spread", "card-pnl", "card-why", "card-open", "card-books", "card-charts"}),
        (
            "signal",
            {
                "card-spread",
                "card-pnl",
                "card-why",
                "card-open",
                "card-books",
                "card-charts",
                "card-orders",
                "book-0",
                "book-1",
            },
        ),
        ("engine", {"card-hedged", "card-pnl", "card-open", "card-charts"}),
        ("storage", {"plumbing-foot"}),
    ],
)
def test_what_a_silent_service_feeds_has_its_time(silent: str, old: set[str]) -> None:
    given = statuses.all_statuses()
    before = statuses.now_ms() - 60_000
    given[silent] = msgspec.structs.replace(given[silent], published_ms=before)
    times = snapshot(sources(*given.values()))["at"]
    expected = old | {f"service-{silent}", f"plumbing-{silent}"}
    assert {name for name, at in times.items() if at == before / 1000} == expected


def test_a_book_has_the_time_of_its_last_message() -> None:
    given = statuses.all_statuses()
    before = statuses.now_ms() - 60_000
    given["signal"] = statuses.status("signal", statuses.signal(received_ms=before))
    times = snapshot(sources(*given.values()))["at"]
    assert {name for name, at in times.items() if at == before / 1000} == {"card-spread", "book-0", "book-1"}


def test_nothing_heard_yet_is_a_page_without_figures() -> None:
    made = Sources(Board(), History(), QueueWatch(no_session), FREE, None)
    state = snapshot(made)
    assert state["mode"] == ""
    assert not figures("".join(state["html"].values()))
    assert set(state["at"].values()) == {0}


def test_a_service_that_is_not_heard_is_named_beside_the_reasons() -> None:
    given = statuses.all_statuses()
    del given["storage"]
    made = sources(*given.values())
    assert cards.troubles(made, statuses.now_ms()) == ["storage: not heard yet"]


def test_a_pair_is_chosen_by_its_legs_in_either_order() -> None:
    pairs = sources(groups=3).board.pairs
    key = cards.pair_key(pairs[2])
    assert key == "linear:C002PERP,spot:C002USDT"
    assert find_pair(pairs, key) is pairs[2]
    assert find_pair(pairs, "nonsense") is pairs[0]
    assert find_pair([], key) is None


def test_levels_of_which_we_took_something_are_marked() -> None:
    html = snapshot(sources())["html"]["books"]
    assert html.count('class="taken"') == 2
    assert 'title="left for us: 1"' in html


def test_the_distance_to_the_close_follows_the_rule() -> None:
    # Entry 27.09 and 26.955, the cost to close is 26.30.
    assert [row["to_close"] for row in cards.open_spreads(sources())["rows"]] == ["−0.79", "−0.655"]
    signed = cards.open_spreads(sources(rules=FEES))["rows"][0]
    costs = D("0.0003") * (D("61659.70") + D("61686.00"))  # 37.00371
    assert signed["to_close"] == f"+{round(D('26.30') - D('27.09') + costs, 2)}"


def test_the_coin_is_named_where_all_symbols_agree() -> None:
    assert base_coin(list(statuses.legs(0))) == "BTC"
    assert base_coin([*statuses.legs(0), *statuses.legs(1)]) == ""
