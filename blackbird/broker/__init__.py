"""RabbitMQ: topology, sessions, the fast path for messages."""
