from __future__ import annotations

import struct
import zlib

import pytest

from benchmarks.small_png import SIGNATURE, small_png


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(lines: list[bytes], width: int, kind: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, len(lines), 8, kind, 0, 0, 0)
    return (
        SIGNATURE
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"".join(lines)))
        + chunk(b"IEND", b"")
    )


def pixels(picture: bytes) -> list[tuple[int, ...]]:
    """Return the pixels of a picture with a palette and no filters."""
    chunks, at = {}, len(SIGNATURE)
    while at < len(picture):
        (length,) = struct.unpack_from(">I", picture, at)
        chunks[picture[at + 4 : at + 8]] = picture[at + 8 : at + 8 + length]
        at += length + 12
    width, height = struct.unpack_from(">II", chunks[b"IHDR"])
    data, palette = zlib.decompress(chunks[b"IDAT"]), chunks[b"PLTE"]
    return [
        tuple(palette[3 * n : 3 * n + 3])
        for row in range(height)
        for n in data[row * (width + 1) + 1 : (row + 1) * (width + 1)]
    ]


A, B = bytes([10, 20, 30]), bytes([13, 18, 40])
ROW = A + B
LEFT = bytes(3) + A


def filtered(kind: int) -> bytes:
    """Return the row below one of the same colours, as a filter writes it."""
    guesses = (bytes(6), LEFT, ROW, bytes((a + b) // 2 for a, b in zip(LEFT, ROW, strict=True)), ROW)
    return bytes([kind, *((a - b) & 255 for a, b in zip(ROW, guesses[kind], strict=True))])


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4])
def test_every_filter_is_undone(kind: int) -> None:
    picture = small_png(png([b"\0" + ROW, filtered(kind)], 2))
    assert pixels(picture) == [tuple(A), tuple(B), tuple(A), tuple(B)]


def test_rare_colours_become_the_nearest_frequent_one() -> None:
    many = [bytes([n, 0, 0]) for n in range(256)] * 2
    picture = small_png(png([b"\0" + b"".join([*many, bytes([7, 1, 0])])], 513))
    assert pixels(picture)[-1] == (7, 0, 0)


def test_transparency_is_dropped() -> None:
    assert pixels(small_png(png([b"\0" + A + b"\xff"], 1, kind=6))) == [tuple(A)]


def test_another_kind_of_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 8-bit RGB"):
        small_png(png([b"\0" + b"\1"], 1, kind=0))
