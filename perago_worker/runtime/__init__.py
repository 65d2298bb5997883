"""How the worker lives: its services, their order of start and stop, and its end."""
