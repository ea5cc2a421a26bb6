"""Print the settings of the two servers as lines for a shell to evaluate.

usage: python -m deploy.infrastructure.settings

One reader and one set of defaults and checks for Python and bash. The output holds passwords: it is for a
variable of the shell, not for a terminal.
"""

from __future__ import annotations

import shlex
import sys

try:
    from config import InvalidSetting, Servers, hosts_and_ports, read_servers
except ImportError as error:
    sys.exit(f"setup.sh: the Python environment is out of date ({error}): run ./setup.sh")


def list_of_servers(servers: Servers) -> dict[str, str]:
    """Return hosts and ports apart, with commas between, as libpq wants them."""
    lists = {}
    for server, hosts, port in (
        ("POSTGRES", servers.POSTGRES_HOST, servers.POSTGRES_PORT),
        ("RABBITMQ", servers.RABBITMQ_HOST, servers.RABBITMQ_PORT),
    ):
        pairs = hosts_and_ports(hosts, port)
        lists[f"{server}_HOSTS"] = ",".join(host for host, _ in pairs)
        lists[f"{server}_PORTS"] = ",".join(str(port) for _, port in pairs)
    return lists


def main() -> int:
    """Print `export NAME=value` lines, or the one line that says which setting makes no sense."""
    try:
        servers = read_servers()
    except InvalidSetting as error:
        print(f"setup.sh: {error}", file=sys.stderr)
        return 1
    for name in Servers.model_fields:
        print(f"export {name}={shlex.quote(str(getattr(servers, name)))}")
    for name, value in list_of_servers(servers).items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
