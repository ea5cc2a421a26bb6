"""What a key must be allowed to do."""

from __future__ import annotations

from typing import Any

import pytest

from blackbird.bybit.start_checks import check_permissions
from blackbird.runtime.process import InvalidSetup

BOTH = {"Spot": ["SpotTrade"], "ContractTrade": ["Order", "Position"]}


@pytest.mark.parametrize(
    "permissions",
    [BOTH, {**BOTH, "Wallet": ["Withdraw"]}, {"Spot": ["SpotTrade"], "Derivatives": ["DerivativesTrade"]}],
)
def test_key_that_may_trade_on_spot_and_linear_is_enough(permissions: dict[str, Any]) -> None:
    check_permissions(permissions)


@pytest.mark.parametrize(
    ("permissions", "missing"),
    [
        ({}, "SpotTrade"),
        ({**BOTH, "Spot": []}, "SpotTrade"),
        ({**BOTH, "Spot": "SpotTrade"}, "SpotTrade"),
        ({"Spot": ["SpotTrade"]}, "ContractTrade"),
        ({**BOTH, "ContractTrade": ["Order"]}, "ContractTrade"),
    ],
)
def test_key_without_a_permission_is_refused_by_its_name(permissions: dict[str, Any], missing: str) -> None:
    with pytest.raises(InvalidSetup, match=rf"^API_KEY: expected a key with the permissions? {missing}"):
        check_permissions(permissions)
