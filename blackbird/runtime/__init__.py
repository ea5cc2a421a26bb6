"""What a service process consists of: start and end, threads, logs."""
