"""Runs programs as child processes and collects every line that they print.

A line goes to the terminal, marked with its program, and to logs/<program>.log. A program that dies is
reported at once and restarted with backoff, unless it has ended because of an invalid setting. Stopping
means SIGTERM, and SIGKILL for a process that does not end in time. Where the launcher itself is killed, the
kernel sends its children SIGTERM (on Linux).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from blackbird.runtime.process import EXIT_INVALID_SETTING
from launcher.terminal import LogFile, Terminal

# The contract gives a service 5 s to end; the rest of that time is for killing what has not ended.
STOP_SECONDS = 4.5

# Pauses before a restart; the last one repeats until the program has lived for a while.
RESTART_PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0)
HEALTHY_AFTER_SECONDS = 30.0

MAX_LINE_BYTES = 64 * 1024
# Lines are passed on in batches of at most this many, so that a flood of them does not block the event loop.
LINES_PER_BATCH = 100

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Program:
    """What is kept running, and the name that marks its lines and its log file.

    The others do not depend on an `optional` one: whatever becomes of it, they go on.
    """

    name: str
    command: tuple[str, ...]
    optional: bool = False


class _Output(asyncio.SubprocessProtocol):
    """Splits what a child prints into lines, and signals its exit."""

    def __init__(self, on_lines: Callable[[list[str]], None]) -> None:
        self._on_lines = on_lines
        self._partial = b""
        self.exited = asyncio.Event()
        self.closed = asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: ARG002 - one pipe for both
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > MAX_LINE_BYTES:
            lines.append(self._partial)
            self._partial = b""
        for first in range(0, len(lines), LINES_PER_BATCH):
            self._on_lines([_decode(line) for line in lines[first : first + LINES_PER_BATCH]])

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002
        if self._partial:
            self._on_lines([_decode(self._partial)])
        self.closed.set()

    def process_exited(self) -> None:
        self.exited.set()


class Child:
    """One program, restarted when it dies, until it is told to stop or a restart is of no use.

    `gave_up` is set once the program has ended by itself and is not restarted; `invalid_setting` says that
    it ended because of one.
    """

    def __init__(
        self,
        program: Program,
        say: Callable[[str], None],
        on_lines: Callable[[list[str]], None],
        *,
        restart: bool,
    ) -> None:
        self._program = program
        self.optional = program.optional
        self._say = say
        self._on_lines = on_lines
        self._restart = restart
        self._transport: asyncio.SubprocessTransport | None = None
        self._stopping = asyncio.Event()
        self._ended_cleanly = True
        self.gave_up = asyncio.Event()
        self.invalid_setting = False
        self._task = asyncio.create_task(self._keep_running())

    async def stop(self) -> bool:
        """End the program and return whether it ended in time and cleanly."""
        name = self._program.name
        self._stopping.set()
        self._signal(signal.SIGTERM)
        done, _ = await asyncio.wait({self._task}, timeout=STOP_SECONDS)
        if not done:
            self._say(f"{name} did not end within {STOP_SECONDS} s: killed")
            self._ended_cleanly = False
            self._signal(signal.SIGKILL)
            await asyncio.wait({self._task}, timeout=1.0)
        return self._ended_cleanly

    async def _keep_running(self) -> None:
        deaths = 0
        while not self._stopping.is_set():
            started = time.monotonic()
            ending = await self._run_once()
            if self._stopping.is_set():
                return
            if time.monotonic() - started > HEALTHY_AFTER_SECONDS:
                deaths = 0
            pause = RESTART_PAUSES[min(deaths, len(RESTART_PAUSES) - 1)]
            deaths += 1
            restart = self._restart and not self.invalid_setting
            self._say(f"{self._program.name} {ending}" + (f": restarting in {pause} s" if restart else ""))
            if not restart:
                self.gave_up.set()
                return
            await _wait(self._stopping, pause)

    async def _run_once(self) -> str:
        """Start the program, wait until it has ended, and return how it ended, in words."""
        try:
            transport, output = await asyncio.get_running_loop().subprocess_exec(
                lambda: _Output(self._on_lines),
                *self._program.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                # Into a pipe Python writes blocks: lines would come late, and not in the order of printing.
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                # A process group of its own: Ctrl-C reaches the launcher alone, which ends the children in
                # order.
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
        # Its last lines are still in the pipe.
        await _wait(output.closed, 0.5)
        status = transport.get_returncode()
        transport.close()
        self._transport = None
        self.invalid_setting = status == EXIT_INVALID_SETTING
        ending = describe(status)
        # SIGTERM itself as the ending: it came before the program had set a handler.
        if self._stopping.is_set() and status not in {0, -signal.SIGTERM}:
            self._say(f"{self._program.name} {ending} when told to end")
            self._ended_cleanly = False
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
        self._write("launcher", [line])

    def start(self, program: Program) -> None:
        """Start a program and keep it running."""
        self._children[program.name] = Child(
            program,
            self.say,
            lambda lines: self._on_lines(program.name, lines),
            # What nothing depends on may be restarted in a demo, too.
            restart=self._restart or program.optional,
        )

    async def stop(self, *names: str) -> bool:
        """End the named programs (default: all) at the same time.

        Returns whether each ended cleanly, optional ones left out.
        """
        children = [self._children[name] for name in names or self._children if name in self._children]
        clean = await asyncio.gather(*(child.stop() for child in children))
        return all(ended or child.optional for child, ended in zip(children, clean, strict=True))

    async def wait_until_one_gives_up(self) -> None:
        """Return when a program that others depend on has ended by itself and is not restarted."""
        waits = [asyncio.ensure_future(child.gave_up.wait()) for child in self._required()]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def any_gave_up(self) -> bool:
        """Return whether a program has ended by itself and is not restarted."""
        return any(child.gave_up.is_set() for child in self._required())

    def any_invalid_setting(self) -> bool:
        """Return whether a program has ended because of an invalid setting."""
        return any(child.invalid_setting for child in self._required())

    def _required(self) -> list[Child]:
        return [child for child in self._children.values() if not child.optional]

    def close(self) -> None:
        """Close the log files."""
        for file in self._files.values():
            file.close()

    def _on_lines(self, name: str, lines: list[str]) -> None:
        if self._show_programs:
            self._terminal.show(name, lines)
        self._write(name, lines)

    def _write(self, name: str, lines: list[str]) -> None:
        if name not in self._files:
            path = self._logs / f"{name}.log"
            self._files[name] = LogFile(path, self._log_size, self._log_copies, self._report)
        self._files[name].write(lines)

    def _report(self, text: str) -> None:
        self._terminal.show("launcher", [text])


def describe(status: int | None) -> str:
    """Return the return code of a child in words."""
    if status is None:
        return "ended with an unknown exit status"
    if status == EXIT_INVALID_SETTING:
        return f"ended because of an invalid setting (exit status {status})"
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
