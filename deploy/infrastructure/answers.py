"""Say what answers on the configured ports, with the standard library alone.

usage: answers.py database|broker [--wait SECONDS] [--pid PID]

Prints one word and a detail:
    ready     the credentials hold and the database or virtual host can be used
    missing   the credentials hold, the database or virtual host is not there (or not for this user)
    refused   a server answers and refuses the credentials
    starting  a server answers and is not ready for anyone yet
    strange   something else answers
    away      nothing answers

With --wait it asks until the answer is neither `away` nor `starting`, or the process PID is gone.
The credentials come from the environment (POSTGRES_*, RABBITMQ_*), never from the command line.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import os
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

TIMEOUT_SECONDS = 5.0


class Answer(NamedTuple):
    """What a server said: one of the words above, and a detail for the user."""

    word: str
    detail: str = ""


class UnexpectedReply(Exception):
    """The other side does not speak the expected protocol."""


def _read(stream: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = stream.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


# PostgreSQL: https://www.postgresql.org/docs/current/protocol-message-formats.html


class ServerRefusal(Exception):
    """PostgreSQL's ErrorResponse: `code` is its SQLSTATE."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


def _postgres_message(stream: socket.socket) -> tuple[bytes, bytes]:
    kind, length = struct.unpack("!cI", _read(stream, 5))
    if kind not in b"RESKZNv" or not 4 <= length <= 100_000:
        raise UnexpectedReply("no PostgreSQL")
    body = _read(stream, length - 4)
    if kind == b"E":
        fields = {part[:1]: part[1:].decode(errors="replace") for part in body.split(b"\0") if part}
        raise ServerRefusal(fields.get(b"C", ""), fields.get(b"M", ""))
    return kind, body


def _send(stream: socket.socket, kind: bytes, body: bytes) -> None:
    stream.sendall(kind + struct.pack("!I", len(body) + 4) + body)


def _scram_proof(password: str, first: str, challenge: str) -> str:
    """The client's last message of SCRAM-SHA-256 (RFC 5802, section 3)."""
    parts = dict(part.split("=", 1) for part in challenge.split(","))
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(parts["s"]), int(parts["i"]))
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    without_proof = f"c=biws,r={parts['r']}"
    signed = f"{first},{challenge},{without_proof}".encode()
    signature = hmac.digest(hashlib.sha256(client_key).digest(), signed, "sha256")
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    return f"{without_proof},p={base64.b64encode(proof).decode()}"


def _log_in(stream: socket.socket, user: str, password: str) -> None:
    """Answer the server's authentication requests until it is content."""
    first = f"n=,r={base64.b64encode(os.urandom(18)).decode()}"
    while True:
        kind, body = _postgres_message(stream)
        if kind != b"R":
            continue
        (request,) = struct.unpack("!I", body[:4])
        if request == 0:
            return
        if request == 3:
            _send(stream, b"p", password.encode() + b"\0")
        elif request == 5:
            inner = hashlib.md5((password + user).encode(), usedforsecurity=False).hexdigest()
            outer = hashlib.md5(inner.encode() + body[4:8], usedforsecurity=False).hexdigest()
            _send(stream, b"p", f"md5{outer}".encode() + b"\0")
        elif request == 10:
            opening = f"n,,{first}".encode()
            _send(stream, b"p", b"SCRAM-SHA-256\0" + struct.pack("!I", len(opening)) + opening)
        elif request == 11:
            _send(stream, b"p", _scram_proof(password, first, body[4:].decode()).encode())
        elif request != 12:
            raise UnexpectedReply(f"PostgreSQL asks for a login of kind {request}, which is not supported")


