"""Which orders are simulated, which are real, and which settings must not go together."""

from __future__ import annotations

import pytest

from blackbird.bybit.environment import OrderMode, UnsafeOrders


def mode(environment: str = "demo", *, real: bool = True, **other: str) -> OrderMode:
    return OrderMode.of(
        real=real,
        environment=environment,
        rest_url=other.get("rest_url", ""),
        ws_url=other.get("ws_url", ""),
        real_money=other.get("real_money") == "true",
    )


def local(environment: str = "demo") -> OrderMode:
    return mode(environment, rest_url="http://127.0.0.1:9501", ws_url="ws://127.0.0.1:9500")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (mode(real=False), "SIMULATED ORDERS"),
        (mode("mainnet", real=False), "SIMULATED ORDERS"),
        (mode(), "REAL ORDERS to api-demo.bybit.com"),
        (mode("testnet"), "REAL ORDERS to api-testnet.bybit.com"),
        (mode(rest_url="http://127.0.0.1:9501"), "REAL ORDERS to 127.0.0.1:9501"),
        (mode(rest_url="https://somebody@api-demo.bybit.com/"), "REAL ORDERS to api-demo.bybit.com"),
    ],
)
def test_text_says_what_orders_are_and_where_real_ones_go(given: OrderMode, text: str) -> None:
    assert str(given) == text


@pytest.mark.parametrize(
    "given",
    [
        mode("mainnet", real=False),
        mode(real=False, rest_url="https://api.bybit.com"),
        mode(real=False, ws_url="ws://127.0.0.1:9500"),
        mode(),
        mode("testnet"),
        mode("testnet", rest_url="https://API-Testnet.bybit.com/"),
        mode(ws_url="wss://stream.bybit.com"),
        mode(ws_url="wss://stream.bytick.com"),
        local(),
        mode(rest_url="http://[::1]:9501", ws_url="ws://localhost:9500"),
        mode(rest_url="http://192.168.1.5", ws_url="ws://local-exchange:9501"),
    ],
)
def test_orders_and_prices_of_one_exchange_without_real_money_are_allowed(given: OrderMode) -> None:
    given.check()


@pytest.mark.parametrize(
    ("given", "setting"),
    [
        (mode("mainnet"), "REAL_MONEY"),
        (local("mainnet"), "REAL_MONEY"),
        (mode("mainnet", real_money="true", rest_url="https://api-demo.bybit.com"), "BYBIT_REST_URL"),
        (mode("mainnet", real_money="true", ws_url="wss://stream-testnet.bybit.com"), "BYBIT_WS_URL"),
        (mode(rest_url="https://api.bybit.com"), "BYBIT_REST_URL"),
        (mode(rest_url="https://api.bytick.com"), "BYBIT_REST_URL"),
        (mode(rest_url="https://api-testnet.bybit.com"), "BYBIT_REST_URL"),
        (mode("testnet", rest_url="https://api-demo.bybit.com"), "BYBIT_REST_URL"),
        (mode("testnet", rest_url="https://api-testnet.bybit.com.example.org"), "BYBIT_REST_URL"),
        (mode(rest_url="https://api-demo.bybit.com@api.bybit.com"), "BYBIT_REST_URL"),
        (mode(rest_url="http://api-demo.bybit.com"), "BYBIT_REST_URL"),
        (mode(rest_url="https://203.0.114.7"), "BYBIT_REST_URL"),
        (mode(ws_url="wss://stream-testnet.bybit.com"), "BYBIT_WS_URL"),
        (mode("testnet", ws_url="wss://stream.bybit.com"), "BYBIT_WS_URL"),
        (mode(ws_url="wss://stream.example.org"), "BYBIT_WS_URL"),
        (mode(ws_url="ws://127.0.0.1:9500"), "BYBIT_REST_URL, BYBIT_WS_URL"),
        (mode(rest_url="http://127.0.0.1:9501"), "BYBIT_REST_URL, BYBIT_WS_URL"),
    ],
)
def test_orders_that_should_not_go_there_are_refused_by_the_setting(given: OrderMode, setting: str) -> None:
    with pytest.raises(UnsafeOrders, match=f"^{setting}: expected .*, was "):
        given.check()


def test_real_money_needs_a_setting_of_its_own() -> None:
    with pytest.raises(UnsafeOrders, match=r"^REAL_MONEY: expected true"):
        mode("mainnet").check()
    mode("mainnet", real_money="true").check()
    mode("mainnet", real_money="true", rest_url="https://api.bybit.eu").check()
    with pytest.raises(UnsafeOrders, match=r"^BYBIT_REST_URL: expected"):
        mode("mainnet", real_money="true", rest_url="https://api-demo.bybit.com").check()


@pytest.mark.parametrize(
    ("given", "url"),
    [
        (mode(), "wss://stream-demo.bybit.com/v5/private"),
        (mode(ws_url="wss://stream.bybit.com"), "wss://stream-demo.bybit.com/v5/private"),
        (mode("testnet"), "wss://stream-testnet.bybit.com/v5/private"),
        (mode("mainnet"), "wss://stream.bybit.com/v5/private"),
        (mode("mainnet", rest_url="https://api.bybit.nl"), "wss://stream.bybit.nl/v5/private"),
        (local(), "ws://127.0.0.1:9500/v5/private"),
    ],
)
def test_private_stream_is_that_of_the_account(given: OrderMode, url: str) -> None:
    assert given.private_url == url
