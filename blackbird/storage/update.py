"""What is stored of one message."""

from __future__ import annotations

import msgspec
from pika.spec import BasicProperties


class Update(msgspec.Struct, frozen=True, gc=False):
    """Rows to be stored, as lines of COPY's text format, and the message that they came in.

    `as_sent` is what the rows of levels do not say, see level_rows.
    """

    lines: str
    properties: BasicProperties
    body: bytes
    as_sent: str | None = None
