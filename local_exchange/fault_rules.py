"""Faults that stand until their time or their count is over, and what they are narrowed to."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

NO_FACTS: Mapping[str, str] = MappingProxyType({})


class FaultError(ValueError):
    """A fault that cannot be switched; the text says why."""


@dataclass
class Rule:
    """A fault that stands: it meets what fits it until its time or its count is over."""

    name: str
    channel: str | None = None
    symbol: str | None = None
    # Further facts that it is narrowed to: each is to contain the text given here.
    only: dict[str, str] = field(default_factory=dict)
    # The share of what fits that is met.
    share: float = 1.0
    until: float = math.inf
    left: float = math.inf
    # What the fault was given beyond the above.
    given: dict[str, Any] = field(default_factory=dict)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def fits(self, name: str, channel: str, symbol: str | None, facts: Mapping[str, str] = NO_FACTS) -> bool:
        """Return whether the rule is about this fault, channel and symbol, and these facts."""
        return (
            self.name == name
            and self.left > 0
            and self.channel in {None, channel}
            and self.symbol in {None, symbol}
            and all(text in facts.get(fact, "") for fact, text in self.only.items())
        )

    def describe(self) -> dict[str, Any]:
        """Show the rule the way the control interface lists it."""
        return {
            "fault": self.name,
            "channel": self.channel,
            "symbol": self.symbol,
            "seconds_left": None if math.isinf(self.until) else self.until - time.monotonic(),
            "count_left": None if math.isinf(self.left) else self.left,
            **self.only,
            **({} if self.share == 1 else {"share": self.share}),
            **self.given,
        }


class FaultRules:
    """The faults that stand on one exchange.

    Args:
        seed: of the draws by which a rule with a share meets some and spares others.
    """

    def __init__(self, seed: int = 1) -> None:
        self._rules: list[Rule] = []
        self._rng = random.Random(seed)  # noqa: S311 - which request meets a fault, not a secret

    def standing(self) -> list[Rule]:
        """Return the faults that stand now."""
        return [rule for rule in self._rules if rule.left > 0]

    def has(self, name: str) -> bool:
        """Return whether a fault of this name stands."""
        return any(rule.name == name for rule in self.standing())

    def meet(
        self, name: str, channel: str, symbol: str | None = None, *, facts: Mapping[str, str] = NO_FACTS
    ) -> Rule | None:
        """Return the standing fault that meets this channel and symbol and these facts, and count it."""
        for rule in self._rules:
            if not rule.fits(name, channel, symbol, facts):
                continue
            if rule.share == 1 or self._rng.random() < rule.share:
                rule.left -= 1
                return rule
        return None

    def add(self, rule: Rule, *, seconds: float | None = None, count: int | None = None) -> None:
        """Let a rule stand, for `seconds` or `count` times where given.

        Raises:
            FaultError: one of the numbers does not fit.
        """
        check_numbers(seconds=seconds, count=count, share=rule.share)
        if seconds is not None:
            rule.until = time.monotonic() + seconds
            asyncio.get_running_loop().call_later(seconds, self.end, rule)
        if count is not None:
            rule.left = count
        self._rules.append(rule)

    def end(self, rule: Rule) -> None:
        """Take a rule away, and wake what it held."""
        if rule in self._rules:
            self._rules.remove(rule)
        rule.ended.set()

    def end_all(self) -> list[Rule]:
        """End every rule, and return them; one whose count is used up may still hold something."""
        rules = list(self._rules)
        for rule in rules:
            self.end(rule)
        return rules


def check_numbers(**numbers: object) -> None:
    """Refuse what JSON may have brought in the place of a number of at least 0.

    Raises:
        FaultError: it names the number.
    """
    for name, number in numbers.items():
        if number is not None and not (isinstance(number, int | float) and number >= 0):
            raise FaultError(f"expected {name} to be a number of at least 0, was {number!r}")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a word that is not among the choices.

    Raises:
        FaultError: it lists them.
    """
    if value not in choices:
        raise FaultError(f"expected {name} to be {', '.join(choices)}, was {value}")
