"""The command `perago-worker`: arguments in, exit codes and a few lines of text out."""

from perago_worker.cli.app import app, main

__all__ = ["app", "main"]
