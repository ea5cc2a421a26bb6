"""Keeps programs running as child processes and takes care of every line that they print.

A line goes to this terminal, marked with its program, and to logs/<program>.log, which is
rotated. A program that dies is reported at once and started again with growing pauses. Stopping
means SIGTERM to all at the same time and SIGKILL for one that does not obey; where the process that
runs this dies in any other way, the kernel sends the children SIGTERM (on Linux).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from logging import LogRecord, makeLogRecord
from logging.handlers import RotatingFileHandler
from pathlib import Path

# The services promise to end within 5 s, and so does the launcher, which needs some of that
# time for killing what did not obey.
SECONDS_TO_END = 4.5

# Pauses before a program that died is started again; the last one holds until it has lived a while.
RESTART_PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0)
SECONDS_TO_COUNT_AS_HEALTHY = 30.0

LONGEST_LINE = 64 * 1024
# Lines are handed on in batches of at most so many: a flood of them must not hold up the event loop.
LINES_AT_ONCE = 100

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Program:
    """What is kept running, and the name that marks its lines and its log file."""

    name: str
    command: tuple[str, ...]


class Request:
    """Whether, and by which signal, the user has asked for the end."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self.signal: signal.Signals | None = None

    def watch_signals(self) -> None:
        """Take Ctrl-C, SIGTERM and a closed terminal as requests; more of them change nothing."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # nohup sets SIGHUP aside for whom it starts, and means it.
            if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue
            self._loop.add_signal_handler(number, self._ask, number)

    def ask_from_thread(self) -> None:
        """Ask for the end from another thread, as SIGHUP would."""
        self._loop.call_soon_threadsafe(self._ask, signal.SIGHUP)

    def is_set(self) -> bool:
        """Tell whether the end has been asked for."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Return when the end is asked for."""
        await self._event.wait()

    def _ask(self, number: signal.Signals) -> None:
        if self.signal is None:
            self.signal = number
            self._event.set()


class Terminal:
    """Writes marked lines to standard output, from a thread of its own.

    A terminal that is held (Ctrl-S) or slow must hold up neither the services nor Ctrl-C: lines
    that it does not take are left out and counted. `closed` is called, from that thread, once
    nobody is there to read any more.
    """

    def __init__(self, width: int, closed: Callable[[], None], descriptor: int = 1) -> None:
        self._width = width
        self._closed = closed
        self._descriptor = descriptor
        self._batches: queue.Queue[list[str] | None] = queue.Queue(maxsize=1000)
        self._left_out = 0
        self._thread = threading.Thread(target=self._write_batches, name="terminal", daemon=True)
        self._thread.start()

    def show(self, name: str, lines: list[str]) -> None:
        """Show lines marked with `name`; never waits."""
        self.plain([f"{name:<{self._width}} | {line}" for line in lines])

    def plain(self, lines: list[str]) -> None:
        """Show lines as they are; never waits."""
        if self._left_out:
            lines = [f"({self._left_out} lines not shown here; the log files have them)", *lines]
        try:
            self._batches.put_nowait(lines)
            self._left_out = 0
        except queue.Full:
            self._left_out += len(lines) - bool(self._left_out)

    def close(self, timeout: float = 1.0) -> None:
        """Wait until what was shown is written, for at most `timeout` seconds."""
        with contextlib.suppress(queue.Full):
            self._batches.put(None, timeout=timeout)
            self._thread.join(timeout)

    def _write_batches(self) -> None:
        while (lines := self._batches.get()) is not None:
            unwritten = "".join(f"{line}\n" for line in lines).encode()
            try:
                while unwritten:
                    unwritten = unwritten[os.write(self._descriptor, unwritten) :]
            except OSError:
                self._closed()
                break
        # Nobody reads any more: go on taking lines, so that the queue never fills.
        while lines is not None:
            lines = self._batches.get()


class LogFile(RotatingFileHandler):
    """One program's lines on disk, rotated by size; a disk that takes none is reported once."""

    def __init__(self, path: Path, size: int, copies: int, complain: Callable[[str], None]) -> None:
        super().__init__(
            path, maxBytes=size, backupCount=copies, encoding="utf-8", errors="replace", delay=True
        )
        self._path = path
        self._complain = complain
        self._complained = False

    def write(self, lines: list[str]) -> None:
        """Append lines, all to the same file."""
        self.handle(makeLogRecord({"msg": "\n".join(lines)}))

    def handleError(self, record: LogRecord) -> None:  # noqa: N802 - the name is logging's
        """Say once that lines are not written, and why."""
        if not self._complained:
            self._complained = True
            self._complain(f"cannot write {self._path}: {sys.exc_info()[1]} (said once) {record.msg[:80]!r}")


class _Output(asyncio.SubprocessProtocol):
    """Cuts what a child prints into lines, and knows when it has ended."""

    def __init__(self, take: Callable[[list[str]], None]) -> None:
        self._take = take
        self._rest = b""
        self.exited = asyncio.Event()
        self.closed = asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: ARG002 - one pipe for both
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            lines.append(self._rest)
            self._rest = b""
        for first in range(0, len(lines), LINES_AT_ONCE):
            self._take([_decode(line) for line in lines[first : first + LINES_AT_ONCE]])

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002
        if self._rest:
            self._take([_decode(self._rest)])
        self.closed.set()

    def process_exited(self) -> None:
        self.exited.set()


