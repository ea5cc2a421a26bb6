"""The documents: links lead somewhere, tables of contents are complete, and what can be run works."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from tests.support.documents import PAGES, ROOT, anchor, blocks, headings, name_of, prose

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        if not linked.exists() or (
            fragment and fragment not in {anchor(heading) for heading in headings(linked)}
        ):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))], ids=name_of)
def test_the_table_of_contents_lists_every_heading_in_order(page: Path) -> None:
    listed = re.findall(r"^- \[([^\]]+)\]\(#([^)]+)\)", prose(page), re.MULTILINE)
    assert listed == [(heading, anchor(heading)) for heading in headings(page)]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_of_this_repository_exist(page: Path) -> None:
    commands = re.findall(r"(?:^|[\s`=])(\./[\w./]+\.sh|[\w/]+\.py)\b", "\n".join(blocks(page, "bash")))
    missing = [command for command in commands if not (ROOT / command).exists()]
    assert missing == []


def test_the_rules_run_without_the_services_as_the_documents_say() -> None:
    (code,) = blocks(ROOT / "docs/developing.md", "python")
    names: dict[str, object] = {"stored_messages": [book("spot", 100, 101), book("linear", 105, 106)]}
    exec(compile(code, "docs/developing.md", "exec"), names)  # noqa: S102 - it is the code of the document
    assert len(names["signal"].spreads) == len(names["engine"].spreads) == 1  # type: ignore[attr-defined]


def test_messages_that_are_played_twice_are_traded_on_twice_as_the_documents_say() -> None:
    (code,) = blocks(ROOT / "docs/developing.md", "python")
    once = [book("spot", 100, 101), book("linear", 105, 106)]
    apart = [book("spot", 99, 100), book("linear", 100, 102)]
    names: dict[str, object] = {"stored_messages": [*once, *apart, *once, *apart]}
    exec(compile(code, "docs/developing.md", "exec"), names)  # noqa: S102 - it is the code of the document
    orders = names["engine"].orders  # type: ignore[attr-defined]
    names = {"stored_messages": [*once, *apart]}
    exec(compile(code, "docs/developing.md", "exec"), names)  # noqa: S102
    assert len(orders) == 2 * len(names["engine"].orders) > 0  # type: ignore[attr-defined]


_numbers = itertools.count(1)


def book(channel: str, bid: int, ask: int) -> bytes:
    number = next(_numbers)
    return (
        f'{{"topic": "orderbook.50.BTCUSDT", "type": "snapshot", "ts": {number}, "cts": {number},'
        f' "data": {{"s": "BTCUSDT", "b": [["{bid}", "1"]], "a": [["{ask}", "1"]], "u": {number},'
        f' "seq": {number}}}, "channel": "{channel}", "matching_key": "a"}}'
    ).encode()


def test_each_test_that_a_rule_names_exists() -> None:
    page = ROOT / "tests/README.md"
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", page.read_text())
    assert len(named) > 50
    missing = []
    for path, name in named:
        file = page.parent / path
        if not file.exists() or not re.search(rf"^(?:async )?def {name}\(", file.read_text(), re.MULTILINE):
            missing.append(f"{path}::{name}")
    assert missing == []
