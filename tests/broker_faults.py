"""What goes wrong at the broker, by its management interface."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable

from tests.workspace import Service, Workspace, management, wait_for


def connections(place: Workspace) -> set[str]:
    """Return the names of the connections to the test's virtual host."""
    answer = management(place.environment, "GET", f"vhosts/{place.name}/connections")
    return {str(connection["name"]) for connection in answer}


def cut(place: Workspace, names: Iterable[str]) -> None:
    """Close connections from the broker's side."""
    for name in names:
        management(place.environment, "DELETE", f"connections/{urllib.parse.quote(name, safe='')}")


def cut_all(place: Workspace, *services: Service) -> None:
    """Cut every connection, and wait until these services have noticed and are back."""
    back = [service.output.count("connected to the broker") + 1 for service in services]
    names = wait_for(lambda: connections(place), "a connection to cut")
    cut(place, names)
    for service, count in zip(services, back, strict=True):
        wait_for(
            lambda service=service, count=count: service.output.count("connected to the broker") >= count,  # type: ignore[misc]
            f"{service.log.name} connected again",
        )
