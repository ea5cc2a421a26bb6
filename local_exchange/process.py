"""The local exchange as a process of its own, for tests and benchmarks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

ROOT = Path(__file__).resolve().parent.parent
READY = re.compile(
    r"listening on (ws://\S+), control on (http://\S+) \| REST on (http://\S+) \| private stream on (ws://\S+)"
)


class ControlError(RuntimeError):
    """The control interface refused a request; the text is its answer."""


class ExchangeProcess:
    """Starts `python -m local_exchange` with these arguments, and ends it with the `with` block.

    Raises:
        RuntimeError: it ended before it was ready; its reason is on stderr.
    """

    def __init__(self, *arguments: str, port: int = 0) -> None:
        command = [sys.executable, "-m", "local_exchange", "--port", str(port), *arguments]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        ready = READY.match(self.process.stdout.readline() if self.process.stdout else "")
        if ready is None:
            raise RuntimeError(f"expected the exchange to start, it ended with {self.stop()}")
        self.url, self.control_url, self.rest_url, self.private_url = ready.groups()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> int:
        """Ask the process to end, and return its exit status."""
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        return self.process.returncode

    def get(self, path: str) -> Any:
        """GET a path of the control interface, such as `/counters`."""
        return self._request(path, None)

    def post(self, path: str, /, **given: Any) -> Any:
        """POST to a path of the control interface, such as `/step`."""
        return self._request(path, given)

    def fault(self, name: str, /, **given: Any) -> int:
        """Switch a fault, and return how many sockets, topics or rules it touched."""
        matched: int = self.post(f"/faults/{name}", **given)["matched"]
        return matched

    def _request(self, path: str, given: dict[str, Any] | None) -> Any:
        body = None if given is None else json.dumps(given).encode()
        request = urllib.request.Request(self.control_url + path, data=body)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise ControlError(f"{path}: {error.read().decode()}") from None
