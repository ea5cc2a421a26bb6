"""Reads an exported CSV with hftbacktest and nautilus_trader, in an environment that has both.

    python read_tardis.py FILE SYMBOL

Prints the number of events of the one and of deltas of the other. A program of its own: nautilus_trader pins
another uvloop than the services have.
"""

import sys

from hftbacktest.data.utils import tardis  # type: ignore[import-not-found]
from nautilus_trader.adapters.tardis.loaders import TardisCSVDataLoader  # type: ignore[import-not-found]
from nautilus_trader.model.identifiers import InstrumentId  # type: ignore[import-not-found]

if __name__ == "__main__":
    path, symbol = sys.argv[1:]
    events = tardis.convert([path], buffer_size=1_000_000)
    instrument = InstrumentId.from_str(f"{symbol}.BYBIT")
    loader = TardisCSVDataLoader(price_precision=2, size_precision=6, instrument_id=instrument)
    print(len(events), len(loader.load_deltas(path)))
