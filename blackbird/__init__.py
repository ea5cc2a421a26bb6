"""Blackbird: order books in, spread trades out."""
