"""Which orders are simulated, which are real, and which would cost real money."""

from __future__ import annotations

import pytest

from blackbird.bybit.environment import OrderMode, RealMoneyRefused


def mode(*, real: bool = True, environment: str = "demo", rest_url: str = "") -> OrderMode:
    return OrderMode.of(real=real, environment=environment, rest_url=rest_url)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (mode(real=False), "SIMULATED ORDERS"),
        (mode(real=False, environment="mainnet"), "SIMULATED ORDERS"),
        (mode(), "REAL ORDERS to api-demo.bybit.com"),
        (mode(environment="testnet"), "REAL ORDERS to api-testnet.bybit.com"),
        (mode(rest_url="http://127.0.0.1:9501"), "REAL ORDERS to 127.0.0.1:9501"),
        (mode(rest_url="https://somebody@api-demo.bybit.com/"), "REAL ORDERS to api-demo.bybit.com"),
    ],
)
def test_text_says_what_orders_are_and_where_real_ones_go(given: OrderMode, text: str) -> None:
    assert str(given) == text


@pytest.mark.parametrize(
    "given",
    [
        mode(real=False, environment="mainnet"),
        mode(real=False, rest_url="https://api.bybit.com"),
        mode(),
        mode(environment="testnet"),
        mode(rest_url="https://API-Testnet.bybit.com/"),
        mode(rest_url="http://localhost:9501"),
        mode(rest_url="http://[::1]:9501"),
        mode(rest_url="http://192.168.1.5"),
        mode(rest_url="http://local-exchange:9501"),
    ],
)
def test_play_money_is_allowed(given: OrderMode) -> None:
    given.check_no_real_money()


@pytest.mark.parametrize(
    ("given", "setting"),
    [
        (mode(environment="mainnet"), "REAL_ORDER_SENDING"),
        (mode(environment="mainnet", rest_url="http://127.0.0.1:9501"), "REAL_ORDER_SENDING"),
        (mode(rest_url="https://api.bybit.com"), "BYBIT_REST_URL"),
        (mode(rest_url="https://api.bytick.com"), "BYBIT_REST_URL"),
        (mode(environment="testnet", rest_url="https://api-demo.bybit.com.example.org"), "BYBIT_REST_URL"),
        (mode(rest_url="https://api-demo.bybit.com@api.bybit.com"), "BYBIT_REST_URL"),
        (mode(rest_url="https://203.0.114.7"), "BYBIT_REST_URL"),
    ],
)
def test_real_money_is_refused_by_the_name_of_the_setting(given: OrderMode, setting: str) -> None:
    with pytest.raises(RealMoneyRefused, match=f"^{setting}: expected .*, was "):
        given.check_no_real_money()
