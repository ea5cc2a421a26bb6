"""Host names looked up without keeping a process from ending."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import Any

Address = tuple[socket.AddressFamily, tuple[Any, ...]]


class NameLookup:
    """Looks up host names in daemon threads, one for each name at a time.

    The event loop's own lookup runs in its thread pool, for which the process waits when it ends: a name
    server that does not answer would hold up the end for as long as the system goes on asking it.
    """

    def __init__(self) -> None:
        self._running: dict[tuple[str, int], asyncio.Future[list[Address]]] = {}

    async def addresses(self, host: str, port: int) -> list[Address]:
        """Return the TCP addresses of a host, the preferred one first; raises OSError."""
        lookup = self._running.get((host, port))
        if lookup is None:
            lookup = asyncio.get_running_loop().create_future()
            self._running[host, port] = lookup
            lookup.add_done_callback(lambda _: self._running.pop((host, port)))
            threading.Thread(
                target=_look_up, args=(lookup, host, port), name=f"lookup-{host}", daemon=True
            ).start()
        # A caller that is cancelled must not cancel it for the others.
        return await asyncio.shield(lookup)

    async def connect(self, host: str, port: int) -> socket.socket:
        """Return a socket that is connected to the first address of the host that accepts; raises OSError."""
        error: OSError = OSError(f"no address of {host}")
        for family, address in await self.addresses(host, port):
            made = socket.socket(family, socket.SOCK_STREAM)
            made.setblocking(False)
            try:
                await asyncio.get_running_loop().sock_connect(made, address)
            except OSError as refused:
                made.close()
                error = refused
            except BaseException:
                made.close()
                raise
            else:
                return made
        raise error


def _look_up(lookup: asyncio.Future[list[Address]], host: str, port: int) -> None:
    found: list[Address] = []
    failure: OSError | None = None
    try:
        for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            found.append((family, address))
    except OSError as error:
        failure = error
    except UnicodeError as error:
        failure = OSError(f"{host!r} is not a host name: {error}")

    def settle() -> None:
        if failure is None:
            lookup.set_result(found)
        else:
            lookup.set_exception(failure)

    # The loop is closed already when the process ends.
    with contextlib.suppress(RuntimeError):
        lookup.get_loop().call_soon_threadsafe(settle)
