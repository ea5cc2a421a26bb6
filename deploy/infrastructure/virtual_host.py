"""Create or empty RABBITMQ_VHOST through RabbitMQ's management API, with the standard library alone.

usage: virtual_host.py create|empty|checkout

`checkout` prints the folder of the checkout that runs the broker, where the broker has been told.

The credentials come from the environment (RABBITMQ_*), never from the command line.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import ProxyHandler, Request, build_opener

# A vhost with many queues takes its time to go.
TIMEOUT_SECONDS = 60.0

# A proxy that is meant for the internet must not get the broker's password.
_opener = build_opener(ProxyHandler({}))


def call(method: str, path: str, body: dict[str, str] | None = None) -> Any:
    """Send one request to the management API and return the decoded answer, if there is one."""
    host, port = os.environ["RABBITMQ_HOSTS"].split(",")[0], os.environ["RABBITMQ_MANAGEMENT_PORT"]
    login = f"{os.environ['RABBITMQ_DEFAULT_USER']}:{os.environ['RABBITMQ_DEFAULT_PASS']}"
    request = Request(
        f"http://{host}:{port}/api/{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={
            "Authorization": f"Basic {base64.b64encode(login.encode()).decode()}",
            "Content-Type": "application/json",
        },
    )
    with _opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def create() -> None:
    """Create the virtual host where it is missing and let the configured user use it."""
    vhost = quote(os.environ["RABBITMQ_VHOST"], safe="")
    call("PUT", f"vhosts/{vhost}")
    allow(os.environ["RABBITMQ_DEFAULT_USER"], ".*", ".*", ".*")


def empty() -> None:
    """Delete the virtual host with all that is in it and create it anew with the permissions that it had."""
    vhost = quote(os.environ["RABBITMQ_VHOST"], safe="")
    permissions = call("GET", f"vhosts/{vhost}/permissions")
    call("DELETE", f"vhosts/{vhost}")
    create()
    for held in permissions:
        allow(held["user"], held["configure"], held["write"], held["read"])


def allow(user: str, configure: str, write: str, read: str) -> None:
    """Give a user permissions (regular expressions of names) on the virtual host."""
    vhost = quote(os.environ["RABBITMQ_VHOST"], safe="")
    body = {"configure": configure, "write": write, "read": read}
    call("PUT", f"permissions/{vhost}/{quote(user, safe='')}", body)


def checkout() -> None:
    """Print the folder that setup.sh put into the name of the cluster, if it did."""
    name = call("GET", "overview").get("cluster_name", "")
    if name.startswith("blackbird "):
        print(name.removeprefix("blackbird "))


def main() -> int:
    """Do what the command line says; explain on stderr what the management API refused."""
    action = {"create": create, "empty": empty, "checkout": checkout}[sys.argv[1]]
    try:
        action()
    except HTTPError as error:
        print(f"the management API refused: {error.code} {error.reason}", file=sys.stderr)
        return 1
    except (URLError, OSError) as error:
        port = os.environ["RABBITMQ_MANAGEMENT_PORT"]
        print(f"the management API does not answer on port {port}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