def ask_database() -> Answer:
    """Log in to PostgreSQL at POSTGRES_HOST and POSTGRES_PORT."""
    user, name = os.environ["POSTGRES_USER"], os.environ["POSTGRES_DB"]
    address = (os.environ["POSTGRES_HOST"], int(os.environ["POSTGRES_PORT"]))
    with socket.create_connection(address, TIMEOUT_SECONDS) as stream:
        start = b"".join(
            word.encode() + b"\0" for word in ("user", user, "database", name, "application_name", "setup.sh")
        )
        _send(stream, b"", struct.pack("!I", 196608) + start + b"\0")
        try:
            _log_in(stream, user, os.environ["POSTGRES_PASSWORD"])
            while _postgres_message(stream)[0] != b"Z":
                pass
        except ServerRefusal as refusal:
            if refusal.code == "3D000":
                return Answer("missing", str(refusal))
            if refusal.code.startswith("57P"):
                return Answer("starting", str(refusal))
            return Answer("refused", str(refusal))
        _send(stream, b"X", b"")
    return Answer("ready")


# RabbitMQ: AMQP 0-9-1, https://www.rabbitmq.com/amqp-0-9-1-reference.html

START, START_OK = (10, 10), (10, 11)
TUNE, TUNE_OK = (10, 30), (10, 31)
OPEN, OPEN_OK = (10, 40), (10, 41)
CLOSE = (10, 50)


def _short(text: str) -> bytes:
    return bytes([len(text.encode())]) + text.encode()


def _send_method(stream: socket.socket, method: tuple[int, int], arguments: bytes) -> None:
    payload = struct.pack("!HH", *method) + arguments
    stream.sendall(struct.pack("!BHI", 1, 0, len(payload)) + payload + b"\xce")


def _read_method(stream: socket.socket) -> tuple[tuple[int, int], bytes]:
    kind, _, length = struct.unpack("!BHI", _read(stream, 7))
    if kind != 1 or not 4 <= length <= 100_000:
        raise UnexpectedReply("no RabbitMQ")
    payload = _read(stream, length + 1)
    major, minor = struct.unpack("!HH", payload[:4])
    return (major, minor), payload[4:-1]


def ask_broker() -> Answer:
    """Log in to RabbitMQ at RABBITMQ_HOST and RABBITMQ_PORT and open RABBITMQ_VHOST."""
    user, password = os.environ["RABBITMQ_DEFAULT_USER"], os.environ["RABBITMQ_DEFAULT_PASS"]
    address = (os.environ["RABBITMQ_HOST"], int(os.environ["RABBITMQ_PORT"]))
    with socket.create_connection(address, TIMEOUT_SECONDS) as stream:
        stream.sendall(b"AMQP\x00\x00\x09\x01")
        method, _ = _read_method(stream)
        if method != START:
            raise UnexpectedReply("no RabbitMQ")
        login = f"\0{user}\0{password}".encode()
        # With this capability a refusal is a Close with its reason, not just a cut.
        capabilities = _short("authentication_failure_close") + b"t\x01"
        properties = _short("capabilities") + b"F" + struct.pack("!I", len(capabilities)) + capabilities
        _send_method(
            stream,
            START_OK,
            struct.pack("!I", len(properties))
            + properties
            + _short("PLAIN")
            + struct.pack("!I", len(login))
            + login
            + _short("en_US"),
        )
        method, body = _read_method(stream)
        if method != TUNE:
            return Answer("refused", _close_reason(body))
        _send_method(stream, TUNE_OK, body)
        _send_method(stream, OPEN, _short(os.environ["RABBITMQ_VHOST"]) + b"\0\0")
        method, body = _read_method(stream)
        if method == OPEN_OK:
            _send_method(stream, CLOSE, struct.pack("!H", 200) + _short("") + struct.pack("!HH", 0, 0))
            _read_method(stream)
            return Answer("ready")
        return Answer("missing" if body[:2] == struct.pack("!H", 530) else "starting", _close_reason(body))


def _close_reason(body: bytes) -> str:
    return body[3 : 3 + body[2]].decode(errors="replace")


def answer_of(ask: Callable[[], Answer]) -> Answer:
    """Ask once; what goes wrong on the way becomes an answer too."""
    try:
        return ask()
    except ConnectionRefusedError as error:
        return Answer("away", str(error))
    except (ConnectionError, EOFError) as error:
        return Answer("starting", f"the connection was cut {error}".strip())
    except UnexpectedReply as error:
        return Answer("strange", str(error))
    except TimeoutError:
        return Answer("strange", f"no answer within {TIMEOUT_SECONDS:.0f} s")
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