class Child:
    """One program, started again when it dies, until it is told to stop."""

    def __init__(
        self,
        program: Program,
        say: Callable[[str], None],
        take: Callable[[list[str]], None],
        *,
        restart: bool,
    ) -> None:
        self._program = program
        self._say = say
        self._take = take
        self._restart = restart
        self._transport: asyncio.SubprocessTransport | None = None
        self._stopping = asyncio.Event()
        self._obeyed = True
        self.died = asyncio.Event()
        self._task = asyncio.create_task(self._keep_running())

    async def stop(self) -> bool:
        """End the program and tell whether it obeyed and ended cleanly."""
        name = self._program.name
        self._stopping.set()
        self._signal(signal.SIGTERM)
        done, _ = await asyncio.wait({self._task}, timeout=SECONDS_TO_END)
        if not done:
            self._say(f"{name} did not end within {SECONDS_TO_END} s: killed")
            self._obeyed = False
            self._signal(signal.SIGKILL)
            await asyncio.wait({self._task}, timeout=1.0)
        return self._obeyed

    async def _keep_running(self) -> None:
        deaths = 0
        while not self._stopping.is_set():
            started = time.monotonic()
            ending = await self._run_once()
            if self._stopping.is_set():
                return
            if time.monotonic() - started > SECONDS_TO_COUNT_AS_HEALTHY:
                deaths = 0
            pause = RESTART_PAUSES[min(deaths, len(RESTART_PAUSES) - 1)]
            deaths += 1
            again = f": started again in {pause} s" if self._restart else ""
            self._say(f"{self._program.name} {ending}{again}")
            self.died.set()
            if not self._restart:
                return
            # The pause ends early when there is nothing to start any more.
            await _wait(self._stopping, pause)

    async def _run_once(self) -> str:
        """Start the program, see it through to its end, and say how it ended."""
        try:
            transport, output = await asyncio.get_running_loop().subprocess_exec(
                lambda: _Output(self._take),
                *self._program.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                # A group of its own: Ctrl-C reaches the launcher alone, which ends all in its way.
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        except OSError as error:
            return f"cannot be started: {error}"
        self._transport = transport
        self._say(f"{self._program.name} started, pid {transport.get_pid()}")
        if self._stopping.is_set():
            self._signal(signal.SIGTERM)
        await output.exited.wait()
        _kill_group(transport.get_pid())
        # What it printed last is still in the pipe.
        await _wait(output.closed, 0.5)
        status = transport.get_returncode()
        transport.close()
        self._transport = None
        ending = describe(status)
        # SIGTERM itself as the ending: it came before the program had got as far as to handle it.
        if self._stopping.is_set() and status not in {0, -signal.SIGTERM}:
            self._say(f"{self._program.name} {ending} when told to end")
            self._obeyed = False
        return ending

    def _signal(self, number: signal.Signals) -> None:
        if self._transport is None or self._transport.get_returncode() is not None:
            return
        if number is signal.SIGKILL:
            _kill_group(self._transport.get_pid())
        else:
            self._transport.send_signal(number)


class Supervisor:
    """All the programs of one run, their terminal and their log files."""

    def __init__(
        self,
        terminal: Terminal,
        logs: Path,
        *,
        restart: bool = True,
        show_programs: bool = True,
        log_size: int = 10_000_000,
        log_copies: int = 5,
    ) -> None:
        self._terminal = terminal
        self._logs = logs
        self._restart = restart
        self._show_programs = show_programs
        self._log_size = log_size
        self._log_copies = log_copies
        self._children: dict[str, Child] = {}
        self._files: dict[str, LogFile] = {}

    def say(self, text: str) -> None:
        """Show and log a line of the launcher's own."""
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}"
        self._terminal.show("launcher", [line])
        self._keep("launcher", [line])

    def start(self, program: Program) -> None:
        """Start a program and keep it running."""
        self._children[program.name] = Child(
            program,
            self.say,
            lambda lines: self._take(program.name, lines),
            restart=self._restart,
        )

    async def stop(self, *names: str) -> bool:
        """End the named programs, all where none is named; tell whether each ended cleanly."""
        children = [self._children[name] for name in names or self._children]
        return all(await asyncio.gather(*(child.stop() for child in children)))

    async def wait_for_death(self) -> None:
        """Return when any program has died by itself."""
        waits = [asyncio.ensure_future(child.died.wait()) for child in self._children.values()]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def any_died(self) -> bool:
        """Tell whether a program has died by itself."""
        return any(child.died.is_set() for child in self._children.values())

    def close(self) -> None:
        """Close the log files."""
        for file in self._files.values():
            file.close()

    def _take(self, name: str, lines: list[str]) -> None:
        if self._show_programs:
            self._terminal.show(name, lines)
        self._keep(name, lines)

    def _keep(self, name: str, lines: list[str]) -> None:
        if name not in self._files:
            path = self._logs / f"{name}.log"
            self._files[name] = LogFile(path, self._log_size, self._log_copies, self._complain)
        self._files[name].write(lines)

    def _complain(self, text: str) -> None:
        self._terminal.show("launcher", [text])


def describe(status: int | None) -> str:
    """Put the return code of a child into words."""
    if status is None:
        return "ended with an unknown exit status"
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was killed by {name}"


def _end_with_parent() -> None:
    """Have the kernel send SIGTERM to this child when the launcher dies without stopping it."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _decode(line: bytes) -> str:
    return line.rstrip(b"\r").decode("utf-8", "replace")


def _kill_group(group: int) -> None:
    """Kill what is left of a child's process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, for at most `seconds`."""
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
