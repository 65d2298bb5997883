"""How fast the worker is, side by side with what else could be used, on real servers.

Nothing here is part of the package that is installed. `python -m benchmarks --help` says more.
"""
