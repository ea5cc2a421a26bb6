"""Brings other programs into environments of their own under `.tools`, to be compared with."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.results import progress
from tests.support.workspace import HERE, PYTHON


def missing(folder: Path, packages: Sequence[str]) -> str | None:
    """Install the packages where `folder` is not there; return what is in the way, None where nothing is."""
    if (folder / "lib").exists():
        return None
    uv = shutil.which("uv") or str(HERE / ".tools" / "uv" / "bin" / "uv")
    if not Path(uv).exists():
        return "uv is not there"
    progress(f"installing {', '.join(packages)} into .tools")
    for command in (
        [uv, "venv", "--quiet", "--python", PYTHON, str(folder)],
        [uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), *packages],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
        if done.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            return (done.stderr.strip().splitlines() or ["uv failed"])[-1]
    return None
