"""Reduce uv.lock to what git keeps of it: names, versions and dependencies, but no addresses.

`uv sync` adds download addresses, hashes and sizes of the index that this machine uses. They say
nothing that the pinned versions do not say, and differ from one machine to the next. As git's clean
filter (see .gitattributes; `setup.sh` installs it) this keeps them out of commits and out of
`git status`, while the local copy stays complete. Reads standard input, writes standard output.
"""

from __future__ import annotations

import re
import sys

REGISTRY = re.compile(r'registry = "[^"]*"')


def without_addresses(lock: str) -> str:
    """Return the text of a lock file without files, metadata tables and the registry's address."""
    kept: list[str] = []
    in_files = in_metadata = False
    for line in lock.splitlines():
        if line.startswith("["):
            in_metadata = line.startswith("[package.metadata")
        if in_metadata:
            continue
        if in_files:
            in_files = line != "]"
            continue
        if line.startswith(("sdist = ", "wheels = ")):
            in_files = line.endswith("= [")
            continue
        kept.append(REGISTRY.sub('registry = "."', line))
    while kept and not kept[-1]:
        kept.pop()
    return "".join(f"{line}\n" for line in kept)


def main() -> None:
    """Filter standard input to standard output, byte for byte in UTF-8 whatever the locale."""
    lock = sys.stdin.buffer.read().decode("utf-8")
    sys.stdout.buffer.write(without_addresses(lock).encode("utf-8"))


if __name__ == "__main__":
    main()
