"""Properties of pushes, encoded once but for their numbers: encoding costs more than all the rest."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Any

from pika.spec import BasicProperties

from blackbird.broker.feed_layout import Share
from blackbird.broker.topology import PERSISTENT, SIGNAL, STORAGE

# Values that stand for those of a push in the encoded properties.
_STAND_INS = {"published_at": 0x7153_2947_1153_2947, "number": 0x7153_2947_1153_2948}
_SEQUENCE = {"sequence": 0x7153_2947_1153_2949}
_pack_number = struct.Struct(">q").pack


def _pieces(keys: list[str], stand_ins: dict[str, int]) -> list[bytes]:
    """Return what is encoded before, between and behind the numbers of a push that goes to these keys too."""
    # CC: the broker routes the one message to these keys too.
    headers: dict[str, Any] = {"CC": keys, **stand_ins}
    encoded = BasicProperties(
        delivery_mode=PERSISTENT, content_type="application/json", headers=headers
    ).encode()
    pieces = [b"".join(encoded)]
    for stand_in in stand_ins.values():
        pieces += pieces.pop().split(_pack_number(stand_in))
    return pieces


class PushProperties(BasicProperties):
    """Properties of a push that goes to `storage` and `signal`."""

    _before, _between, _after = _pieces([SIGNAL], _STAND_INS)
    _pack = struct.Struct(f">q{len(_between)}sq").pack

    def __init__(self, received_ms: int, number: int) -> None:
        self._numbers = self._pack(received_ms, self._between, number)

    def encode(self) -> list[bytes]:
        """Return what pika puts after the size of the body."""
        return [self._before, self._numbers, self._after]


class _Encoded(BasicProperties):
    """Properties that are encoded already."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)

    def encode(self) -> list[bytes]:
        """Return what pika puts after the size of the body."""
        return self._pieces


class PartitionProperties:
    """Makes the properties of the pushes of a partition, which go to its queues too.

    `sequence` counts them, so that a consumer sees where it missed some. It begins with the time: an engine
    must not take the first push of a collector for the one that follows the last of another.
    """

    def __init__(self, number: int, clock_ns: Callable[[], int]) -> None:
        keys = [SIGNAL, f"{SIGNAL}.{number}", f"{STORAGE}.{number}"]
        self._before, self._between, middle, self._after = _pieces(keys, _STAND_INS | _SEQUENCE)
        self._middle = middle
        self._pack = struct.Struct(f">q{len(self._between)}sq{len(middle)}sq").pack
        self._sequence = clock_ns()

    def __call__(self, received_ms: int, number: int) -> BasicProperties:
        """Return the properties of the partition's next push."""
        self._sequence += 1
        numbers = self._pack(received_ms, self._between, number, self._middle, self._sequence)
        return _Encoded(self._before, numbers, self._after)


MakeProperties = Callable[[int, int], BasicProperties]


class PropertiesOfGroups:
    """What makes the properties of the pushes of each matching key."""

    def __init__(self, share: Share, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._share = share
        numbers = range(share.layout.partitions)
        self._partitions: list[MakeProperties] = [PartitionProperties(each, clock_ns) for each in numbers]

    def of(self, matching_key: str) -> MakeProperties | None:
        """Return what makes the properties of a push from when it was received and its number.

        None for a group that another collector publishes.
        """
        if not self._share.has(matching_key):
            return None
        if not self._partitions:
            return PushProperties
        return self._partitions[self._share.layout.partition_of(matching_key)]
