"""Limits and field types that every message shares."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

MAX_TEXT = 256
_UNSTORABLE = re.compile("[\0\ud800-\udfff]").search
LARGEST_BIGINT = 2**63 - 1


class InvalidMessage(ValueError):
    """A body that is not what its queue takes; the text says which field and why."""


UnsignedBigint = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_BIGINT)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TEXT)]


def is_db_safe(text: str) -> bool:
    """Tell whether a database text can hold `text`: JSON can spell NUL and lone surrogates, it cannot."""
    return _UNSTORABLE(text) is None
