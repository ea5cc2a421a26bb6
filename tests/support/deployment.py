"""Tools that check image, compose file, units and chart; run_tests.sh brings them into .tools/deployment."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.workspace import HERE

TOOLS = HERE / ".tools/deployment/bin"
LOAD_YAML = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(sys.stdin))))"


def tool(name: str) -> str:
    """Return the path of a tool; skips the test where the tools could not be brought."""
    path = TOOLS / name
    return str(path) if path.exists() else pytest.skip(f"no {name} in .tools/deployment, see run_tests.sh")


def run(*command: str | Path, stdin: str = "") -> str:
    """Return what a command says; fails with that where the command does."""
    # The home of the tests' user: nothing here may depend on what is configured there.
    environment = {"PATH": os.environ["PATH"], "HOME": os.devnull, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        command,
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def yaml_documents(text: str) -> list[Any]:
    """Return the documents of a YAML text, aliases and merges resolved."""
    documents: list[Any] = json.loads(run(tool("python"), "-c", LOAD_YAML, stdin=text))
    return documents
