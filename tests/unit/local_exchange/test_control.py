"""The control interface, without a socket."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from local_exchange import LocalExchange, SyntheticMarket
from local_exchange.control import ControlInterface


def request(method: str, path: str, **options: Any) -> httpx.Response:
    """Ask the control interface of an exchange that was never started."""

    async def ask() -> httpx.Response:
        app = ControlInterface(LocalExchange(SyntheticMarket(rate=0))).app()
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://control") as client:
            return await client.request(method, path, **options)

    return asyncio.run(ask())


def test_query_and_body_are_one_set_of_arguments() -> None:
    from_query = request("GET", "/book?channel=linear&symbol=BTCPERP&depth=1").json()
    assert from_query["s"] == "BTCPERP"
    assert len(from_query["b"]) == len(from_query["a"]) == 1
    assert request("POST", "/step?channel=linear", json={"symbol": "BTCPERP"}).json() == {"matched": 1}


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/step"), ("POST", "/counters"), ("GET", "/"), ("GET", "/faults/gap")]
)
def test_unknown_path_or_method_is_404_and_lists_the_known_ones(method: str, path: str) -> None:
    answer = request(method, path)
    assert answer.status_code == 404
    assert "GET /counters, GET /sockets" in answer.json()["error"]
    assert "POST /faults/{name}" in answer.json()["error"]


@pytest.mark.parametrize(("body", "reason"), [(b"{", "expected JSON"), (b"[1]", "expected a JSON object")])
def test_body_that_is_not_a_json_object_is_400(body: bytes, reason: str) -> None:
    answer = request("POST", "/step", content=body)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]


def test_value_that_does_not_fit_is_400_with_the_reason() -> None:
    answer = request("GET", "/book?channel=linear&symbol=BTCPERP&depth=deep")
    assert answer.status_code == 400
    assert "deep" in answer.json()["error"]


def test_an_instrument_that_is_not_served_is_404() -> None:
    assert request("GET", "/book?channel=spot&symbol=NOPE").status_code == 404


def test_a_fault_that_needs_fresh_numbers_matches_nothing_while_nobody_is_subscribed() -> None:
    assert request("POST", "/faults/restart").json() == {"matched": 0}
    assert request("POST", "/faults/refuse_subscription", json={"count": 2}).json() == {"matched": 1}
