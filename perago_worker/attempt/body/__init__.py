"""Calling the author's function: in a warm child process, or in a thread of the worker."""
