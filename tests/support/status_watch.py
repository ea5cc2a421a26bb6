"""A third party that is bound to the key `status`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from blackbird.status.messages import Status
from tests.support.workspace import Workspace, wait_for

# What a test passes to a service that is to publish its status; others publish none.
PUBLISHED = {"STATUS_INTERVAL_MS": "100"}


class StatusWatch:
    """Keeps the newest status of each service, and all that came in `seen`."""

    def __init__(self, place: Workspace) -> None:
        self.newest: dict[str, Status] = {}
        self.seen: list[Status] = []
        self.persistent = 0
        self._channel = place.channel()
        self._channel.exchange_declare("data_feeder", "topic", durable=True)
        self._queue = self._channel.queue_declare("", exclusive=True).method.queue
        self._channel.queue_bind(self._queue, "data_feeder", "status")

    def read(self) -> dict[str, Status]:
        """Take what has come, and return the newest of each service."""
        while True:
            _, properties, body = self._channel.basic_get(self._queue, auto_ack=True)
            if body is None or properties is None:
                return self.newest
            status = msgspec.json.decode(body, type=Status)
            self.newest[status.service] = status
            self.seen.append(status)
            self.persistent += properties.delivery_mode == 2

    def wait(self, service: str, condition: Callable[[Any], bool], what: str = "") -> Any:
        """Return the first status of a service, from now on, that meets the condition."""
        self.read()
        self.newest.pop(service, None)

        def meets() -> Status | None:
            status = self.read().get(service)
            return status if status is not None and condition(status) else None

        return wait_for(meets, what or f"status of {service}")
