"""Imported first by each service, so that a signal while the rest is being imported ends it with status 0.

Importing takes up to two seconds, during which Python's default handling of SIGINT and SIGTERM is a
traceback and death by signal. Nothing has been started by then, so there is nothing to finish.
"""

from __future__ import annotations

import os
import signal


def _end(*_: object) -> None:
    # Not SystemExit: the module being imported might catch it.
    os._exit(0)


for _number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(_number, _end)
