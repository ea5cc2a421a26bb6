"""What goes wrong at the broker, by its management interface."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable

from tests.support.workspace import Service, Workspace, management, wait_for


def connections(place: Workspace) -> set[str]:
    """Return the names of the connections to the test's virtual host."""
    answer = management(place.environment, "GET", f"vhosts/{place.name}/connections")
    return {str(connection["name"]) for connection in answer}


def cut(place: Workspace, names: Iterable[str]) -> None:
    """Close connections from the broker's side."""
    for name in names:
        management(place.environment, "DELETE", f"connections/{urllib.parse.quote(name, safe='')}")


def cut_all(place: Workspace, *services: Service, at_least: int = 1) -> None:
    """Cut every connection, at least so many, until these services have noticed and are back."""
    before = [service.broker_connections() for service in services]
    done: set[str] = set()

    def noticed() -> bool:
        # The broker lists a connection some time after it was opened.
        found = connections(place) - done
        cut(place, found)
        done.update(found)
        now = [service.broker_connections() for service in services]
        return len(done) >= at_least and all(
            new and not new & old for new, old in zip(now, before, strict=True)
        )

    wait_for(noticed, f"connections cut ({len(done)} so far)")
    place.await_ready(*services)
