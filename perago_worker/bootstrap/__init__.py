"""The composition root: a configuration in, a wired worker out.

The one place that names concrete adapters. `run` is a worker's whole life and calls the others:
`tasks` imports what is to be served, `adapters` opens queue and store, `watching` makes what is
kept to be looked at, `attempts` what attempts work with, and `wiring` puts it all under one
supervisor.
"""
