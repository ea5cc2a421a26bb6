"""The private side of the local exchange: accounts, orders, REST and the private stream."""
