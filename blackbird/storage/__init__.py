"""Parts of the data storage service."""
