"""Examples of task modules."""
