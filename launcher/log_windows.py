"""Windows that follow the services' log files: in tmux, or in the desktop's terminal.

The services themselves run under the launcher as ever; closing a window ends nothing but the view.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

# A terminal program and its arguments before the command; {name} is the window's title.
DESKTOP_TERMINALS = {
    "gnome-terminal": ("--title={name}", "--"),
    "konsole": ("-p", "tabtitle={name}", "-e"),
    "xterm": ("-T", "{name}", "-e"),
}


class NoWindowsError(Exception):
    """Neither tmux nor a desktop terminal is there."""


class Windows:
    """The windows opened for one run."""

    def __init__(self, where: str, tmux: list[str], terminals: list[subprocess.Popen[bytes]]) -> None:
        self.where = where
        self._tmux = tmux
        self._terminals = terminals

    def close(self) -> None:
        """Close the windows that the user has left open."""
        for window in self._tmux:
            subprocess.run(["tmux", "kill-window", "-t", window], check=False, stderr=subprocess.DEVNULL)
        for terminal in self._terminals:
            terminal.terminate()
        for terminal in self._terminals:
            with contextlib.suppress(subprocess.TimeoutExpired):
                terminal.wait(0.5)


def open_windows(names: Sequence[str], logs: Path) -> Windows:
    """Open a window for each log file; raise NoWindowsError where there is nothing to open it in."""
    # Made here, so that there is something to follow before the first line.
    for name in names:
        (logs / f"{name}.log").touch()
    follow = {name: ["tail", "-n", "0", "-F", str(logs / f"{name}.log")] for name in names}
    if shutil.which("tmux"):
        return _open_in_tmux(follow)
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        for terminal, options in DESKTOP_TERMINALS.items():
            if shutil.which(terminal):
                return _open_on_desktop(follow, terminal, options)
    raise NoWindowsError(
        "--windows needs tmux, or gnome-terminal, konsole or xterm on a desktop (DISPLAY);"
        " without the option all logs are shown in this terminal"
    )


def _open_in_tmux(follow: dict[str, list[str]]) -> Windows:
    """Open windows in the session that this runs in, else in a new one to attach to."""
    session = f"blackbird-{os.getpid()}"
    inside = bool(os.environ.get("TMUX"))
    windows: list[str] = []
    for name, command in follow.items():
        if inside:
            place = ["new-window", "-d"]
        elif not windows:
            place = ["new-session", "-d", "-s", session]
        else:
            place = ["new-window", "-d", "-t", session]
        arguments = ["tmux", *place, "-n", name, "-P", "-F", "#{window_id}", shlex.join(command)]
        opened = subprocess.run(arguments, capture_output=True, text=True, check=False)
        if opened.returncode:
            Windows("", windows, []).close()
            raise NoWindowsError(f"tmux opens no window: {opened.stderr.strip()}")
        windows.append(opened.stdout.strip())
    where = "in this tmux session" if inside else f"in tmux: tmux attach -t {session}"
    return Windows(f"one window a service {where}", windows, [])


def _open_on_desktop(follow: dict[str, list[str]], terminal: str, options: tuple[str, ...]) -> Windows:
    # gnome-terminal hands the window over to a server of its own and ends; tail is told whose end to
    # wait for, so that no window stays behind.
    opened = [
        subprocess.Popen(
            [
                terminal,
                *(option.format(name=name) for option in options),
                command[0],
                f"--pid={os.getpid()}",
                *command[1:],
            ],
            start_new_session=True,
        )
        for name, command in follow.items()
    ]
    return Windows(f"one {terminal} window a service", [], opened)
