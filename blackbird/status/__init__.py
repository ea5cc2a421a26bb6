"""What the services say of themselves twice a second. Pure."""
