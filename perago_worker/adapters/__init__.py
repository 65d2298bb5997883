"""The ports, implemented: over Conductor, over lakeFS, and embedded."""
