"""The launcher with real processes: small scripts in place of the services, and the demo as it is."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

import psycopg2
import pytest

from blackbird import __version__
from config import Config
from launcher.__main__ import MONITOR, SERVICES
from launcher.queues import QueueState, look_up
from tests.support.workspace import Workspace, free_port, management

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
START = str(ROOT / "start_microservice.sh")

# The launcher as start_microservice.sh runs it, but with the programs of the first argument.
DRIVER = """
import json, sys
import launcher.__main__ as launcher
from launcher.supervisor import Program
programs = [Program(name, tuple(command)) for name, command in json.loads(sys.argv[1])]
sys.exit(launcher.main(sys.argv[2:], programs))
"""

OBEDIENT = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
print("running as", os.getpid(), flush=True)
while True: signal.pause()
"""
STUBBORN = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("running as", os.getpid(), flush=True)
while True: signal.pause()
"""


def python(script: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", script, *arguments]


def environment(**settings: str) -> dict[str, str]:
    """Return this process's environment without what would change how the launcher's children print."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return {**inherited, "PYTHONPATH": str(ROOT), **settings}


def until(condition: Callable[[], T], what: str, seconds: float = 20) -> T:
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return result


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


class Run:
    """One launcher, its terminal in a file, and the processes that it started."""

    def __init__(self, folder: Path, stdout: int | None = None) -> None:
        self.logs = folder / "logs"
        self.output = folder / "terminal"
        self._stdout = stdout
        self.pids: set[int] = set()
        self.process: subprocess.Popen[bytes]

    def start(self, programs: dict[str, list[str]], *options: str, **settings: str) -> Run:
        command = [sys.executable, "-c", DRIVER, json.dumps(list(programs.items()))]
        command += ["--no-setup", "--logs", str(self.logs), *options]
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output if self._stdout is None else self._stdout,
                stderr=output,
                cwd=self.output.parent,
                env=environment(**settings),
            )
        return self

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def log(self, name: str) -> str:
        path = self.logs / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def pid_of(self, name: str) -> int:
        """Wait until the script has said that it runs, and return its process id (the latest)."""
        said = until(lambda: re.findall(r"running as (\d+)", self.log(name)), f"{name} runs")
        self.pids.add(int(said[-1]))
        return int(said[-1])

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)

    def clean_up(self) -> None:
        if hasattr(self, "process") and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in self.pids:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    started = Run(tmp_path)
    yield started
    started.clean_up()


def test_lines_are_marked_with_their_service_and_kept_in_its_log_file(run: Run) -> None:
    speaks = (
        "import sys; print('one', flush=True); print('two', file=sys.stderr, flush=True);"
        "sys.stdout.buffer.write(b'caf\\xe9 \\xe2\\x82\\xac\\nno newline'); sys.stdout.flush();"
        f"exec({OBEDIENT!r})"
    )
    run.start({"short": python(speaks), "much_longer": python(OBEDIENT)})
    until(lambda: "running as" in run.log("short"), "all lines of short")
    run.pid_of("much_longer")
    assert run.end() == 0

    lines = run.text().splitlines()
    assert "short       | one" in lines
    assert "short       | two" in lines
    assert "short       | caf\ufffd €" in lines
    assert any(line.startswith("much_longer | running as ") for line in lines)
    assert any(
        re.fullmatch(r"launcher    \| [-0-9]{10} [:0-9]{8} short started, pid \d+", line) for line in lines
    )
    assert run.log("short").splitlines()[:3] in (["one", "two", "caf\ufffd €"], ["two", "one", "caf\ufffd €"])
    assert "one" not in run.log("much_longer")


