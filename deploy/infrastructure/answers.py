"""Say what answers on the configured ports.

usage: answers.py database|broker [--wait SECONDS] [--pid PID]

Prints one word and a detail:
    ready     the credentials hold and the database or virtual host can be used
    missing   the credentials hold, the database or virtual host is not there (or not for this user)
    refused   a server answers and refuses the credentials
    full      a server answers and takes no more connections
    starting  a server answers and is not ready for anyone yet
    strange   something else answers
    away      nothing answers

With --wait it asks until the answer is neither `away` nor `starting`, or the process PID is gone.
The credentials come from the environment (POSTGRES_*, RABBITMQ_*), never from the command line.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

TIMEOUT_SECONDS = 5


class Answer(NamedTuple):
    """What a server said: one of the words above, and a detail for the user."""

    word: str
    detail: str = ""


# psycopg2 has no SQLSTATE of a connection that did not come about, only the server's text. In a language
# other than English the text is passed on as it is.
DATABASE_ANSWERS = (
    ("missing", r"database .* does not exist"),
    ("refused", r"password authentication failed|no password supplied|role .* does not exist"),
    ("refused", r"no pg_hba.conf entry|permission denied"),
    ("full", r"too many (?:clients|connections)|connection slots are reserved"),
    ("starting", r"starting up|shutting down|not yet accepting|in recovery mode"),
    ("starting", r"closed the connection unexpectedly|Connection reset|Broken pipe"),
    ("away", r"Connection refused|No route to host|Network is unreachable"),
)


def ask_database() -> Answer:
    """Log in to PostgreSQL, to the first of its servers that may be written to."""
    import psycopg2  # noqa: PLC0415 - each question needs one of the two libraries

    try:
        psycopg2.connect(
            host=os.environ["POSTGRES_HOSTS"],
            port=os.environ["POSTGRES_PORTS"],
            user=os.environ["POSTGRES_USER"],
            password=os.environ["POSTGRES_PASSWORD"],
            dbname=os.environ["POSTGRES_DB"],
            connect_timeout=TIMEOUT_SECONDS,
            **_database_options(),
            application_name="setup.sh",
        ).close()
    except psycopg2.OperationalError as error:
        # One line for each address that was tried; the last one is the server's if any is.
        said = str(error).strip().splitlines()[-1] if "FATAL" in str(error) else " ".join(str(error).split())
        detail = re.sub(r"^.*?failed: ", "", said).removeprefix("FATAL:").strip()
        words = (word for word, pattern in DATABASE_ANSWERS if re.search(pattern, str(error)))
        return Answer(next(words, "strange"), detail)
    return Answer("ready")


def _database_options() -> dict[str, Any]:
    """Return what services demand of a connection too: of several servers the one that may be written to."""
    options: dict[str, Any] = {}
    if "," in os.environ["POSTGRES_HOSTS"]:
        options["target_session_attrs"] = "read-write"
    if os.environ.get("POSTGRES_TLS") == "True":
        options |= {"sslmode": "verify-full", "sslrootcert": os.environ["POSTGRES_CA_FILE"] or "system"}
    return options


def ask_broker() -> Answer:
    """Log in to RabbitMQ, to the first of its nodes that answers, and open RABBITMQ_VHOST."""
    import pika  # noqa: PLC0415 - see ask_database
    from pika.adapters.utils.connection_workflow import AMQPConnectorException  # noqa: PLC0415
    from pika.exceptions import AMQPError, IncompatibleProtocolError  # noqa: PLC0415

    login = pika.PlainCredentials(os.environ["RABBITMQ_DEFAULT_USER"], os.environ["RABBITMQ_DEFAULT_PASS"])
    nodes = zip(os.environ["RABBITMQ_HOSTS"].split(","), os.environ["RABBITMQ_PORTS"].split(","), strict=True)
    parameters = [
        pika.ConnectionParameters(
            host,
            int(port),
            os.environ["RABBITMQ_VHOST"],
            login,
            socket_timeout=TIMEOUT_SECONDS,
            stack_timeout=TIMEOUT_SECONDS,
            client_properties={"connection_name": "setup.sh"},
        )
        for host, port in nodes
    ]
    try:
        pika.BlockingConnection(parameters).close()
    except IncompatibleProtocolError:
        return Answer("starting", "the connection was cut before RabbitMQ said a word")
    except (AMQPError, AMQPConnectorException) as error:
        return _why_no_broker(str(error) or repr(error))
    return Answer("ready")


def _why_no_broker(text: str) -> Answer:
    closed = re.search(r"ConnectionClosedByBroker: \((\d+)\) ['\"]*(.*?)['\"]*,?\)*$", text)
    if closed:
        code, reason = closed[1], closed[2]
        if re.search(r"limit \(\d+\) (?:is )?reached", reason):
            return Answer("full", reason)
        return Answer({"403": "refused", "530": "missing"}.get(code, "starting"), reason)
    if "ConnectionRefusedError" in text:
        return Answer("away", "Connection refused")
    if "Timeout" in text:
        return Answer("strange", f"no answer within {TIMEOUT_SECONDS} s")
    return Answer("starting", text)


def answer_of(ask: Callable[[], Answer]) -> Answer:
    """Ask once; a host without a name or a way to it becomes an answer too."""
    try:
        return ask()
    except socket.gaierror as error:
        return Answer("strange", f"the host's name is not known: {error}")
    except OSError as error:
        return Answer("away", str(error))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def main() -> int:
    """Print the answer of the server named on the command line."""
    parser = argparse.ArgumentParser(description="Say what answers on the configured port.")
    parser.add_argument("server", choices=("database", "broker"))
    parser.add_argument("--wait", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--pid", type=int, help="stop waiting when this process is gone")
    arguments = parser.parse_args()
    # Of pika's dozen lines about a failed attempt nothing is said here: the answer is one line.
    logging.disable(logging.CRITICAL)
    ask = ask_database if arguments.server == "database" else ask_broker
    deadline = time.monotonic() + arguments.wait
    while True:
        answer = answer_of(ask)
        gone = arguments.pid is not None and not _alive(arguments.pid)
        if answer.word not in ("away", "starting") or gone or time.monotonic() >= deadline:
            break
        time.sleep(0.1)
    print(answer.word, answer.detail)
    return 0


if __name__ == "__main__":
    sys.exit(main())
