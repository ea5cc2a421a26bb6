"""Start what setup.sh runs, then the four services, and show in one terminal what they log.

Behind ./start_microservice.sh. Until setup.sh has brought the environment this runs on the system's
Python and its standard library alone, and then goes on in the environment.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from launcher.log_windows import NoWindowsError, open_windows
from launcher.supervisor import Program, Request, Supervisor, Terminal

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv" / "bin" / "python"

SERVICES = (
    "market_data_collector_service",
    "data_storage_service",
    "signal_service",
    "trading_engine_service",
)

# The demo trades nothing but the local exchange's market, whatever the settings for the real one are.
DEMO_SWITCHES = {"DUMP_ORDERBOOK_TO_DB": "true", "DUMP_ORDER_TO_DB": "true", "REAL_ORDER_SENDING": "false"}


class CannotStartError(Exception):
    """Something that only the user can put right; the text says what."""


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; an unknown option ends with the usage and exit status 2."""
    parser = argparse.ArgumentParser(
        prog="./start_microservice.sh",
        description="Start the infrastructure (./setup.sh) and the four services. Their logs are"
        " shown here, each line marked with its service, and kept in logs/<service>.log."
        " Ctrl-C ends all of them.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--demo",
        action="store_true",
        help="add a local exchange and two subscriptions (spot BTCUSDT, linear BTCPERP); works on"
        " the database and the virtual host 'demo', which are emptied first",
    )
    parser.add_argument(
        "--seconds",
        type=_positive_seconds,
        metavar="N",
        help="end the demo after N seconds of trading with a table of what it did; exit status 0"
        " only when every service was alive to the end and trades were stored",
    )
    parser.add_argument(
        "--windows",
        action="store_true",
        help="show each service's log in a window of its own (tmux, or a desktop terminal)",
    )
    parser.add_argument(
        "--logs",
        type=Path,
        default=ROOT / "logs",
        metavar="FOLDER",
        help="where the log files go (default: logs/ beside this script)",
    )
    parser.add_argument(
        "--no-setup",
        action="store_true",
        help="leave out ./setup.sh, and for the demo the emptying: all is there already",
    )
    parsed = parser.parse_args(arguments)
    if parsed.seconds is not None and not parsed.demo:
        parser.error("--seconds goes with --demo only")
    return parsed


def _positive_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number of seconds, was {text!r}")
    return seconds


