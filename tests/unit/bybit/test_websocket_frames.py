"""Frames cut out of bytes that arrive in any pieces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbird.bybit.websocket_frames import LARGEST_MESSAGE, FrameParser, InvalidFrame


def frame(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    size = len(payload)
    if size < 126:
        length = bytes([size])
    elif size < 65536:
        length = b"\x7e" + size.to_bytes(2, "big")
    else:
        length = b"\x7f" + size.to_bytes(8, "big")
    return bytes([(0x80 if final else 0) | opcode]) + length + payload


def messages(*chunks: bytes) -> list[tuple[int, bytes]]:
    taken: list[tuple[int, bytes]] = []
    parser = FrameParser(lambda opcode, payload: taken.append((opcode, payload)))
    for chunk in chunks:
        parser.feed(chunk)
    return taken


sizes = st.sampled_from([0, 1, 125, 126, 127, 65535, 65536, 70000]) | st.integers(0, 300)
payloads = st.lists(st.tuples(st.sampled_from([1, 2, 8, 9, 10]), sizes), max_size=6)


@given(payloads, st.lists(st.integers(0, 140_000), max_size=12))
def test_messages_come_out_whole_however_the_bytes_are_cut(
    contents: list[tuple[int, int]], cuts: list[int]
) -> None:
    expected = [(opcode, bytes(size)) for opcode, size in contents]
    stream = b"".join(frame(opcode, payload) for opcode, payload in expected)
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    chunks = [stream[start:end] for start, end in itertools.pairwise(edges)]
    assert messages(*chunks) == expected


def test_bytes_one_by_one_are_enough() -> None:
    stream = frame(1, b"x" * 200) + frame(9, b"ping")
    assert messages(*(stream[i : i + 1] for i in range(len(stream)))) == [(1, b"x" * 200), (9, b"ping")]


def test_fragments_are_put_together_with_a_ping_between_them() -> None:
    stream = frame(1, b"ab", final=False) + frame(9, b"") + frame(0, b"cd", final=False) + frame(0, b"ef")
    assert messages(stream) == [(9, b""), (1, b"abcdef")]


@pytest.mark.parametrize(
    "stream",
    [
        b"\x81\x85abcd12345",
        b"\xc1\x01x",
        b"\x83\x01x",
        frame(0, b"continues nothing"),
        frame(1, b"a", final=False) + frame(1, b"b"),
        b"\x81\x7f" + (LARGEST_MESSAGE + 1).to_bytes(8, "big"),
        b"\x81\x7f\xff" + bytes(7),
        frame(1, bytes(LARGEST_MESSAGE), final=False) + frame(0, b"x"),
    ],
    ids=[
        "mask",
        "extension",
        "opcode",
        "continuation",
        "interleaved",
        "long",
        "longest",
        "long in fragments",
    ],
)
def test_what_is_no_frame_of_a_server_is_refused(stream: bytes) -> None:
    with pytest.raises(InvalidFrame):
        messages(stream)
