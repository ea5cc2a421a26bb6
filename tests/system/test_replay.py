"""A stored market through the live pipeline, beside the live tables."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blackbird.archive.recording import Recording
from tests.support.stored_market import store
from tests.support.workspace import HERE, Workspace, connect, free_port, management

START = str(HERE / "start_microservice.sh")
MESSAGES = 600
TABLES = ("bybit.orderbook", "bybit.orderbook_update", 'bybit."order"', "bybit.refused_order")


@pytest.fixture
def replay_name(place: Workspace) -> Iterator[str]:
    """Name a database and a virtual host for a replay beside the user's own, and remove them afterwards."""
    name = f"replay_{uuid.uuid4().hex[:12]}"
    yield name
    connection = connect(place.environment, "postgres")
    connection.cursor().execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    connection.close()
    management(place.environment, "DELETE", f"vhosts/{name}")


def start(place: Workspace, replay_name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    settings = {"REPLAY_NAME": replay_name, "COLLECTOR_PORT": str(free_port())}
    logs = str(place.folder / "logs")
    return subprocess.run(
        [START, "--logs", logs, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=place.environment | settings,
    )


def counts(place: Workspace) -> list[Any]:
    return [place.query(f"SELECT count(*) FROM {table}") for table in TABLES]  # noqa: S608


def test_a_replay_trades_the_stored_market_and_leaves_the_live_tables_alone(
    place: Workspace, replay_name: str, recordings: Path
) -> None:
    store(place, list(Recording(recordings / "btc_depth50.ndjson.gz"))[:MESSAGES])
    before = counts(place)
    done = start(place, replay_name, "--replay", "2024-08-08..2024-08-09", "--speed", "10")
    assert done.returncode == 0, done.stdout + done.stderr
    assert counts(place) == before
    connection = connect(place.environment, replay_name)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*), count(DISTINCT topic) FROM bybit.orderbook_update")
        # A subscription that came while it was played begins with a snapshot of its own.
        ((messages, topics),) = cursor.fetchall()
        cursor.execute('SELECT count(*) FROM bybit."order"')
        ((orders,),) = cursor.fetchall()
        cursor.execute("SELECT DISTINCT matching_key FROM bybit.orderbook")
        keys = cursor.fetchall()
    connection.close()
    assert MESSAGES <= messages <= MESSAGES + 2
    assert topics == 2
    assert orders > 0
    assert keys == [("a",)]


def test_a_range_without_messages_is_named(place: Workspace, replay_name: str) -> None:
    done = start(place, replay_name, "--replay", "2024-08-08..2024-08-09", "--no-setup")
    assert done.returncode == 1
    assert "expected stored messages, found none" in done.stderr


@pytest.mark.parametrize("wrong", [["--replay", "2024-08-08"], ["--replay", "a..b", "--demo"]])
def test_what_cannot_be_replayed_ends_with_the_usage(
    place: Workspace, replay_name: str, wrong: list[str]
) -> None:
    assert start(place, replay_name, *wrong).returncode == 2
