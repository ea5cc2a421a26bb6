"""Percentiles of a run's figures."""

from __future__ import annotations

from collections.abc import Sequence


def percentile(ordered: Sequence[int], percent: int) -> int | None:
    """Return a percentile of ordered numbers, None where there are none."""
    if not ordered:
        return None
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)]
