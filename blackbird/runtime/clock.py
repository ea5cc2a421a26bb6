"""The time of day as every message and table has it."""

from __future__ import annotations

import time


def milliseconds() -> int:
    """Return the time of day in milliseconds since 1970."""
    return time.time_ns() // 1_000_000
