"""Print the settings of the two servers as lines for a shell to evaluate.

usage: python -m deploy.infrastructure.settings

One reader and one set of defaults and checks for Python and bash. The output holds passwords: it is for a
variable of the shell, not for a terminal.
"""

from __future__ import annotations

import shlex
import sys

try:
    from config import InvalidSetting, Servers, read_servers
except ImportError as error:
    sys.exit(f"setup.sh: the Python environment is out of date ({error}): run ./setup.sh")


def main() -> int:
    """Print `export NAME=value` lines, or the one line that says which setting makes no sense."""
    try:
        servers = read_servers()
    except InvalidSetting as error:
        print(f"setup.sh: {error}", file=sys.stderr)
        return 1
    for name in Servers.model_fields:
        print(f"export {name}={shlex.quote(str(getattr(servers, name)))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
