"""`./setup.sh reset` on a database and a virtual host that services may be using."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.book_feed import BookFeed, book_message, updates
from tests.support.workspace import HERE, Workspace, wait_for


def reset(place: Workspace) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(HERE / "setup.sh"), "reset", "--yes"],
        env=place.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("service", "queue"), [("data_storage", "storage"), ("signal", "signal"), ("trading_engine", "orders")]
)
def test_what_services_consume_is_not_emptied(place: Workspace, service: str, queue: str) -> None:
    started = place.start_ready(service)
    refused = reset(place)
    assert refused.returncode == 1
    assert f"{place.name} is in use and nothing was emptied (consumers on: {queue})" in refused.stderr
    assert place.consumers(queue) == 1
    assert started.stop() == 0


def test_what_nothing_consumes_is_emptied(place: Workspace) -> None:
    storage = place.start_storage()
    feed = BookFeed(place)
    feed.publish("storage", book_message("BTCUSDT", 1, bids=[("1", "1")]))
    wait_for(lambda: updates(place) == 1)
    assert storage.stop() == 0
    emptied = reset(place)
    assert emptied.returncode == 0, emptied.stderr
    assert updates(place) == 0
