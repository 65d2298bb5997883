"""The workspace store over lakeFS.

`store` and `stage` implement the port with the calls in `api`, over the connections in `transport`.
`mapping` turns what the server says into the worker's words, and `fence` holds the hook that makes
a merge a compare-and-swap.
"""

from perago_worker.adapters.lakefs.settings import LakeFSSettings
from perago_worker.adapters.lakefs.store import LakeFSStore

__all__ = ["LakeFSSettings", "LakeFSStore"]
