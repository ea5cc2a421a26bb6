"""How each of the four services is a process: log lines, its end on SIGINT and SIGTERM, exit status."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import selectors
import signal
import sys
from collections.abc import Awaitable, Callable

from blackbird.runtime.paced_selector import PacedSelector

logger = logging.getLogger(__name__)

# The contract gives a service 5 s to end; what is not finished by then goes back to the broker.
STOP_SECONDS = 4.0
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def configure_logging(level: str) -> None:
    """Log one event a line to the terminal; libraries only from warnings on."""
    # Nothing of this is in the lines, and finding it out is a fifth of what a line costs.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(
        level=level,
        format="%(asctime)s %(levelname)-7s %(message)s",
        stream=sys.stderr,
    )
    # pika logs a dozen lines for each failed attempt, up to CRITICAL; blackbird.broker logs one for a cause.
    logging.getLogger("pika").setLevel(logging.CRITICAL + 1)
    for library in ("websocket", "pybit", "urllib3"):
        logging.getLogger(library).setLevel(logging.WARNING)


def run_service(
    name: str,
    serve: Callable[[asyncio.Event], Awaitable[None]],
    *,
    log_level: str = "INFO",
    pace: float = 0.0,
    on_start: Callable[[], None] | None = None,
) -> None:
    """Run `serve` until it ends after the event that SIGINT or SIGTERM sets, with exit status 0.

    With a `pace` (seconds) its sockets are looked at no more often than that, see PacedSelector. `on_start`
    is called once logging works, before anything else. An exception that reaches this edge is logged with its
    traceback and ends the process with status 1.
    """
    configure_logging(log_level)
    if on_start is not None:
        on_start()
    selector = PacedSelector(pace) if pace else selectors.DefaultSelector()
    try:
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
            runner.run(_serve(name, serve))
    except Exception:
        logger.exception("%s ends: nothing knew what to do about this", name)
        sys.exit(1)
    finally:
        # What is left is the interpreter's own end, which makes the signals deadly again.
        for number in ENDING_SIGNALS:
            signal.signal(number, signal.SIG_IGN)


async def _serve(name: str, serve: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end(*_: object) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(stop.set)

    # Not by the loop, which lets go of its signals before the process is gone: a second one would kill it.
    for number in ENDING_SIGNALS:
        signal.signal(number, end)
    logger.info("%s starts", name)
    serving = asyncio.ensure_future(serve(stop))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    done, _ = await asyncio.wait([serving], timeout=STOP_SECONDS)
    if not done:
        logger.warning("%s was cut short; what it had not finished goes back to the broker", name)
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([serving], timeout=0.5)
        return
    serving.result()
    logger.info("%s ended", name)
