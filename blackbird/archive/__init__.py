"""Stored markets: the archive of Parquet files, recordings, and what other programs read."""
