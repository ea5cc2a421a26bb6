"""What docs/operations.md tells to type, typed."""

from __future__ import annotations

import re
import subprocess
from decimal import Decimal
from pathlib import Path

import pytest

from tests.support.documents import ROOT, blocks
from tests.support.order_client import OrderClient, new_order
from tests.support.workspace import Workspace, wait_for, workspace

PAGE = ROOT / "docs/operations.md"


def typed(commands: str, place: Workspace, folder: Path) -> str:
    """Run commands of the page in `folder` and return what they print."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env=place.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def block_with(text: str) -> str:
    (found,) = (block for block in blocks(PAGE, "bash") if text in block)
    return found


A_LEFTOVER = """
INSERT INTO bybit.fill VALUES
  ('h-t-b1', 'e', 't', 'spot', 'BTCUSDT', 'buy', 64000, 0.1, 6400, 0, 'USDT', 'Trade', 1723161256298);
INSERT INTO bybit.leftover VALUES
  ('t', 1, 'spot', 'BTCUSDT', 0.1, -6400, 3, 'bought and not sold again', 1723161256298,
   'spot', 'BTCUSDT', 'linear', 'BTCPERP', NULL, NULL)
"""


def table(place: Workspace, name: str) -> list[str]:
    return sorted(repr(row) for row in place.query(f'SELECT * FROM bybit."{name}"'))  # noqa: S608


def test_tables_are_moved_to_other_servers_as_the_page_says(place: Workspace, tmp_path: Path) -> None:
    engine = place.start_engine()
    client = OrderClient(place)
    for _ in range(3):
        assert client.ask(new_order())["status"] == "ACK"
    wait_for(lambda: len(table(place, "order")) == 6)
    assert engine.stop() == 0
    script = tmp_path / "setup.sh"
    script.write_text(f'#!/bin/sh\nexec "{ROOT}/setup.sh" "$@"\n')
    script.chmod(0o755)
    place.query(A_LEFTOVER)
    typed(block_with("TO STDOUT"), place, tmp_path)
    with workspace(tmp_path) as other:
        typed(block_with("FROM STDIN"), other, tmp_path)
        for name in (
            "orderbook",
            "orderbook_update",
            "order",
            "refused_order",
            "fill",
            "leftover",
            "history",
        ):
            assert table(other, name) == table(place, name)
        # The engine goes on where it ended, with its journal.
        moved = other.start_engine(JOURNAL_PATH=place.environment["JOURNAL_PATH"])
        assert len(OrderClient(other).open_spreads()) == 3
        assert moved.stop() == 0
    assert {path.name for path in tmp_path.iterdir()}.isdisjoint({"move"})


def test_dead_letters_are_shown_and_stay(place: Workspace) -> None:
    place.start_storage()
    channel = place.channel()
    channel.basic_publish("data_feeder", "storage", b"nonsense")
    wait_for(lambda: place.waiting("storage.dead") == 1)
    shown = typed(block_with("basic_get"), place, ROOT)
    assert re.fullmatch(r"storage .+ b'nonsense'\n", shown), shown
    wait_for(lambda: place.waiting("storage.dead") == 1)


def settle(place: Workspace, *arguments: str) -> tuple[int, str]:
    return by_hand("settle", place, *arguments)


def by_hand(tool: str, place: Workspace, *arguments: str) -> tuple[int, str]:
    command = [str(ROOT / ".venv/bin/python"), "-m", f"deploy.{tool}", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=place.environment, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, (done.stdout + done.stderr).strip()


def test_a_spread_is_settled_by_hand_once(place: Workspace) -> None:
    place.start_engine()
    client = OrderClient(place)
    order = new_order(spread_id="expired", size=Decimal("0.25"))
    assert client.ask(order)["status"] == "ACK"
    status, listed = settle(place)
    assert status == 0
    assert listed.startswith("expired  long ")
    assert settle(place, "another", "1", "1") == (1, "settle: no open spread another")
    assert settle(place, "expired", "0.5", "0.25") == (0, "order placed")
    closed = "SELECT type, price, size FROM bybit.\"order\" WHERE action = 'Close Spread' ORDER BY type"
    wait_for(lambda: place.query(closed))
    assert [tuple(map(str, row)) for row in place.query(closed)] == [
        ("buy", "0.25", "0.25"),
        ("sell", "0.5", "0.25"),
    ]
    assert settle(place) == (0, "no open spreads")
    assert settle(place, "expired", "0.5", "0.25")[0] == 1


@pytest.mark.parametrize(
    "arguments", [("expired",), ("expired", "1"), ("expired", "0", "1"), ("expired", "x", "1")]
)
def test_a_settlement_without_two_prices_is_refused(place: Workspace, arguments: tuple[str, ...]) -> None:
    assert settle(place, *arguments)[0] == 2


def leftover(place: Workspace, *arguments: str) -> tuple[int, str]:
    return by_hand("leftover", place, *arguments)


def test_leftover_that_was_traded_by_hand_is_booked_once(place: Workspace) -> None:
    place.query(A_LEFTOVER)
    place.start_engine()
    line = "t 1  0.1 of spot:BTCUSDT at 64000, bought and not sold again, since 2024-08-08 23:54:16 UTC"
    assert leftover(place) == (0, line)
    for _ in range(2):
        assert leftover(place, "t", "1", "--traded-at", "63500") == (0, "leftover resolved")
    unwound = (
        "SELECT type, price, size, flux, trade_id FROM bybit.\"order\" WHERE action = 'Unwind' ORDER BY 1"
    )
    wait_for(lambda: place.query(unwound))
    assert place.query(unwound) == [
        ("buy", 64000, Decimal("0.1"), -6400, "t"),
        ("sell", 63500, Decimal("0.1"), 6350, "t"),
    ]
    assert leftover(place) == (0, "nothing is left over")
    assert place.query("SELECT resolution FROM bybit.leftover") == [("traded away",)]
    assert place.query("SELECT held_size, exposure FROM bybit.position") == [(0, 50)]


def test_leftover_that_is_kept_is_still_held(place: Workspace) -> None:
    place.query(A_LEFTOVER)
    place.start_engine()
    assert leftover(place, "t", "1", "--keep") == (0, "leftover resolved")
    wait_for(lambda: place.query("SELECT resolution FROM bybit.leftover") == [("accepted",)])
    assert place.query("SELECT held_size, size FROM bybit.position") == [(Decimal("0.1"), 0)]


def test_leftover_that_is_unknown_is_refused(place: Workspace) -> None:
    place.start_engine()
    assert leftover(place, "t", "1", "--keep") == (
        1,
        "leftover: invalid order: leftover: expected an open one, was unknown",
    )


@pytest.mark.parametrize("arguments", [("t",), ("t", "1"), ("t", "1", "--keep", "--traded-at", "1")])
def test_leftover_of_which_not_all_is_said_is_refused(place: Workspace, arguments: tuple[str, ...]) -> None:
    assert leftover(place, *arguments)[0] == 2
