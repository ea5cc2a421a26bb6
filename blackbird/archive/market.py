"""A stored market by its place: what a process that is to read it needs to be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blackbird.archive.layout import TimeRange
from blackbird.archive.reader import Archive
from blackbird.archive.recording import Recording
from blackbird.archive.source import Source

# A compressed message of a recording has at least so many bytes.
_RECORDED_BYTES = 16


@dataclass(frozen=True)
class Market:
    """A recording, or a range of an archive; of all groups or of some."""

    path: Path
    span: TimeRange | None = None  # None: a recording
    groups: tuple[str, ...] = ()

    def open(self) -> Source:
        """Return its messages."""
        if self.span is None:
            return Recording(self.path, self.groups)
        return Archive(self.path, self.span, groups=self.groups)

    def is_small(self, messages: int) -> bool:
        """Return whether it has at most about so many messages; raises SourceError or OSError."""
        size = self.open().total
        return size <= (messages * _RECORDED_BYTES if self.span is None else messages)
