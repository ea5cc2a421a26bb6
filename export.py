"""Exports stored market data: Parquet files, a recording, or CSV for other backtesting programs."""

from __future__ import annotations

import sys

from blackbird.archive.command import ArchiveSetting, main
from config import Config, check_settings
from database_manager import DatabaseManager

if __name__ == "__main__":
    check_settings()
    sys.exit(main(DatabaseManager("export", Config.DB_CONFIG), ArchiveSetting.of(Config.ARCHIVE_PATH)))