def test_a_line_without_end_is_cut_and_nothing_of_it_is_lost(run: Run) -> None:
    run.start(
        {"endless": python(f"import sys; sys.stdout.write('x' * 2_000_000 + '\\n'); exec({OBEDIENT!r})")}
    )
    run.pid_of("endless")
    assert run.end() == 0
    lines = run.log("endless").splitlines()
    assert sum(line.count("x") for line in lines) == 2_000_000
    assert max(map(len, lines)) < 1_000_000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_end_leaves_no_process_behind(run: Run, number: signal.Signals) -> None:
    # The second one has a child of its own that nobody else would end.
    parent = (
        f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', {STUBBORN!r}]);"
        f"print('child', child.pid); exec({OBEDIENT!r})"
    )
    run.start({"single": python(OBEDIENT), "parent": python(parent)})
    pids = {run.pid_of("single")}
    until(lambda: len(re.findall("running as", run.log("parent"))) == 2, "parent and its child run")
    pids |= {int(pid) for pid in re.findall(r"running as (\d+)", run.log("parent"))}
    run.pids |= pids
    assert all(is_alive(pid) for pid in pids)

    assert run.end(number) == 0
    # The grandchild's end is the kernel's business after the launcher has killed its group.
    until(lambda: not any(is_alive(pid) for pid in pids), "every process is gone")


@pytest.mark.parametrize("typed", ["\x03", ""], ids=["control-c", "closed"])
def test_control_c_in_a_terminal_ends_all_and_so_does_closing_it(run: Run, typed: str) -> None:
    terminal, inside = pty.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(inside, termios.TIOCSCTTY, 0)

    run.process = subprocess.Popen(
        [*python(DRIVER, json.dumps([("one", python(OBEDIENT))])), "--no-setup", "--logs", str(run.logs)],
        stdin=inside,
        stdout=inside,
        stderr=inside,
        env=environment(),
        start_new_session=True,
        preexec_fn=take_terminal,  # noqa: PLW1509 - pytest runs no threads here
    )
    os.close(inside)
    pid = run.pid_of("one")
    os.write(terminal, typed.encode())
    if not typed:
        os.close(terminal)
    assert run.process.wait(20) == 0
    assert not is_alive(pid)
    if typed:
        os.close(terminal)


def test_a_program_that_does_not_end_in_time_is_killed_and_reported(run: Run) -> None:
    run.start({"stubborn": python(STUBBORN), "obedient": python(OBEDIENT)})
    pids = [run.pid_of("stubborn"), run.pid_of("obedient")]
    assert run.end() == 1
    assert not any(is_alive(pid) for pid in pids)
    assert "stubborn did not end within 4.5 s: killed" in run.text()
    assert "obedient did not end" not in run.text()


def test_an_unclean_end_when_told_to_end_shows_in_the_exit_status(run: Run) -> None:
    run.start({"fails": python(OBEDIENT.replace("sys.exit(0)", "sys.exit(7)"))})
    run.pid_of("fails")
    assert run.end() == 1
    assert "fails ended with exit status 7 when told to end" in run.text()


def test_a_service_that_dies_is_reported_and_restarted(run: Run, tmp_path: Path) -> None:
    # Ends with status 3 once, then runs.
    once = (
        f"import pathlib, sys; mark = pathlib.Path({str(tmp_path / 'mark')!r})\n"
        "if not mark.exists(): mark.touch(); print('last words', end=''); sys.exit(3)\n"
    )
    run.start({"dies": python(once + OBEDIENT), "lives": python(OBEDIENT)})
    lives, first = run.pid_of("lives"), run.pid_of("dies")
    assert "dies ended with exit status 3: restarting in 0.5 s" in run.text()
    until(lambda: "dies  | last words" in run.text(), "its last words")

    os.kill(first, signal.SIGKILL)
    until(lambda: "dies was killed by SIGKILL: restarting in 1.0 s" in run.text(), "the report of its death")
    until(lambda: run.pid_of("dies") != first, "it runs again")
    assert run.pid_of("lives") == lives
    assert run.end() == 0
    assert not is_alive(lives)


def test_an_invalid_setting_ends_everything_instead_of_being_retried(run: Run) -> None:
    invalid = "import sys; print('setting COLOUR: expected red, was blue'); sys.exit(78)"
    run.start({"invalid": python(invalid), "lives": python(OBEDIENT)})
    assert run.process.wait(20) == 78
    assert "invalid | setting COLOUR: expected red, was blue" in run.text()
    assert run.text().count("invalid started") == 1
    assert not re.findall("running as", run.log("lives")) or not is_alive(run.pid_of("lives"))


