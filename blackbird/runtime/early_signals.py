"""Imported first by each service: to be ended while the rest is still being imported is no error.

Importing takes up to two seconds, in which Python's own answers to SIGINT and SIGTERM are a traceback and
death by signal. Nothing has begun by then, so that there is nothing to finish.
"""

from __future__ import annotations

import os
import signal


def _end(*_: object) -> None:
    # Not SystemExit, which whatever is being imported might catch.
    os._exit(0)


for _number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(_number, _end)
