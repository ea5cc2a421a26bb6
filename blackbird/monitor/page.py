"""The page: fragments of HTML for each card, and the arrays of its charts, as the messages of its stream."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import msgspec

from blackbird.monitor import cards
from blackbird.monitor.board import SERVICES
from blackbird.monitor.sources import Sources
from blackbird.monitor.text import clock, date
from blackbird.status.messages import PairStatus

FOLDER = Path(__file__).resolve().parent
ASSETS = {"page.css": FOLDER / "static", "page.js": FOLDER / "static", "icon.svg": FOLDER / "static"}

_encode = msgspec.json.Encoder().encode


def find_pair(pairs: Sequence[PairStatus], key: str) -> PairStatus | None:
    """Return the pair that `key` names, else the first one."""
    return next((pair for pair in pairs if cards.pair_key(pair) == key), pairs[0] if pairs else None)


class Page:
    """Renders the page out of `Sources`. Without viewers nothing is rendered."""

    def __init__(self) -> None:
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(FOLDER / "templates"),
            autoescape=True,
            trim_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        self._templates = {name: environment.get_template(name) for name in environment.list_templates()}
        self.html = self._templates["page.html"].render()
        # A page that was loaded from an older monitor loads itself again.
        self._version = _digest(FOLDER)

    def snapshot(self, sources: Sources, key: str, now_ms: int) -> str:
        """Return what the page shows now, the pair `key` in detail, as the JSON that its script takes."""
        pairs = sources.board.pairs
        pair = find_pair(pairs, key)
        legs = () if pair is None else (pair.directions[0].long, pair.directions[0].short)
        html = self._fragments(sources, pair, now_ms)
        seen = cards.service_times(sources)
        state = {
            "now": now_ms / 1000,
            "stale_after": sources.stale_seconds,
            "version": self._version,
            "mode": sources.board.mode,
            "title": " · ".join(filter(None, (sources.board.mode, "Blackbird"))),
            "html": html,
            "at": {name: at / 1000 for name, at in _times(sources, pair, seen).items()},
            "rows": {"why": self._why(sources, pairs, legs, now_ms)},
        }
        return _encode(state).decode()

    def charts(self, sources: Sources, key: str) -> str:
        """Return the arrays of the charts, as the JSON that the page's script takes."""
        pair = find_pair(sources.board.pairs, key)
        history = sources.history
        pnl = history.pnl()
        data: dict[str, Any] = {"spread": [[], [], []], "pnl": pnl, "marks": [], "entry": None}
        if pair is not None:
            direction = cards.ordered(sources, pair)[0]
            data["spread"] = history.spread(direction.long, direction.short)
            data["marks"] = history.marks(direction.long, direction.short)
            data["entry"] = None if direction.threshold is None else float(direction.threshold)
        return _encode(data).decode()

    def _fragments(self, sources: Sources, pair: PairStatus | None, now_ms: int) -> dict[str, str]:
        hedged = cards.hedged(sources, pair)
        opened = cards.open_spreads(sources)
        orders = cards.last_orders(sources)
        name = "" if pair is None else cards.pair_name(pair.directions[0].long, pair.directions[0].short)
        return {
            "services": self._render("services.html", cards.services(sources)),
            "clock": self._render_clock(now_ms),
            "hedged": self._render("hedged.html", hedged),
            "hedged-note": _text(f"group {hedged['group']}" if hedged["group"] is not None else ""),
            "spread-now": self._render("spread.html", cards.spread_now(sources, pair)),
            "spread-note": _text(name),
            "pnl-now": self._render("pnl.html", cards.pnl(sources)),
            "pnl-note": "quote coin, all groups, since the history began",
            "troubles": self._render("troubles.html", {"troubles": cards.troubles(sources, now_ms)}),
            "open": self._render("open.html", opened),
            "open-note": _text(
                f"{opened['open']:,} open, {opened['quantity']} {opened['coin']}, oldest first"
                if opened["open"]
                else ""
            ),
            "books": self._render("books.html", cards.books(sources, pair)),
            "charts-note": f'{_text(name)} <i class="key o"></i>open <i class="key c"></i>close',
            "orders": self._render("orders.html", orders),
            "orders-note": _text(orders["totals"]),
            "plumbing": self._render("plumbing.html", cards.plumbing(sources, now_ms)),
        }

    def _why(
        self, sources: Sources, pairs: Sequence[PairStatus], chosen: Sequence[Any], now_ms: int
    ) -> list[tuple[str, str, str, float, bool]]:
        rows = []
        for pair in pairs:
            legs = (pair.directions[0].long, pair.directions[0].short)
            key = cards.pair_key(pair)
            row = cards.why_row(sources, pair, key, now_ms)
            head, rest = self._render("why_head.html", row), self._render("why_rest.html", row)
            heard = cards.row_heard_ms(sources, pair) / 1000
            rows.append((f"why {key}", head, rest, heard, legs == tuple(chosen)))
        return rows

    def _render(self, template: str, context: Mapping[str, Any]) -> str:
        return self._templates[template].render(context)

    @staticmethod
    def _render_clock(now_ms: int) -> str:
        return f'{date(now_ms)} <b>{clock(now_ms)[:8]}</b> UTC · page <span id="age"></span> old'


def _times(sources: Sources, pair: PairStatus | None, seen: Mapping[str, int]) -> dict[str, int]:
    """Return for each card the time of the oldest of what its figures are made of (milliseconds)."""
    market = min(seen["signal"], seen["collector"])
    direction = None if pair is None else cards.ordered(sources, pair)[0]
    legs = () if direction is None else (direction.short, direction.long)
    books = [cards.heard_ms(sources, leg) for leg in legs]
    times = {
        "card-hedged": seen["engine"],
        "card-spread": min([market, *books]),
        "card-pnl": min(market, seen["engine"]),
        "card-why": market,
        "card-open": min(market, seen["engine"]),
        "card-books": market,
        "card-charts": min(market, seen["engine"], seen["database"]),
        "card-orders": seen["signal"],
        "plumbing-foot": min(seen["storage"], seen["database"]),
    }
    times |= {f"plumbing-{name}": min(seen[name], seen["broker"]) for name in SERVICES}
    times |= {f"book-{number}": at for number, at in enumerate(books)}
    times |= {f"service-{name}": at for name, at in seen.items()}
    return times


def _text(text: str) -> str:
    return str(markupsafe.escape(text))


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted([*(folder / "static").iterdir(), folder / "templates" / "page.html"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
