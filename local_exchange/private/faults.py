"""The fault switches of the private side.

Every fault is a coroutine method with keyword arguments only and returns how many rules, positions or
connections it touched; the control interface offers the same names. Faults of requests, orders and the stream
stand until `clear`, or as often (`count`) or as long (`seconds`) as they are given, and meet the `share` of
what fits them. They are narrowed by `channel` (the category), `symbol`, `side`, `link` (a part of the link
id) and, those of requests, `path`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from local_exchange.private.account_faults import ConditionFaults
from local_exchange.private.request_faults import OrderFaults, RequestFaults, StreamFaults

if TYPE_CHECKING:
    from local_exchange.private.exchange import PrivateExchange


class PrivateFaults(RequestFaults, OrderFaults, StreamFaults, ConditionFaults):
    """All switches of the private side of one exchange."""

    def __init__(self, exchange: PrivateExchange) -> None:
        RequestFaults.__init__(self, exchange.fault_rules)
        ConditionFaults.__init__(self, exchange)

    async def clear(self) -> int:
        """End every fault that stands, and set back the account, the instruments and the clock."""
        self.end_conditions()
        return len(self._rules.end_all())


# What the control interface offers of them.
NAMES = (
    "lost_reply",
    "lost_request",
    "slow_reply",
    "refuse",
    "http",
    "not_json",
    "json_list",
    "json_null",
    "empty_object",
    "rate_limit",
    "late_fill",
    "part_fill",
    "no_fill",
    "reject_after_accept",
    "order_lag",
    "no_loan",
    "private_drop",
    "private_silence",
    "private_repeat",
    "private_shuffle",
    "private_delay",
    "private_no_fees",
    "auth_refused",
    "deposit",
    "manual_trade",
    "funding",
    "settle_session",
    "adl",
    "liquidate",
    "hedge_mode",
    "isolated",
    "no_money",
    "extra_fee",
    "fee_coin",
    "status",
    "rules",
    "clock",
    "realtime_wiped",
    "private_restart",
)
