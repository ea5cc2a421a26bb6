"""Reply addresses that end the connection: each suspect is tried by itself, and muted if it does it again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from blackbird.broker.session import SessionLost
from blackbird.engine.reply_addresses import ReplyAddresses

PREFIX = ReplyAddresses.PREFIX
CRASH = SessionLost("541 INTERNAL_ERROR")


class Broker:
    """Ends the session after a reply to one of `deadly`, on the next round trip or later by itself."""

    def __init__(self, *deadly: str) -> None:
        self.addresses = ReplyAddresses(100)
        self.deadly = set(deadly)
        self.round_trips = 0
        self.replied: list[str] = []

    def session(self, addresses: Iterable[str]) -> bool:
        """Reply to addresses on a session of its own; return whether it survived."""
        try:
            asyncio.run(self._replies(addresses))
        except SessionLost as error:
            self.addresses.session_ended(error)
            return False
        return True

    async def _replies(self, addresses: Iterable[str]) -> None:
        killed = False
        for address in addresses:
            if self.addresses.is_muted(address):
                continue
            self.replied.append(address)
            killed = killed or address in self.deadly

            async def round_trip(killed: bool = killed) -> None:
                self.round_trips += 1
                if killed:
                    raise CRASH

            await self.addresses.sent(address, round_trip)
        if killed:
            raise CRASH


def test_addresses_that_do_no_harm_cost_no_round_trip() -> None:
    broker = Broker()
    for _ in range(3):
        assert broker.session([PREFIX + "a", "my-queue", PREFIX + "b"])
    assert broker.round_trips == 0


def test_address_that_ends_the_connection_twice_is_muted_and_the_others_are_not() -> None:
    bad = PREFIX + "made-up"
    everybody = [PREFIX + "a", bad, PREFIX + "b", "my-queue"]
    broker = Broker(bad)
    assert not broker.session(everybody), "nobody is known to be at fault yet"
    assert not broker.session(everybody), "each suspect is tried by itself"
    assert broker.addresses.is_muted(bad)
    broker.replied.clear()
    assert broker.session(everybody)
    assert broker.replied == [PREFIX + "a", PREFIX + "b", "my-queue"]


def test_two_such_addresses_are_both_found() -> None:
    bad = [PREFIX + "x", PREFIX + "y"]
    everybody = [PREFIX + "a", *bad, PREFIX + "b"]
    broker = Broker(*bad)
    ended = sum(not broker.session(everybody) for _ in range(10))
    assert ended == 3
    assert [address for address in everybody if broker.addresses.is_muted(address)] == bad


def test_suspect_that_survives_is_trusted_again() -> None:
    broker = Broker(PREFIX + "made-up")
    broker.session([PREFIX + "a", PREFIX + "made-up"])
    assert broker.session([PREFIX + "a"])
    assert broker.session([PREFIX + "a"])
    assert broker.round_trips == 1


@pytest.mark.parametrize("reason", [SessionLost("320 CONNECTION_FORCED"), SessionLost("closed"), None])
def test_session_that_ends_for_another_reason_makes_no_suspects(reason: SessionLost | None) -> None:
    broker = Broker()
    broker.session([PREFIX + "a"])
    broker.addresses.session_ended(reason)
    broker.session([PREFIX + "a"])
    assert broker.round_trips == 0


def test_queue_of_a_client_is_never_a_suspect() -> None:
    broker = Broker("my-queue")
    for _ in range(3):
        assert not broker.session(["my-queue"])
    assert not broker.addresses.is_muted("my-queue")
