"""A screenshot with at most 256 colours: half the size, and nothing that is seen is lost.

For 8-bit RGB and RGBA pictures without interlace, as Chromium makes them; the most frequent colours are kept,
the others become the nearest of those. https://www.w3.org/TR/png-3/
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOURS = 256
RGB, PALETTE, RGBA = 2, 3, 6

Colour = tuple[int, int, int]


def small_png(png: bytes) -> bytes:
    """Return the picture with a palette of its most frequent colours."""
    width, height, rows = _decode(png)
    counts: Counter[Colour] = Counter()
    for row in rows:
        counts.update(row)
    palette = [colour for colour, _ in counts.most_common(COLOURS)]
    index = {colour: number for number, colour in enumerate(palette)}
    for colour in counts.keys() - index.keys():
        index[colour] = min(range(len(palette)), key=lambda number: _distance(palette[number], colour))
    lines = b"".join(b"\0" + bytes([index[colour] for colour in row]) for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 8, PALETTE, 0, 0, 0)
    chunks = (
        (b"IHDR", header),
        (b"PLTE", b"".join(map(bytes, palette))),
        (b"IDAT", zlib.compress(lines, 9)),
        (b"IEND", b""),
    )
    return SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def _distance(one: Colour, other: Colour) -> int:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(SIGNATURE)
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        yield png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        at += length + 12


def _decode(png: bytes) -> tuple[int, int, list[list[Colour]]]:
    chunks = list(_chunks(png))
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", dict(chunks)[b"IHDR"])
    if depth != 8 or kind not in {RGB, RGBA} or interlaced:
        raise ValueError(f"expected 8-bit RGB without interlace, was depth {depth}, kind {kind}")
    step = 3 if kind == RGB else 4
    data = zlib.decompress(b"".join(body for name, body in chunks if name == b"IDAT"))
    stride = width * step
    before = bytearray(stride)
    rows = []
    for at in range(0, height * (stride + 1), stride + 1):
        before = _unfilter(data[at], bytearray(data[at + 1 : at + 1 + stride]), before, step)
        rows.append([(before[x], before[x + 1], before[x + 2]) for x in range(0, stride, step)])
    return width, height, rows


def _unfilter(kind: int, line: bytearray, above: bytearray, step: int) -> bytearray:
    """Undo a row's filter: 0 none, 1 left, 2 above, 3 mean of both, 4 Paeth's predictor."""
    for x in range(len(line)) if kind else ():
        left = line[x - step] if x >= step else 0
        corner = above[x - step] if x >= step else 0
        guess = (0, left, above[x], (left + above[x]) // 2, _paeth(left, above[x], corner))[kind]
        line[x] = (line[x] + guess) & 255
    return line


def _paeth(left: int, above: int, corner: int) -> int:
    guess = left + above - corner
    return min((left, above, corner), key=lambda near: abs(guess - near))
