"""The Markdown files of the repository and what is in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "tests/README.md", ROOT / "benchmarks/README.md"]
)

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of one language."""
    return [text for found, text in _FENCED.findall(page.read_text()) if found == language]


def prose(page: Path) -> str:
    """Return the page without its fenced blocks."""
    return _FENCED.sub("", page.read_text())


def headings(page: Path) -> list[str]:
    """Return the headings of the second level, which a table of contents lists."""
    return re.findall(r"^## (.+)$", prose(page), re.MULTILINE)


def anchor(heading: str) -> str:
    """Return the anchor that a page on a code host has for a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
