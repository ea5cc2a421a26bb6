"""A certificate that a test makes for itself."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest


class Certificate(NamedTuple):
    """A self-signed certificate: its file, which is the CA file too, and the context of a server with it."""

    file: Path
    server: ssl.SSLContext


def make_certificate(folder: Path, host: str = "localhost") -> Certificate:
    """Make a certificate for `host`, with files in `folder`."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    file, key = folder / f"{host}.pem", folder / f"{host}.key"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    names = ["-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}"]
    files = ["-keyout", str(key), "-out", str(file)]
    subprocess.run([*request, *names, *files], check=True, capture_output=True)
    return Certificate(file, server_context(file))


def server_context(file: Path) -> ssl.SSLContext:
    """Return the context of a server with a certificate that `make_certificate` has made."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file, file.with_suffix(".key"))
    return server
