"""The page and the metrics: what the services say of themselves, put together for people. Reads only."""
