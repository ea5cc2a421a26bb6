"""The trading rules: spreads, signal, trading engine. Pure."""
