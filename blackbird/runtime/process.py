"""What the four services have in common as processes: command line, log lines, end, exit status."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import selectors
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import NoReturn

from blackbird import __version__
from blackbird.runtime.heartbeat import Heartbeat
from blackbird.runtime.log_format import LogFormat, formatter
from blackbird.runtime.paced_selector import Pace, PacedSelector

logger = logging.getLogger(__name__)

# The contract gives a service 5 s to end; what is not finished by then is requeued by the broker.
STOP_SECONDS = 4.0
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# EX_CONFIG of sysexits.h: the same settings would end the process the same way, so it is not worth
# restarting.
EXIT_INVALID_SETTING = 78


def parse_arguments(documentation: str | None) -> None:
    """Handle the command line of a service, whose options are --help and --version alone.

    `documentation` is the docstring of the service's module: its first paragraph is shown by --help. Any
    other argument ends the process with the usage and exit status 2.
    """
    parser = argparse.ArgumentParser(
        description=(documentation or "").partition("\n\n")[0],
        epilog="Settings come from the environment, then from variables.env. SIGINT (Ctrl-C) or SIGTERM ends"
        " the service.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"blackbird {__version__}")
    parser.parse_args()


def exit_for_setting(problem: str) -> NoReturn:
    """End the process with the line `setting <problem>` and a status that rules out a restart."""
    print(f"setting {problem}", file=sys.stderr)
    sys.exit(EXIT_INVALID_SETTING)


class InvalidSetup(Exception):
    """A service cannot work with what its settings point to; the text begins with the name of the setting."""


def configure_logging(level: str, service: str, log_format: LogFormat) -> None:
    """Log one event per line to standard error; libraries only from warnings on."""
    # None of this is in the lines, and finding it out is a fifth of what a line costs.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(log_format, service, sys.stderr))
    logging.basicConfig(level=level, handlers=[handler])
    # pika logs a dozen lines for each failed attempt, up to CRITICAL; blackbird.broker logs one for a cause.
    logging.getLogger("pika").setLevel(logging.CRITICAL + 1)
    for library in ("websocket", "pybit", "urllib3"):
        logging.getLogger(library).setLevel(logging.WARNING)


def run_service(
    name: str,
    serve: Callable[[asyncio.Event], Awaitable[None]],
    *,
    mode: object = "",
    log_level: str = "INFO",
    log_format: LogFormat = "text",
    pace: Pace | float = 0.0,
    alive_file: str = "",
    on_start: Callable[[], None] | None = None,
) -> None:
    """Run `serve` until it ends after the event that SIGINT or SIGTERM sets, with exit status 0.

    With a `pace` (seconds) its sockets are polled no more often than that, see PacedSelector; with an
    `alive_file` its supervisor can see that it works, see Heartbeat. `mode` is part of the first line of the
    log; `on_start` is called after it. An exception that reaches this edge ends the
    process: InvalidSetup with one line and status 78, any other with its traceback and status 1.
    """
    configure_logging(log_level, name, log_format)
    logger.info("%s started%s", name, f", {mode}" if mode else "")
    if on_start is not None:
        on_start()
    selector = PacedSelector(pace) if pace else selectors.DefaultSelector()
    try:
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
            runner.run(_serve(name, serve, Heartbeat.of(alive_file)))
    except InvalidSetup as error:
        exit_for_setting(str(error))
    except Exception:
        logger.exception("%s: unhandled exception, exiting", name)
        sys.exit(1)
    finally:
        # All that is left is the interpreter's shutdown, during which the default handlers would be back.
        for number in ENDING_SIGNALS:
            signal.signal(number, signal.SIG_IGN)


async def _serve(name: str, serve: Callable[[asyncio.Event], Awaitable[None]], heartbeat: Heartbeat) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end(*_: object) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(stop.set)

    # Not loop.add_signal_handler: the loop removes its handlers when it closes, before the process is gone,
    # and a second signal would then kill it.
    for number in ENDING_SIGNALS:
        signal.signal(number, end)
    serving = asyncio.ensure_future(serve(stop))
    stopping = asyncio.ensure_future(stop.wait())
    async with heartbeat.beating():
        await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    done, _ = await asyncio.wait([serving], timeout=STOP_SECONDS)
    if not done:
        logger.warning("%s cut short after %s s; the broker requeues what is unfinished", name, STOP_SECONDS)
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([serving], timeout=0.5)
        return
    serving.result()
    logger.info("%s ended", name)
