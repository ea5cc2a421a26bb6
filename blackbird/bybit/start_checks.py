"""What is checked of clock, key and account before the first real order.

https://bybit-exchange.github.io/docs/v5/user/apikey-info, .../account/account-info.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from blackbird.bybit.rest import Credentials, Refusal, Rest, RestError
from blackbird.bybit.server_clock import ServerClock
from blackbird.runtime.backoff import Backoff
from blackbird.runtime.process import InvalidSetup

logger = logging.getLogger(__name__)

# A request of a clock 1000 ms ahead is refused; half of that leaves room for it to drift.
LARGEST_START_OFFSET_MS = 500
# Key unknown, signature wrong, no permission, address not allowed, key expired, account not unified ...
KEY_CODES = frozenset({10003, 10004, 10005, 10009, 10010, 10024, 10028, 10029, 33004})
UNIFIED = frozenset({3, 4, 5, 6})
SHORTEST_RETRY_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 10.0
ANY_ADDRESS = frozenset({"", "*"})


class AccountFacts(NamedTuple):
    """Whose account it is; None where the exchange does not tell."""

    user_id: str | None


async def check_account(url: str, credentials: Credentials, now: Callable[[], int]) -> AccountFacts:
    """Check everything as soon as the exchange answers, and return whose account it is.

    `now` returns this machine's milliseconds since 1970. Raises InvalidSetup for what a person has to put
    right.
    """
    rest = Rest(url, credentials)
    backoff = Backoff(SHORTEST_RETRY_SECONDS, LONGEST_RETRY_SECONDS)
    while True:
        try:
            return await _check(rest, ServerClock(rest, now))
        except RestError as error:
            logger.warning("the exchange does not answer, no order is taken before: %s", error)
        await asyncio.sleep(backoff.next())


async def _check(rest: Rest, clock: ServerClock) -> AccountFacts:
    offset = await clock.measure()
    if abs(offset) > LARGEST_START_OFFSET_MS:
        raise InvalidSetup(
            f"REAL_ORDER_SENDING: expected this machine's clock within {LARGEST_START_OFFSET_MS} ms of the"
            f" exchange's, was {abs(offset)} ms {'behind' if offset > 0 else 'ahead'}: synchronise it"
        )
    try:
        await _check_unified(rest)
        return await _check_key(rest)
    except Refusal as refusal:
        if refusal.code in KEY_CODES:
            raise InvalidSetup(f"API_KEY: expected a key that may trade, was refused: {refusal}") from None
        raise


async def _check_unified(rest: Rest) -> None:
    status = (await rest.call(lambda session: session.get_account_info())).get("unifiedMarginStatus")
    if status not in UNIFIED:
        raise InvalidSetup(
            f"API_KEY: expected a unified trading account, was one with unifiedMarginStatus {status}:"
            " upgrade it in Bybit's account settings"
        )


async def _check_key(rest: Rest) -> AccountFacts:
    try:
        key = await rest.call(lambda session: session.get_api_key_information())
    except Refusal as refusal:
        if refusal.code in KEY_CODES:
            raise
        # Not among what demo trading is documented to serve.
        logger.warning("what the key may do is not known: %s", refusal)
        return AccountFacts(None)
    if key.get("readOnly") != 0:
        raise InvalidSetup("API_KEY: expected a key that may trade, was a read-only one")
    permissions = key.get("permissions")
    check_permissions(permissions if isinstance(permissions, dict) else {})
    _warn(key)
    user_id = key.get("userID")
    return AccountFacts(None if user_id is None else str(user_id))


def check_permissions(permissions: Mapping[str, Any]) -> None:
    """Raise InvalidSetup where a key may not trade on spot and linear."""
    if "SpotTrade" not in _granted(permissions, "Spot"):
        raise InvalidSetup("API_KEY: expected a key with the permission SpotTrade, was one without")
    contracts = _granted(permissions, "ContractTrade")
    may_trade = {"Order", "Position"} <= contracts or "DerivativesTrade" in _granted(
        permissions, "Derivatives"
    )
    if not may_trade:
        raise InvalidSetup(
            "API_KEY: expected a key with the permissions ContractTrade Order and Position, was one without"
        )


def _granted(permissions: Mapping[str, Any], kind: str) -> set[str]:
    granted = permissions.get(kind)
    return {str(each) for each in granted} if isinstance(granted, list) else set()


def _warn(key: Mapping[str, Any]) -> None:
    """Log what makes a key more dangerous than it needs to be, or lets it end."""
    permissions = key.get("permissions")
    if isinstance(permissions, dict) and "Withdraw" in _granted(permissions, "Wallet"):
        logger.warning("the key may withdraw: make one without that permission")
    addresses = key.get("ips")
    if not isinstance(addresses, list) or not {str(each) for each in addresses} - ANY_ADDRESS:
        logger.warning(
            "the key is not bound to an address: it can be used from anywhere, and ends in 90 days"
        )
    days = key.get("deadlineDay")
    if isinstance(days, int) and 0 <= days <= 14:
        logger.warning("the key ends in %d days (%s)", days, key.get("expiredAt"))
