"""The table below the lines, on a screen that the test keeps."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator

import pytest

from launcher.live_terminal import LiveTerminal
from launcher.status_table import StatusTable

INFO = "2026-12-01 00:00:00,000 INFO    as ever"
WARNING = "2026-12-01 00:00:00,000 WARNING careful"


class FakeTable(StatusTable):
    """Has as many lines as the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = ["one", "two"]

    def draw(self, width: int, height: int, *, colours: bool) -> list[str]:
        del colours
        return [line[:width] for line in self.lines][:height]


def screen(written: str) -> list[str]:
    """Return the lines that a terminal shows after this was written."""
    lines: list[str] = []
    at = 0
    for part in re.findall(r"\x1b\[\d+A\r|\x1b\[J|[^\n\x1b]*\n", written):
        if part.endswith("A\r"):
            at -= int(part[2:-2])
        elif part == "\x1b[J":
            del lines[at:]
        else:
            lines[at : at + 1] = [part[:-1]]
            at += 1
    return lines


class Scene:
    def __init__(self, descriptor: int, size: Callable[[], tuple[int, int]]) -> None:
        self.table = FakeTable()
        self.terminal = LiveTerminal(
            3, lambda: None, self.table, colours=False, descriptor=descriptor, size=size
        )


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)


def played(pipe: tuple[int, int], script: Callable[[Scene], None], rows: int = 24) -> list[str]:
    scene = Scene(pipe[1], lambda: (80, rows))
    script(scene)
    scene.terminal.close()
    os.close(pipe[1])
    written = b""
    while chunk := os.read(pipe[0], 65_536):
        written += chunk
    return screen(written.decode())


def test_the_table_stays_below_the_lines_and_is_drawn_once(pipe: tuple[int, int]) -> None:
    def script(scene: Scene) -> None:
        scene.terminal.show("one", [WARNING])
        scene.terminal.show_unmarked([])
        scene.terminal.show("two", [WARNING])

    assert played(pipe, script) == [f"one | {WARNING}", f"two | {WARNING}", "one", "two"]


def test_ordinary_lines_of_programs_are_not_shown_and_others_are(pipe: tuple[int, int]) -> None:
    json_info = '{"time": "2026-12-01T00:00:00.000Z", "level": "INFO", "service": "x"}'
    json_error = '{"time": "2026-12-01T00:00:00.000Z", "level": "ERROR", "service": "x"}'
    shown = [WARNING, json_error, "Traceback (most recent call last):", "setting X: expected a number"]

    def script(scene: Scene) -> None:
        scene.terminal.show("one", [INFO, json_info])
        scene.terminal.show("one", [INFO, *shown])
        scene.terminal.show("launcher", ["2026-12-01 00:00:00 started"])

    lines = played(pipe, script)
    assert lines[:-2] == [*(f"one | {line}" for line in shown), "launcher | 2026-12-01 00:00:00 started"]


def test_a_frozen_table_stays_above_what_follows(pipe: tuple[int, int]) -> None:
    def script(scene: Scene) -> None:
        scene.terminal.show("one", [WARNING])
        scene.terminal.freeze()
        scene.terminal.redraw()
        scene.terminal.show_unmarked(["the result"])

    assert played(pipe, script) == [f"one | {WARNING}", "one", "two", "the result"]


def test_it_never_needs_more_lines_than_the_terminal_has(pipe: tuple[int, int]) -> None:
    def script(scene: Scene) -> None:
        scene.table.lines = [str(number) for number in range(50)]
        for _ in range(3):
            scene.terminal.show_unmarked([])

    assert played(pipe, script, rows=10) == [str(number) for number in range(8)]
