"""The measurements, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from benchmarks.bench import Bench
from benchmarks.results import Row, Sample
from benchmarks.rows import costs, curves, parts, queue, sync


@dataclass(frozen=True)
class Measurement:
    """Something that is run, and the rows it fills."""

    rows: tuple[Row, ...]
    run: Callable[[Bench], Iterator[Sample]]


MEASUREMENTS: Mapping[str, Measurement] = {
    "small": Measurement((sync.COLD, sync.WARM), sync.small_files),
    "large": Measurement((sync.LARGE, sync.LARGE_AGAIN), sync.large_files),
    "rewrite": Measurement((sync.REWRITE,), sync.all_changed),
    "huge": Measurement((sync.HUGE,), sync.huge_object),
    "calls": Measurement((sync.CALLS, sync.CALLS_AGAIN), sync.calls),
    "costs": Measurement((costs.COSTS,), costs.costs),
    "backlog": Measurement((queue.BACKLOG_1, queue.BACKLOG_10), queue.backlog),
    "parts": Measurement((parts.PARTS,), parts.parts),
    "pickup": Measurement((queue.PICKUP,), queue.pickup),
    "idle": Measurement((queue.IDLE_1, queue.IDLE_5), queue.idle),
    "files": Measurement((curves.FILES_COLD, curves.FILES_WARM), curves.files),
    "slots": Measurement((curves.SLOTS, curves.SLOTS_PAUSE), curves.slots),
    "sizes": Measurement((curves.SIZES,), curves.sizes),
}
