"""What one attempt found in the cache."""

from __future__ import annotations

import threading
from collections import Counter

from perago_worker.attempt.cache import ContentCache
from perago_worker.attempt.ranges import Source
from perago_worker.events import CacheLookup


class CacheUse:
    """Looks objects up for one download, and counts.

    Safe from any thread.

    Attributes:
        lookups: What came of them, and how often.
        hit_bytes: Bytes that came out of the cache.
    """

    def __init__(self, cache: ContentCache) -> None:
        self._cache = cache
        self._lock = threading.Lock()
        self.lookups: Counter[CacheLookup] = Counter()
        self.hit_bytes = 0

    def fill(self, source: Source, descriptor: int) -> str | None:
        """Copy an object into an open, empty file and return its checksum.

        Returns:
            None when it has to be read from the store.

        Raises:
            OSError: The disk is full.
        """
        info = source.info
        digest = source.store.new_digest(info.size)
        found = self._cache.copy_to(descriptor, info, digest=digest, check=source.check)
        with self._lock:
            self.lookups[found] += 1
            self.hit_bytes += info.size if found == "hit" else 0
        if found != "hit":
            return None
        source.moved(info.size)
        return info.checksum
