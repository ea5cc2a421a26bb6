"""Parts of the signal service."""