def test_it_says_that_the_servers_keep_running(run: Run) -> None:
    run.start({"one": python(OBEDIENT)})
    run.pid_of("one")
    assert run.end(signal.SIGINT) == 0
    assert "the database and the broker keep running; ./setup.sh stop stops them" in run.text()


@pytest.mark.parametrize(
    ("settings", "mode"),
    [
        ({"REAL_ORDER_SENDING": "false"}, "SIMULATED ORDERS"),
        ({"BYBIT_ENVIRONMENT": "demo"}, "REAL ORDERS to api-demo.bybit.com"),
        ({"BYBIT_ENVIRONMENT": "testnet"}, "REAL ORDERS to api-testnet.bybit.com"),
        ({"BYBIT_REST_URL": "http://127.0.0.1:1/path"}, "REAL ORDERS to 127.0.0.1:1"),
    ],
)
def test_the_first_line_says_where_orders_go(run: Run, settings: dict[str, str], mode: str) -> None:
    real = {"REAL_ORDER_SENDING": "true", "API_KEY": "k", "API_SECRET": "s"}
    run.start({"one": python(OBEDIENT)}, **{**real, **settings})
    run.pid_of("one")
    assert run.end() == 0
    assert run.text().splitlines()[0] == mode
    assert run.log("launcher").splitlines()[0].endswith(mode)


def test_settings_that_are_not_at_their_defaults_are_shown_without_secrets(run: Run) -> None:
    run.start({"one": python(OBEDIENT)}, COLLECTOR_PORT="8123", ORDERBOOK_DEPTH="50", API_SECRET="hush-hush")
    run.pid_of("one")
    assert run.end() == 0
    (line,) = re.findall("settings other than the defaults: (.*)", run.text())
    shown = dict(each.split("=", 1) for each in line.split())
    assert (shown["COLLECTOR_PORT"], shown["API_SECRET"]) == ("8123", "***")
    assert "ORDERBOOK_DEPTH" not in shown
    assert "hush-hush" not in run.text() + run.log("launcher")


def test_a_program_that_cannot_be_started_is_reported(run: Run) -> None:
    run.start({"missing": ["/nonexistent/program"], "lives": python(OBEDIENT)})
    run.pid_of("lives")
    until(lambda: "missing cannot be started: [Errno 2]" in run.text(), "the report")
    assert run.end() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal at the parent's death is Linux's")
def test_programs_end_when_the_launcher_is_killed(run: Run) -> None:
    run.start({"one": python(OBEDIENT), "two": python(OBEDIENT)})
    pids = [run.pid_of("one"), run.pid_of("two")]
    run.process.kill()
    run.process.wait()
    until(lambda: not any(is_alive(pid) for pid in pids), "both are gone")


