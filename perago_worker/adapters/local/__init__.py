"""Both ports embedded: for first use, for tests, and for work that needs no servers."""
