"""Market orders on Bybit through pybit, one leg at a time."""

from __future__ import annotations

import logging
from decimal import Decimal

import requests.exceptions
from pybit.exceptions import FailedRequestError, InvalidRequestError
from pybit.unified_trading import HTTP

from blackbird.bybit.environment import OrderMode
from blackbird.market.instrument import Instrument

logger = logging.getLogger(__name__)

# "OrderLinkedID is duplicate" on linear and on spot: the first sending was accepted.
DUPLICATE_LINK_ID = {110072, 170141}
# The outcome of such a request is unknown; sending it again with the same link id is safe.
ATTEMPTS = 3
# pybit falls back to its own retries, which sleep in this thread, on an empty set.
NO_RETRY_CODES = {999_999}
TIMEOUT_SECONDS = 3
UNKNOWN_OUTCOME = {10000, 10016, 170001, 170007, 170032, 170146, 170147, 110079}


class BybitOrders:
    """Sends market orders to Bybit's REST interface; accepted counts as placed."""

    def __init__(self, session: HTTP) -> None:
        self._session = session

    @classmethod
    def connect(cls, mode: OrderMode, api_key: str, api_secret: str) -> BybitOrders:
        """Return a sender for the environment and base URL of `mode`."""
        session = HTTP(
            testnet=mode.environment == "testnet",
            demo=mode.environment == "demo",
            api_key=api_key,
            api_secret=api_secret,
            timeout=TIMEOUT_SECONDS,
            retry_codes=NO_RETRY_CODES,
        )
        session.endpoint = mode.rest_url
        return cls(session)

    def place_market_order(self, leg: Instrument, side: str, size: Decimal, link_id: str) -> bool:
        """Send a market order for `size` base coin and return whether it was accepted.

        The same `link_id` again is the same order. An order whose outcome stays unknown counts as failed and
        is logged.
        """
        order = {
            "category": leg.channel,
            "symbol": leg.symbol,
            "side": side,
            "orderType": "Market",
            "qty": f"{size:f}",
            "orderLinkId": link_id,
        }
        if leg.channel == "spot":
            # Otherwise the quantity of a spot market buy is in quote coin.
            order["marketUnit"] = "baseCoin"
        for _ in range(ATTEMPTS):
            try:
                self._session.place_order(**order)
            except InvalidRequestError as error:
                if error.status_code in DUPLICATE_LINK_ID:
                    return True
                if error.status_code in UNKNOWN_OUTCOME:
                    continue
                logger.error("%s %s %s refused: %s", side, size, leg, error.message)
                return False
            except FailedRequestError as error:
                # A 4xx answer means that nothing was taken; 409 is pybit's code for a reply that is not JSON.
                if 400 <= int(error.status_code) < 500 and error.status_code != 409:
                    logger.error("%s %s %s refused: %s", side, size, leg, error.message)
                    return False
            except requests.exceptions.RequestException as error:
                logger.warning("%s %s %s: no answer (%s)", side, size, leg, type(error).__name__)
            else:
                return True
        logger.error("%s %s %s: outcome unknown, order link id %s: look it up", side, size, leg, link_id)
        return False
