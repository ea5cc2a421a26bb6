"""What a market is: instruments, levels, book messages, order books. Pure."""