async def set_up(*, demo: bool) -> int:
    """Run setup.sh, for the demo with its settings and emptied; return its exit status."""
    request = Request()
    request.watch_signals()
    commands = [["./setup.sh"], ["./setup.sh", "reset", "--yes"]] if demo else [["./setup.sh"]]
    for command in commands:
        # In this process group and on this terminal: it may have to ask for a password.
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
        done = asyncio.create_task(process.wait())
        asked = asyncio.create_task(request.wait())
        await asyncio.wait({done, asked}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if request.signal is not None:
            if process.returncode is None:
                process.terminate()
            await done
            return 128 + request.signal
        if await done:
            print(f"{' '.join(command)} failed with exit status {done.result()}", file=sys.stderr)
            return done.result() if done.result() > 0 else 1
    return 0


async def launch(
    programs: Sequence[Program],
    logs: Path,
    *,
    demo: bool = False,
    seconds: float | None = None,
    windows: bool = False,
) -> int:
    """Run the programs until the end is asked for; return the exit status of the launcher.

    With `demo` the subscriptions are made, and after `seconds` of trading it ends by itself; then a program
    that dies is the end, too, instead of being started again.
    """
    request = Request()
    request.watch_signals()
    names = [program.name for program in programs]
    views = open_windows(names, logs) if windows else None
    terminal = Terminal(max(map(len, names)), request.ask_from_thread)
    supervisor = Supervisor(terminal, logs, restart=seconds is None, show_programs=views is None)
    try:
        for program in programs:
            supervisor.start(program)
        if views is not None:
            supervisor.say(views.where)
        if demo:
            from launcher import demo as market  # noqa: PLC0415 - it needs the environment, and the demo's settings

            status = await market.play(supervisor, terminal, request, seconds)
        else:
            await request.wait()
            status = 0
        supervisor.say("ending")
        clean = await supervisor.stop()
        return status if clean else status or 1
    finally:
        await supervisor.stop()
        supervisor.close()
        terminal.close()
        if views is not None:
            views.close()


def service_programs() -> list[Program]:
    """Return the four services as programs of this checkout's environment."""
    return [Program(name, (str(PYTHON), str(ROOT / f"{name}.py"))) for name in SERVICES]


def exchange_program() -> Program:
    """Return the local exchange on a free port, and have the collector stream from there."""
    port = next(port for port in range(9500, 9600) if port_is_free("127.0.0.1", port))
    os.environ["BYBIT_WS_URL"] = f"ws://127.0.0.1:{port}"
    command = [str(PYTHON), "-m", "local_exchange", "--port", str(port)]
    shared = ROOT / os.environ.get("BLACKBIRD_SHARED", "../shared")
    recording = (shared / "recordings" / "btc_depth50.ndjson.gz").resolve()
    if recording.exists():
        command += ["--recording", str(recording)]
        print(f"local exchange on port {port}, replaying {recording}", flush=True)
    else:
        print(
            f"local exchange on port {port}, with its synthetic market: there is no {recording}", flush=True
        )
    return Program("local_exchange", tuple(command))


def check_collector_port() -> None:
    """Raise CannotStartError where the collector's port is taken, perhaps by another Blackbird."""
    from config import Config, InvalidSetting  # noqa: PLC0415 - its settings are those of the demo where it is one

    try:
        host, port = Config.COLLECTOR_HOST, Config.COLLECTOR_PORT
    except InvalidSetting as error:
        raise CannotStartError(f"setting {error}") from None
    if not port_is_free(host, port):
        raise CannotStartError(
            f"port {port} is taken: another Blackbird may be running;"
            " end it, or set COLLECTOR_PORT to a free one"
        )


def port_is_free(host: str, port: int) -> bool:
    """Tell whether a server could listen on the port."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((host, port))
        except OSError:
            return False
    return True


def lock(logs: Path) -> IO[str]:
    """Take the log folder for this launcher alone, for as long as the file stays open."""
    logs.mkdir(parents=True, exist_ok=True)
    file = (logs / "launcher.lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise CannotStartError(
            f"already started from here, by process {file.read().strip()}, which logs to {logs};"
            " end that one first, or choose another folder with --logs"
        ) from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def main(arguments: Sequence[str] | None = None, programs: Sequence[Program] | None = None) -> int:
    """Do what the command line asks for, with `programs` in place of the four services where given."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse_arguments(arguments)
    logs = options.logs.resolve()
    os.chdir(ROOT)
    if options.demo:
        # A database and a virtual host of its own, which setup.sh empties.
        name = os.environ.get("DEMO_NAME", "demo")
        os.environ.update(DEMO_SWITCHES, POSTGRES_DB=name, RABBITMQ_VHOST=name)
    try:
        locked = lock(logs)
        if not options.no_setup and (status := asyncio.run(set_up(demo=options.demo))):
            return status
        if Path(sys.prefix).resolve() != PYTHON.parent.parent.resolve():
            locked.close()
            settled = ["--logs", str(logs), "--no-setup"]
            os.execv(PYTHON, [str(PYTHON), "-m", "launcher", *arguments, *settled])  # noqa: S606 - no shell is wanted
        if programs is None:
            check_collector_port()
            programs = service_programs()
        if options.demo:
            programs = [exchange_program(), *programs]
        return asyncio.run(
            launch(programs, logs, demo=options.demo, seconds=options.seconds, windows=options.windows)
        )
    except (CannotStartError, NoWindowsError) as error:
        print(f"start_microservice.sh: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
