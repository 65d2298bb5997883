"""What the cache was good for since the start, for those who look at the worker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from perago_worker.events import CacheFailed, CacheTrimmed, CacheUsed

MAX_ERROR = 300
"""Characters of what went wrong last."""


class CacheBoard:
    """Adds up events of the cache. Not safe from several threads: its owner has a lock."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._error = ""

    def take(self, event: CacheUsed | CacheTrimmed | CacheFailed) -> None:
        """Take note of one event."""
        match event:
            case CacheUsed(_, lookups, hit_bytes):
                self._counts.update(lookups)
                self._counts["hit_bytes"] += hit_bytes
            case CacheTrimmed(_, size):
                self._counts["evicted_bytes"] += size
            case CacheFailed(error):
                self._counts["failures"] += 1
                self._error = error[:MAX_ERROR]

    def snapshot(self, *, held_bytes: int, max_bytes: int) -> dict[str, Any]:
        """Return everything as plain values.

        Args:
            held_bytes: What it holds, of all workers that share it.
            max_bytes: What it may hold; 0 when there is none.
        """
        kinds = ("hit", "miss", "corrupted", "hit_bytes", "evicted_bytes", "failures")
        return {
            "max_bytes": max_bytes,
            "held_bytes": held_bytes,
            **{kind: self._counts[kind] for kind in kinds},
            "error": self._error,
        }


def cache_line(cache: Mapping[str, Any]) -> str:
    """Say in one line what a snapshot tells."""
    if not cache["max_bytes"]:
        return "off (workspace.cache_max)"
    looks = cache["hit"] + cache["miss"] + cache["corrupted"]
    facts = [f"holds {size(cache['held_bytes'])} of {size(cache['max_bytes'])}"]
    if looks:
        share = 100 * cache["hit"] // looks
        facts.append(f"had {cache['hit']:,} of {looks:,} objects ({share} %)")
        facts.append(f"saved {size(cache['hit_bytes'])} of reading")
    else:
        facts.append("not asked yet")
    if cache["corrupted"]:
        facts.append(f"{cache['corrupted']:,} found damaged and removed")
    if cache["evicted_bytes"]:
        facts.append(f"{size(cache['evicted_bytes'])} removed to make room")
    if cache["failures"]:
        facts.append(f"began to fail {cache['failures']:,} times, last: {cache['error']}")
    return ", ".join(facts)


def size(count: float) -> str:
    """Return bytes as people say them: `512 B`, `1.5 KiB`, `1 GiB`."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while count >= 1024 and len(units) > 1:
        units.pop(0)
        count /= 1024
    return f"{count:,.0f} {units[0]}" if count >= 100 else f"{count:.3g} {units[0]}"
