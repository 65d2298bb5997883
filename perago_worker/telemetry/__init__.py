"""What is seen of a worker from outside: its logs, its metrics, its probes, its summary."""
