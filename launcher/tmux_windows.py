"""One tmux window per service, each following the service's log file.

The services run under the launcher as ever; closing a window closes only the view.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path


class NoWindowsError(Exception):
    """tmux is missing, or opens no window; the text says which."""


class Windows:
    """The tmux windows of one run; `where` tells the user where they are."""

    def __init__(self, where: str, window_ids: Sequence[str]) -> None:
        self.where = where
        self._window_ids = window_ids

    def close(self) -> None:
        """Close the windows that are still open."""
        for window in self._window_ids:
            subprocess.run(["tmux", "kill-window", "-t", window], check=False, stderr=subprocess.DEVNULL)


def check_tmux() -> None:
    """Raise NoWindowsError where tmux is not installed."""
    if not shutil.which("tmux"):
        raise NoWindowsError("--windows needs tmux; without the option all logs are shown in this terminal")


def open_windows(names: Sequence[str], logs: Path) -> Windows:
    """Open a window for each log file, in the current tmux session or in a new one to attach to.

    Raises NoWindowsError where tmux cannot do that.
    """
    session = f"blackbird-{os.getpid()}"
    inside = bool(os.environ.get("TMUX"))
    opened: list[str] = []
    for name in names:
        log = logs / f"{name}.log"
        log.touch()  # so that tail has a file to follow before the first line
        if inside:
            place = ["new-window", "-d"]
        elif not opened:
            place = ["new-session", "-d", "-s", session]
        else:
            place = ["new-window", "-d", "-t", session]
        follow = shlex.join(["tail", "-n", "0", "-F", str(log)])
        command = ["tmux", *place, "-n", name, "-P", "-F", "#{window_id}", follow]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            Windows("", opened).close()
            raise NoWindowsError(f"tmux failed to open a window: {done.stderr.strip()}")
        opened.append(done.stdout.strip())
    where = "in this tmux session" if inside else f"in tmux: tmux attach -t {session}"
    return Windows(f"one window per service {where}", opened)
