"""Start the servers, then the services, and show in one terminal what they log.

Behind ./start_microservice.sh. Before setup.sh has made or updated the environment this runs on the standard
library alone, perhaps the system's; afterwards it replaces itself by the same command in the environment.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from blackbird import __version__
from blackbird.runtime.process import EXIT_INVALID_SETTING
from launcher.replay import Replay, ReplayError, set_apart
from launcher.stop_request import StopRequest
from launcher.supervisor import Program, Supervisor
from launcher.terminal import Terminal
from launcher.tmux_windows import NoWindowsError, check_tmux, open_windows

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv" / "bin" / "python"

SERVICES = (
    "market_data_collector_service",
    "data_storage_service",
    "signal_service",
    "trading_engine_service",
)

MONITOR = "monitor_service"

# The demo trades only on the local exchange's market, whatever the settings for the real one are.
DEMO_SWITCHES = {"DUMP_ORDERBOOK_TO_DB": "true", "DUMP_ORDER_TO_DB": "true", "REAL_ORDER_SENDING": "false"}

# Set for the launcher that takes over in the environment once setup.sh has run.
SETUP_DONE = "BLACKBIRD_SETUP_DONE"

SERVERS_STAY = "the database and the broker keep running; ./setup.sh stop stops them"


class AlreadyRunningError(Exception):
    """Another launcher uses the same log folder; the text says which."""


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; an unknown option ends with the usage and exit status 2."""
    parser = argparse.ArgumentParser(
        prog="./start_microservice.sh",
        description="Start the servers (./setup.sh) and the four services. Their logs are shown here,"
        " each line marked with its service, and kept in logs/<service>.log. Ctrl-C ends the services;"
        " the servers keep running until ./setup.sh stop.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"blackbird {__version__}")
    _add_markets(parser)
    _add_manners(parser)
    return _completed(parser, parser.parse_args(arguments))


def _add_markets(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which market is traded, and for how long."""
    parser.add_argument(
        "--demo",
        action="store_true",
        help="add a local exchange and two subscriptions (spot BTCUSDT, linear BTCPERP); works on"
        " the database and the virtual host 'demo', which are emptied first",
    )
    parser.add_argument(
        "--replay",
        type=_span,
        metavar="FROM..TO",
        help="play what the database has of this time (as export.py takes it) through a local exchange and"
        " the services, on the database and the virtual host 'replay', which are emptied first; it ends by"
        " itself, and logs to logs/replay",
    )
    parser.add_argument(
        "--speed",
        type=_positive_seconds,
        default=1.0,
        metavar="X",
        help="how many times as fast as it was the replay is played (default: 1)",
    )
    parser.add_argument(
        "--seconds",
        type=_positive_seconds,
        metavar="N",
        help="end the demo after N seconds of trading; exit status 0 only when every service was"
        " alive to the end and trades were stored",
    )


def _add_manners(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is shown, and where logs go."""
    parser.add_argument(
        "--monitor",
        action=argparse.BooleanOptionalAction,
        help="show a page of what happens at http://127.0.0.1:8001 (MONITOR_PORT); nothing depends on it."
        " The demo has it unless --no-monitor is given",
    )
    parser.add_argument(
        "--windows",
        action="store_true",
        help="show each service's log in a tmux window of its own instead of here",
    )
    parser.add_argument(
        "--logs",
        type=Path,
        metavar="FOLDER",
        help="where the log files go (default: logs/ beside this script)",
    )
    parser.add_argument(
        "--no-setup",
        action="store_true",
        help="do not run ./setup.sh, and for the demo do not empty anything: the servers run already",
    )


def _completed(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> argparse.Namespace:
    """Return what was asked for with what follows from it; options at odds end with the usage."""
    if parsed.seconds is not None and not parsed.demo:
        parser.error("--seconds goes with --demo only")
    if parsed.monitor is None:
        parsed.monitor = parsed.demo
    if parsed.demo and parsed.replay:
        parser.error("--demo goes without --replay")
    if parsed.logs is None:
        parsed.logs = ROOT / "logs" / "replay" if parsed.replay else ROOT / "logs"
    return parsed


def _span(text: str) -> tuple[str, str]:
    begin, separator, end = text.partition("..")
    if not (begin and separator and end):
        raise argparse.ArgumentTypeError(f"expected FROM..TO, was {text!r}")
    return begin, end


def _positive_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number of seconds, was {text!r}")
    return seconds


async def run_setup(*arguments: str) -> int:
    """Run setup.sh and return its exit status, 128 + the signal where the user ends it."""
    request = StopRequest()
    request.watch_signals()
    command = ["./setup.sh", *arguments]
    # In this process group and on this terminal: it may have to ask for a password.
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
    done = asyncio.create_task(process.wait())
    requested = asyncio.create_task(request.wait())
    await asyncio.wait({done, requested}, return_when=asyncio.FIRST_COMPLETED)
    requested.cancel()
    if request.signal is not None:
        if process.returncode is None:
            process.terminate()
        await done
        return 128 + request.signal
    status = await done
    if status:
        print(f"{' '.join(command)} failed with exit status {status}", file=sys.stderr)
    return abs(status)


async def launch(
    programs: Sequence[Program],
    logs: Path,
    *,
    notices: Sequence[str] = (),
    demo: bool = False,
    seconds: float | None = None,
    replay: Replay | None = None,
    windows: bool = False,
) -> int:
    """Run the programs until the end is requested; return the exit status of the launcher.

    `notices` are logged first. With `demo` the subscriptions are made, and after `seconds` of trading it
    ends by itself; a program that dies is not restarted then but ends the demo. So it is with `replay`.
    """
    request = StopRequest()
    request.watch_signals()
    names = [program.name for program in programs]
    views = open_windows(names, logs) if windows else None
    width = max(map(len, names))
    if demo and views is None and sys.stdout.isatty():
        from launcher.live_terminal import open_live  # noqa: PLC0415 - needs the environment

        terminal: Terminal = open_live(width, request.request_from_thread)
    else:
        terminal = Terminal(width, request.request_from_thread)
    supervisor = Supervisor(
        terminal, logs, restart=seconds is None and replay is None, show_programs=views is None
    )
    try:
        for notice in notices:
            supervisor.say(notice)
        for program in programs:
            supervisor.start(program)
        if views is not None:
            supervisor.say(views.where)
        if demo or replay is not None:
            from launcher import demo as market  # noqa: PLC0415 - needs the environment, and the demo's settings

            status = await market.play(supervisor, terminal, request, seconds, replay)
        else:
            status = await _watch(supervisor, request)
        clean = await supervisor.stop()
        supervisor.say(SERVERS_STAY)
        if supervisor.any_invalid_setting():
            return EXIT_INVALID_SETTING
        return status if clean else status or 1
    finally:
        await supervisor.stop()
        supervisor.close()
        terminal.close()
        if views is not None:
            views.close()


async def _watch(supervisor: Supervisor, request: StopRequest) -> int:
    """Return 0 once the end is requested, 1 where a program is not restarted any more."""
    requested = asyncio.create_task(request.wait())
    gave_up = asyncio.create_task(supervisor.wait_until_one_gives_up())
    await asyncio.wait({requested, gave_up}, return_when=asyncio.FIRST_COMPLETED)
    requested.cancel()
    gave_up.cancel()
    supervisor.say("ending all services" if request.is_set() else "ending all services: one cannot run")
    return 0 if request.is_set() else 1


def service_programs() -> list[Program]:
    """Return the four services as programs of this checkout's environment."""
    return [Program(name, (str(PYTHON), str(ROOT / f"{name}.py"))) for name in SERVICES]


def monitor_program() -> tuple[Program, str]:
    """Return the monitor, on the next free port where its own is taken, and where its page is."""
    from launcher.preflight import free_monitor_port  # noqa: PLC0415 - needs the environment

    host, port = free_monitor_port()
    os.environ["MONITOR_PORT"] = str(port)
    command = (str(PYTHON), str(ROOT / f"{MONITOR}.py"))
    return Program(MONITOR, command, optional=True), f"to look at it: http://{host}:{port}"


def exchange_program(replay: Replay | None = None) -> tuple[Program, str]:
    """Return the local exchange on a free port, and what it plays; have the collector stream from there."""
    from launcher.preflight import port_is_free  # noqa: PLC0415 - needs the environment

    port = next(port for port in range(9500, 9600) if port_is_free("127.0.0.1", port))
    os.environ["BYBIT_WS_URL"] = f"ws://127.0.0.1:{port}"
    command = [str(PYTHON), "-m", "local_exchange", "--port", str(port)]
    if replay is not None:
        market = f"replays {replay.recording} at {replay.speed:g} times its speed"
        command += replay.exchange_options
        return Program("local_exchange", tuple(command)), f"the local exchange on port {port} {market}"
    shared = ROOT / os.environ.get("BLACKBIRD_SHARED", "../shared")
    recording = (shared / "recordings" / "btc_depth50.ndjson.gz").resolve()
    if recording.exists():
        command += ["--recording", str(recording)]
        market = f"replays {recording}"
    else:
        market = f"generates a synthetic market (no recording at {recording})"
    return Program("local_exchange", tuple(command)), f"the local exchange on port {port} {market}"


def lock(logs: Path) -> IO[str]:
    """Take the log folder for this launcher alone, for as long as the file stays open."""
    logs.mkdir(parents=True, exist_ok=True)
    file = (logs / "launcher.lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise AlreadyRunningError(
            f"already started from here, by process {file.read().strip()}, which logs to {logs};"
            " end that one first, or choose another folder with --logs"
        ) from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def show_mode(*, demo: bool) -> None:
    """Say where orders go, as the first line, as far as that is known before setup.sh has run."""
    mode = "SIMULATED ORDERS"
    if not demo:
        try:
            from launcher import preflight  # noqa: PLC0415 - the environment may be missing or outdated
        except ImportError:
            return
        mode = preflight.order_mode()
    print(mode, flush=True)


def start_in_environment(options: argparse.Namespace, logs: Path, programs: Sequence[Program] | None) -> int:
    """Check what can be checked, empty the demo's database and virtual host, and run the programs."""
    from launcher import preflight  # noqa: PLC0415 - needs the environment, and the demo's settings

    notices = [preflight.order_mode(), preflight.changed_settings()]
    try:
        if programs is None:
            preflight.check_collector_port()
    except preflight.CannotStartError as error:
        return _fail(error)
    apart = options.demo or options.replay
    if apart and not options.no_setup and (status := asyncio.run(run_setup("reset", "--yes"))):
        return status
    monitored = options.monitor and programs is None
    programs = list(service_programs() if programs is None else programs)
    replay = None
    if options.replay:
        try:
            replay = prepare_replay(options, logs)
        except ReplayError as error:
            return _fail(error)
    if apart:
        exchange, market = exchange_program(replay)
        programs = [exchange, *programs]
        notices.append(market)
    if monitored:
        monitor, where = monitor_program()
        programs = [*programs, monitor]
        notices.append(where)
    return asyncio.run(
        launch(
            programs,
            logs,
            notices=notices,
            demo=options.demo,
            seconds=options.seconds,
            replay=replay,
            windows=options.windows,
        )
    )


def prepare_replay(options: argparse.Namespace, logs: Path) -> Replay:
    """Export what the command line asks for, and return what there is to play; raises ReplayError."""
    from launcher import preflight, replay  # noqa: PLC0415 - need the environment

    recording = replay.export(PYTHON, ROOT, options.replay, logs)
    port = next(port for port in range(9600, 9700) if preflight.port_is_free("127.0.0.1", port))
    return replay.prepare(recording, options.speed, port)


def _fail(error: Exception) -> int:
    print(f"start_microservice.sh: {error}", file=sys.stderr)
    return 1


def main(arguments: Sequence[str] | None = None, programs: Sequence[Program] | None = None) -> int:
    """Do what the command line asks for, with `programs` in place of the four services where given."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse_arguments(arguments)
    logs = options.logs.resolve()
    os.chdir(ROOT)
    if options.demo:
        # A database and a virtual host of its own, which are emptied.
        name = os.environ.get("DEMO_NAME", "demo")
        os.environ.update(DEMO_SWITCHES, POSTGRES_DB=name, RABBITMQ_VHOST=name)
    if options.replay:
        os.environ.update(DEMO_SWITCHES, **set_apart(os.environ))
    try:
        if options.windows:
            check_tmux()
        locked = lock(logs)
        setup_done = os.environ.pop(SETUP_DONE, "")
        if not setup_done:
            show_mode(demo=options.demo or options.replay is not None)
        if setup_done or options.no_setup:
            if Path(sys.prefix).resolve() == PYTHON.parent.parent.resolve():
                return start_in_environment(options, logs, programs)
        elif status := asyncio.run(run_setup()):
            return status
        locked.close()
        os.environ[SETUP_DONE] = "1"
        os.execv(PYTHON, [str(PYTHON), "-m", "launcher", *arguments, "--logs", str(logs)])  # noqa: S606 - no shell
    except (AlreadyRunningError, NoWindowsError) as error:
        return _fail(error)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
