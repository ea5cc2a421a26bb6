"""What setup.sh says of a server that answers oddly, by stand-ins that say one thing each."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from deploy.infrastructure.answers import Answer, answer_of, ask_broker, ask_database

SETTINGS = {
    "POSTGRES_HOSTS": "127.0.0.1",
    "POSTGRES_USER": "bird",
    "POSTGRES_PASSWORD": "secret",
    "POSTGRES_DB": "first",
    "RABBITMQ_HOSTS": "127.0.0.1",
    "RABBITMQ_DEFAULT_USER": "bird",
    "RABBITMQ_DEFAULT_PASS": "secret",
    "RABBITMQ_VHOST": "/",
}


@contextlib.contextmanager
def server(behaviour: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that treats each connection so and closes it; yields its port."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection, contextlib.suppress(OSError):
                    behaviour(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def postgres_error(code: str, text: str) -> Callable[[socket.socket], None]:
    """PostgreSQL's way to refuse a connection."""

    def behaviour(connection: socket.socket) -> None:
        connection.recv(8)
        connection.sendall(b"N")
        connection.recv(1000)
        fields = f"SFATAL\0VFATAL\0C{code}\0M{text}\0\0".encode()
        connection.sendall(b"E" + struct.pack("!I", len(fields) + 4) + fields)

    return behaviour


def web_page(connection: socket.socket) -> None:
    connection.recv(1000)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def cut(connection: socket.socket) -> None:
    del connection


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("code", "text", "word"),
    [
        ("53300", "sorry, too many clients already", "full"),
        ("53300", "remaining connection slots are reserved for roles with the SUPERUSER attribute", "full"),
        ("53300", 'too many connections for role "bird"', "full"),
        ("28P01", 'password authentication failed for user "bird"', "refused"),
        ("28000", 'role "bird" does not exist', "refused"),
        ("28000", 'no pg_hba.conf entry for host "127.0.0.1"', "refused"),
        ("3D000", 'database "first" does not exist', "missing"),
        ("57P03", "the database system is starting up", "starting"),
        ("57P03", "the database system is not yet accepting connections", "starting"),
        ("XX000", "cache lookup failed", "strange"),
    ],
)
def test_what_postgresql_says_is_named_for_what_it_is(
    monkeypatch: pytest.MonkeyPatch, code: str, text: str, word: str
) -> None:
    with server(postgres_error(code, text)) as port:
        monkeypatch.setenv("POSTGRES_PORTS", str(port))
        assert answer_of(ask_database) == Answer(word, text)


@pytest.mark.parametrize(("behaviour", "word"), [(web_page, "strange"), (cut, "starting")])
def test_what_is_not_postgresql(
    monkeypatch: pytest.MonkeyPatch, behaviour: Callable[[socket.socket], None], word: str
) -> None:
    with server(behaviour) as port:
        monkeypatch.setenv("POSTGRES_PORTS", str(port))
        assert answer_of(ask_database).word == word


@pytest.mark.parametrize("behaviour", [web_page, cut])
def test_a_port_that_cuts_the_connection_may_yet_become_a_broker(
    monkeypatch: pytest.MonkeyPatch, behaviour: Callable[[socket.socket], None]
) -> None:
    # A container's port is open before the broker in it is.
    with server(behaviour) as port:
        monkeypatch.setenv("RABBITMQ_PORTS", str(port))
        assert answer_of(ask_broker).word == "starting"


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("POSTGRES_PORTS", str(closed.getsockname()[1]))
        monkeypatch.setenv("RABBITMQ_PORTS", str(closed.getsockname()[1]))
        assert answer_of(ask_database) == Answer(
            "away", "Connection refused Is the server running on that host and accepting TCP/IP connections?"
        )
        assert answer_of(ask_broker) == Answer("away", "Connection refused")


def test_a_host_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RABBITMQ_PORTS", "5672")
    monkeypatch.setenv("RABBITMQ_HOSTS", "nowhere.invalid")
    assert answer_of(ask_broker).word == "strange"