def test_a_terminal_that_takes_nothing_stops_neither_the_programs_nor_the_end(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    run = Run(tmp_path, stdout=writer)
    lines = 200_000
    try:
        run.start({"chatty": python(f"for n in range({lines}): print(n)\n{OBEDIENT}")})
        os.close(writer)
        pid = run.pid_of("chatty")
        assert len(run.log("chatty").splitlines()) == lines + 1
        assert run.end() == 0
        assert not is_alive(pid)
    finally:
        run.clean_up()
        os.close(reader)


def test_everything_ends_when_nothing_reads_the_terminal_any_more(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    run = Run(tmp_path, stdout=writer)
    try:
        run.start({"one": python(OBEDIENT.replace("signal.pause()", "print(1)"))})
        os.close(writer)
        pid = run.pid_of("one")
        os.close(reader)
        assert run.process.wait(20) == 0
        assert not is_alive(pid)
    finally:
        run.clean_up()


ROTATING = """
import asyncio, os, sys
from pathlib import Path
from launcher.supervisor import Program, Supervisor
from launcher.terminal import Terminal

async def supervise(logs, *command):
    terminal = Terminal(5, lambda: None, os.open(os.devnull, os.O_WRONLY))
    supervisor = Supervisor(terminal, logs, log_size=20_000, log_copies=2)
    supervisor.start(Program("noisy", command))
    while "running as" not in (logs / "noisy.log").read_text():
        await asyncio.sleep(0.02)
    assert await supervisor.stop()
    supervisor.close()
    terminal.close()

asyncio.run(supervise(Path(sys.argv[1]), *sys.argv[2:]))
"""


def test_log_files_are_rotated_and_only_so_many_kept(tmp_path: Path) -> None:
    noisy = python(f"for n in range(5000): print(n, 'x' * 90)\n{OBEDIENT}")
    (tmp_path / "noisy.log").touch()
    command = python(ROTATING, str(tmp_path), *noisy)
    subprocess.run(command, env=environment(), check=True, timeout=20)
    kept = sorted(path.name for path in tmp_path.glob("noisy*"))
    assert kept == ["noisy.log", "noisy.log.1", "noisy.log.2"]
    assert all((tmp_path / name).stat().st_size <= 20_000 for name in kept)
    numbers = [int(line.split()[0]) for line in (tmp_path / "noisy.log.1").read_text().splitlines()]
    assert numbers == list(range(numbers[0], numbers[-1] + 1))


OPTIONAL = """
import asyncio, os, sys
from pathlib import Path
from launcher.supervisor import Program, Supervisor
from launcher.terminal import Terminal

async def supervise(logs, dying, lasting):
    terminal = Terminal(5, lambda: None, os.open(os.devnull, os.O_WRONLY))
    supervisor = Supervisor(terminal, logs, restart=False)
    supervisor.start(Program("extra", (sys.executable, "-c", dying), optional=True))
    supervisor.start(Program("needed", (sys.executable, "-c", lasting)))
    log = logs / "launcher.log"
    while log.read_text().count("extra ended with exit status 3") < 2 or not (logs / "needed.log").exists():
        await asyncio.sleep(0.02)
    assert not supervisor.any_gave_up()
    assert await supervisor.stop()
    supervisor.close()
    terminal.close()

asyncio.run(supervise(Path(sys.argv[1]), *sys.argv[2:]))
"""


def test_a_program_that_nothing_depends_on_may_die_and_is_restarted(tmp_path: Path) -> None:
    (tmp_path / "launcher.log").touch()
    command = python(OPTIONAL, str(tmp_path), "raise SystemExit(3)", OBEDIENT)
    subprocess.run(command, env=environment(), check=True, timeout=30)


def test_a_second_launcher_on_the_same_log_files_is_refused(run: Run, tmp_path: Path) -> None:
    run.start({"one": python(OBEDIENT)})
    pid = run.pid_of("one")
    second = subprocess.run(
        [*python(DRIVER, "[]"), "--no-setup", "--logs", str(run.logs)],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert second.returncode == 1
    assert f"already started from here, by process {run.process.pid}" in second.stderr
    assert is_alive(pid)
    assert run.end() == 0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--windoes"], "unrecognized arguments: --windoes"),
        (["extra"], "unrecognized arguments: extra"),
        (["--seconds", "5"], "--seconds goes with --demo only"),
        (["--demo", "--seconds", "soon"], "expected a positive number of seconds, was 'soon'"),
        (["--demo", "--seconds", "-1"], "expected a positive number of seconds, was '-1'"),
        (["--demo", "--seconds", "nan"], "expected a positive number of seconds, was 'nan'"),
    ],
)
def test_a_wrong_command_line_is_answered_with_the_usage(
    options: list[str], complaint: str, tmp_path: Path
) -> None:
    answer = subprocess.run(
        [START, *options], cwd=tmp_path, capture_output=True, text=True, timeout=20, check=False
    )
    assert answer.returncode == 2
    assert "usage: ./start_microservice.sh" in answer.stderr
    assert complaint in answer.stderr


def test_help_names_every_option(tmp_path: Path) -> None:
    answer = subprocess.run(
        [START, "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=20, check=False
    )
    assert answer.returncode == 0
    for option in ("--demo", "--seconds", "--monitor", "--windows", "--logs", "--no-setup", "--version"):
        assert option in answer.stdout


def test_a_taken_collector_port_is_reported_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        answer = subprocess.run(
            [START, "--no-setup", "--logs", str(tmp_path)],
            env={**os.environ, "COLLECTOR_PORT": port},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    assert answer.returncode == 1
    assert f"port {port} is taken" in answer.stderr
    assert "COLLECTOR_PORT" in answer.stderr
    assert not list(tmp_path.glob("*.log"))


def test_windows_without_tmux_are_refused_before_anything_starts(run: Run, tmp_path: Path) -> None:
    run.start({"one": python(OBEDIENT)}, "--windows", PATH=str(tmp_path))
    assert run.process.wait(20) == 1
    assert "--windows needs tmux" in run.text()
    assert not run.log("one")


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
def test_windows_in_tmux_show_the_logs_and_are_closed_at_the_end(run: Run, tmp_path: Path) -> None:
    settings = environment(TMUX_TMPDIR=str(tmp_path))
    settings.pop("TMUX", None)

    def tmux(*arguments: str) -> str:
        return subprocess.run(
            ["tmux", *arguments], env=settings, capture_output=True, text=True, timeout=20, check=False
        ).stdout

    run.start(
        {"one": python(OBEDIENT), "two": python(OBEDIENT)}, "--windows", TMUX_TMPDIR=str(tmp_path), TMUX=""
    )
    pid = run.pid_of("one")
    assert tmux("list-windows", "-a", "-F", "#{window_name}").split() == ["one", "two"]
    session = tmux("list-sessions", "-F", "#{session_name}").strip()
    until(lambda: f"tmux attach -t {session}" in run.text(), "where to look")
    until(
        lambda: f"running as {pid}" in tmux("capture-pane", "-p", "-t", f"{session}:one"),
        "the log in the window",
    )
    assert "running as" not in run.text()

    assert run.end() == 0
    assert not tmux("list-windows", "-a")


COLLECTOR_STUB = """
import http.server, sys, threading
class Answer(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        print("body", self.rfile.read(int(self.headers["Content-Length"])).decode(), flush=True)
        self.send_response(int(sys.argv[2])); self.end_headers(); self.wfile.write(b'{"status": "stub"}')
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer)
threading.Thread(target=server.serve_forever, daemon=True).start()
"""


def test_a_demo_with_an_end_fails_when_a_service_dies(run: Run) -> None:
    port = str(free_port())
    programs = {
        "market_data_collector_service": python(COLLECTOR_STUB + OBEDIENT, port, "200"),
        "signal_service": python(OBEDIENT),
    }
    run.start(programs, "--demo", "--seconds", "600", COLLECTOR_PORT=port)
    victim = run.pid_of("signal_service")
    until(lambda: "the demo trades for 600 s" in run.text(), "both subscriptions")
    bodies = [
        '{"symbol": "BTCUSDT", "channel": "spot", "matching_key": "a"}',
        '{"symbol": "BTCPERP", "channel": "linear", "matching_key": "a"}',
    ]
    until(lambda: re.findall("body (.*)", run.log("market_data_collector_service")) == bodies, "both bodies")
    os.kill(victim, signal.SIGKILL)
    assert run.process.wait(30) == 1
    assert "signal_service was killed by SIGKILL\n" in run.text()
    assert "the demo failed: a program ended before the demo was over" in run.text()


def test_a_demo_fails_when_a_subscription_is_refused(run: Run) -> None:
    port = str(free_port())
    programs = {"market_data_collector_service": python(COLLECTOR_STUB + OBEDIENT, port, "400")}
    run.start(programs, "--demo", "--seconds", "600", COLLECTOR_PORT=port)
    assert run.process.wait(30) == 1
    assert "the demo failed: the collector refuses" in run.text()


def test_a_demo_that_is_interrupted_ends_in_the_order_of_the_messages(run: Run, place: Workspace) -> None:
    port = str(free_port())
    last_words = OBEDIENT.replace("sys.exit(0)", "(print('ending', flush=True), sys.exit(0))")
    programs = {
        "trading_engine_service": python(last_words),
        "data_storage_service": python(last_words),
        "signal_service": python(last_words),
        "market_data_collector_service": python(COLLECTOR_STUB + last_words, port, "200"),
    }
    run.start(programs, "--demo", COLLECTOR_PORT=port, DEMO_NAME=place.name)
    for name in programs:
        run.pid_of(name)
    until(
        lambda: len(re.findall("body", run.log("market_data_collector_service"))) == 2, "both subscriptions"
    )
    assert run.end(signal.SIGINT) == 0
    endings = re.findall(r"^(\S+) +\| ending$", run.text(), re.MULTILINE)
    assert endings[:2] == ["market_data_collector_service", "signal_service"]
    assert sorted(endings[2:]) == ["data_storage_service", "trading_engine_service"]
    assert "messages stored" in run.text()


def test_queues_are_looked_up_on_the_broker(place: Workspace) -> None:
    broker = {**Config.BROKER_CONFIG, "virtual_host": place.name}
    channel = place.channel()
    channel.queue_declare("orders", durable=True)
    channel.queue_declare("storage", durable=True)
    channel.basic_publish("", "storage", b"1")
    channel.basic_consume("orders", lambda *_: None)
    until(lambda: look_up(broker, "storage")["storage"].messages, "the message is in the queue")
    assert look_up(broker, "signal", "storage", "orders") == {
        "signal": QueueState(0, 0),
        "storage": QueueState(1, 0),
        "orders": QueueState(0, 1),
    }


def test_the_launcher_needs_nothing_but_the_standard_library_before_setup() -> None:
    # -S: no site-packages, as on a machine where setup.sh has not run yet.
    command = [sys.executable, "-S", "-m", "launcher", "--version"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert (answer.returncode, answer.stdout) == (0, f"blackbird {__version__}\n"), answer.stderr


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """Copy the launcher into a folder with small services, a small setup.sh, and no environment yet."""
    folder = tmp_path / "fresh checkout"
    folder.mkdir()
    for name in ("start_microservice.sh", "config.py"):
        shutil.copy(ROOT / name, folder)
    for package in ("launcher", "blackbird"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (*SERVICES, MONITOR):
        (folder / f"{name}.py").write_text(OBEDIENT)
    setup = folder / "setup.sh"
    setup.write_text(
        '#!/bin/sh\necho "$POSTGRES_DB $RABBITMQ_VHOST $REAL_ORDER_SENDING: $*" >> setups\n'
        f'[ -e .venv ] || ln -s "{Path(sys.prefix)}" .venv\n[ "$SETUP_STATUS" = 0 ] || exit "$SETUP_STATUS"\n'
    )
    setup.chmod(0o755)
    return folder


def start_fresh(folder: Path, output: Path, *options: str, **settings: str) -> subprocess.Popen[bytes]:
    defaults = {
        "COLLECTOR_PORT": str(free_port()),
        "POSTGRES_DB": "live",
        "RABBITMQ_VHOST": "/",
        "REAL_ORDER_SENDING": "0",
        "SETUP_STATUS": "0",
    }
    with output.open("wb") as file:
        return subprocess.Popen(
            [str(folder / "start_microservice.sh"), *options],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd="/",
            env={**os.environ, **defaults, **settings},
        )


def test_a_fresh_checkout_is_set_up_before_the_services_start(fresh: Path, tmp_path: Path) -> None:
    output = tmp_path / "terminal"
    run = Run(fresh)
    launcher = start_fresh(fresh, output)
    pids = []
    try:
        for name in SERVICES:
            pids.append(run.pid_of(name))
        launcher.terminate()
        assert launcher.wait(20) == 0
    finally:
        launcher.kill()
        launcher.wait()
    assert not any(is_alive(pid) for pid in pids)
    # Once, although the launcher went on in the environment that setup.sh had made.
    assert (fresh / "setups").read_text() == "live / 0: \n"
    assert "signal_service                | running as" in output.read_text()


def test_a_failing_setup_is_reported_and_nothing_starts(fresh: Path, tmp_path: Path) -> None:
    output = tmp_path / "terminal"
    assert start_fresh(fresh, output, SETUP_STATUS="5").wait(20) == 5
    assert "./setup.sh failed with exit status 5" in output.read_text()
    assert not list((fresh / "logs").glob("*.log"))


def test_the_demo_empties_a_database_and_virtual_host_of_its_own_and_sends_no_real_orders(
    fresh: Path, tmp_path: Path
) -> None:
    (fresh / "local_exchange.py").write_text(OBEDIENT)  # a module as good as the package
    (fresh / "launcher" / "demo.py").write_text("async def play(*_): return 0\n")
    output = tmp_path / "terminal"
    settings = {"REAL_ORDER_SENDING": "true", "API_KEY": "k", "API_SECRET": "s"}
    assert start_fresh(fresh, output, "--demo", **settings).wait(20) == 0
    assert (fresh / "setups").read_text() == "demo demo false: \ndemo demo false: reset --yes\n"
    assert "SIMULATED ORDERS\n" in output.read_text()


def test_a_demo_on_a_taken_port_empties_nothing(fresh: Path, tmp_path: Path) -> None:
    output = tmp_path / "terminal"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert start_fresh(fresh, output, "--demo", COLLECTOR_PORT=port).wait(20) == 1
    assert f"port {port} is taken" in output.read_text()
    assert "reset" not in (fresh / "setups").read_text()


def test_a_demo_that_cannot_be_emptied_does_not_start(fresh: Path, tmp_path: Path) -> None:
    (fresh / "setup.sh").write_text((fresh / "setup.sh").read_text() + '[ "$1" != reset ] || exit 3\n')
    output = tmp_path / "terminal"
    assert start_fresh(fresh, output, "--demo").wait(20) == 3
    assert "./setup.sh reset --yes failed with exit status 3" in output.read_text()
    assert not list((fresh / "logs").glob("*.log"))


@pytest.fixture
def demo_name() -> Iterator[str]:
    """Name a database and a virtual host for a demo beside the user's own, and remove them afterwards."""
    name = f"demo_{uuid.uuid4().hex[:12]}"
    yield name
    setup = str(ROOT / "setup.sh")
    subprocess.run(
        [setup, "psql", "-qc", f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"], check=True, timeout=60
    )
    management(dict(os.environ), "DELETE", f"vhosts/{name}")


@pytest.fixture
def demo_settings(tmp_path: Path, demo_name: str) -> dict[str, str]:
    return {
        **os.environ,
        "DEMO_NAME": demo_name,
        "COLLECTOR_PORT": str(free_port()),
        "JOURNAL_PATH": str(tmp_path / "journal"),
    }


def stored(demo_name: str) -> dict[str, str]:
    """Return what the closing table has to show, from the database."""
    queries = {
        "messages stored": "SELECT count(*) FROM bybit.orderbook_update",
        "order-book rows": "SELECT count(*) FROM bybit.orderbook",
        "orders: Open Spread": """SELECT count(*) / 2 FROM bybit."order" WHERE action = 'Open Spread'""",
        "PnL closed": "SELECT sum(closed_pnl) FROM bybit.pnl",
        "PnL open at mark": "SELECT sum(open_at_mark) FROM bybit.pnl",
        "PnL total": "SELECT sum(total) FROM bybit.pnl",
        "exposure spot BTCUSDT": """SELECT -sum(flux) FROM bybit."order" WHERE channel = 'spot'""",
        "exposure linear BTCPERP": """SELECT -sum(flux) FROM bybit."order" WHERE symbol_name = 'BTCPERP'""",
    }
    found = {}
    connection = psycopg2.connect(**{**Config.DB_CONFIG, "database": demo_name})  # type: ignore[call-overload]
    with contextlib.closing(connection), connection.cursor() as cursor:
        for what, query in queries.items():
            cursor.execute(query)
            ((value,),) = cursor.fetchall()
            # A demo that ends within a second may have no quote to mark anything at.
            if value is not None:
                found[what] = f"{Decimal(value):f}"
    return found


def check_table(output: str, demo_name: str) -> None:
    expected = stored(demo_name)
    table = dict(re.findall(r"^  (\S.*?)  +(-?[\d,.]+)$", output, re.MULTILINE))
    assert {what: table[what].replace(",", "") for what in expected} == expected
    assert "messages left in the queue" not in table
    assert int(expected["orders: Open Spread"]) > 0
    assert ("PnL total" in table) == ("PnL total" in expected)
    if "PnL total" in expected:
        parts = Decimal(expected["PnL closed"]) + Decimal(expected["PnL open at mark"])
        assert parts == Decimal(expected["PnL total"])


def test_the_demo_trades_and_its_table_is_what_the_database_holds(
    tmp_path: Path, demo_name: str, demo_settings: dict[str, str]
) -> None:
    logs = tmp_path / "logs"
    demo = subprocess.run(
        [START, "--demo", "--seconds", "8", "--logs", str(logs)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        cwd=tmp_path,
        env=demo_settings,
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    check_table(demo.stdout, demo_name)
    for name in ("local_exchange", *SERVICES, MONITOR):
        assert (logs / f"{name}.log").stat().st_size > 0
    assert len(re.findall(r"started, pid", demo.stdout)) == 6
    assert re.search(r"to look at it: http://127\.0\.0\.1:\d+", demo.stdout)


def test_control_c_ends_the_demo_with_its_table_and_without_a_warning(
    tmp_path: Path, demo_name: str, demo_settings: dict[str, str]
) -> None:
    logs, output = tmp_path / "logs", tmp_path / "terminal"
    with output.open("wb") as terminal:
        demo = subprocess.Popen(
            [START, "--demo", "--logs", str(logs)],
            stdin=subprocess.DEVNULL,
            stdout=terminal,
            stderr=terminal,
            env={**demo_settings, "SUMMARY_SECONDS": "1"},
        )
    try:
        until(lambda: re.search(r"\d ACK", Run(tmp_path).log("trading_engine_service")), "trades", 120)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == 0, output.read_text()
    finally:
        demo.kill()
        demo.wait()
    text = output.read_text()
    check_table(text, demo_name)
    assert f"POSTGRES_DB={demo_name} ./setup.sh psql" in text
    assert "./setup.sh stop stops them" in text
    # What a busy machine makes a service warn of before is not about the end.
    _, ending = text.split("ending in order", 1)
    assert not re.findall(r".*(?:WARNING|ERROR|CRITICAL|goodbye).*", ending)


def test_a_demo_on_a_terminal_shows_a_live_table_in_place_of_the_lines(
    tmp_path: Path, demo_name: str, demo_settings: dict[str, str]
) -> None:
    terminal, inside = pty.openpty()
    termios.tcsetwinsize(inside, (40, 160))
    demo = subprocess.Popen(
        [START, "--demo", "--seconds", "8", "--logs", str(tmp_path / "logs")],
        stdin=inside,
        stdout=inside,
        stderr=inside,
        start_new_session=True,
        env={**demo_settings, "NO_COLOR": "1"},
    )
    os.close(inside)
    written = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while chunk := os.read(terminal, 65_536):
            written += chunk
    os.close(terminal)
    assert demo.wait(60) == 0, written.decode()
    text = written.decode().replace("\r\n", "\n")
    frames = text.split("\x1b[J")
    assert len(frames) > 10
    last = frames[-1]
    for part in (
        "2 of 2 streams up",
        "2 of 2 books usable",
        "messages/s",
        "BTCPERP / BTCUSDT",
        "PnL: closed",
    ):
        assert part in last
    assert "PnL: closed" in last
    check_table(last, demo_name)
    assert "INFO" not in text
    assert "\x1b[3" not in text, "NO_COLOR"
