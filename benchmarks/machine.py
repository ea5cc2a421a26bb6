"""What the machine is, and what its processes use, from /proc."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def family_cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and its children, those that have ended included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    used = sum(map(int, fields[11:15])) / _TICKS
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        # It may end meanwhile, and then counts with its parent the next time.
        with contextlib.suppress(OSError):
            used += cpu_seconds(int(child))
    return used


def resident_bytes(pid: int) -> int:
    """Return the memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


def processes(*words: str) -> dict[int, str]:
    """Return the command lines, by pid, of the processes that have all these words in theirs."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            if all(word in command for word in words):
                found[int(folder.name)] = command
    return found


def listener(port: int) -> int | None:
    """Return the process that listens on a TCP port of this machine, where that can be seen."""
    sockets = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                sockets.add(f"socket:[{fields[9]}]")
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if any(str(link.readlink()) in sockets for link in (folder / "fd").iterdir()):
                    return int(folder.name)
            except OSError:
                continue
    return None


def cores() -> int:
    """Return how many threads of a processor the machine has."""
    return os.cpu_count() or 1


def description() -> str:
    """Return one line on the machine."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 1e6
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} x {model}, {memory:.0f} GB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, load before {load:.1f}"
    )
