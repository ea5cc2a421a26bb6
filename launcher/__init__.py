"""What ./start_microservice.sh runs: the four services in one terminal, and the demo."""
