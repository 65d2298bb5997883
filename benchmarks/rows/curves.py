"""How costs grow: with the number of files, with the size of one, and with the slots."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.bench import KIB, Bench
from benchmarks.results import Metric, Row, Sample
from benchmarks.rows import sync
from benchmarks.rows.queue import CPU_PER_TASK, RATE, work_off

SECONDS = Metric("seconds", "s")
FILES_COLD = Row(
    "files-cold", "files of 10 KiB, one changed, first attempt", (SECONDS, sync.CPU), x="files"
)
FILES_WARM = Row(
    "files-warm", "files of 10 KiB, one changed, later attempts", (SECONDS, sync.CPU), x="files"
)
SIZES = Row("sizes", "one file, changed: down, written and up", (SECONDS, sync.CPU), x="bytes")
SLOTS = Row("slots", "no-op backlog", (RATE, CPU_PER_TASK), x="slots")
SLOTS_PAUSE = Row(
    "slots-pause", "backlog of tasks that wait 50 ms", (RATE, CPU_PER_TASK), x="slots"
)

MORE_REPEATS = 4
"""Times as many later attempts of the worker as elsewhere: there is one turn only, and the first of
them still meet what servers and disk do about the download before."""

SLOW_FROM = 5000
"""Files from which on only the worker and the bare client are measured: others take minutes."""


def files(bench: Bench) -> Iterator[Sample]:
    """Change one of ever more files."""
    for count in bench.scale.curve_files:
        contenders = ("worker", "limit") if count >= SLOW_FROM else ("worker", "perago", "limit")
        yield from sync.attempts(
            bench,
            (FILES_COLD, FILES_WARM),
            [10 * KIB] * count,
            params=sync.TOUCH_ONE,
            changed=[10 * KIB],
            contenders=contenders,
            rounds=1,
            repeats={"worker": MORE_REPEATS * bench.scale.repeats},
            x=count,
        )


def sizes(bench: Bench) -> Iterator[Sample]:
    """Change one ever larger file."""
    for size in bench.scale.curve_bytes:
        yield from sync.attempts(
            bench, (SIZES, SIZES), [size], kind="rewrite", changed=[size], rounds=1, x=size
        )


def slots(bench: Bench) -> Iterator[Sample]:
    """Work off a backlog with ever more slots."""
    for row, kind in ((SLOTS, "noop"), (SLOTS_PAUSE, "pause")):
        for count in bench.scale.curve_slots:
            for name in bench.turns(("worker", "perago-threads", "plain", "limit"), 1):
                bench.say(f"{row.key}: {name} at {count}")
                tasks = max(bench.scale.backlog // 2, 4 * count)
                yield Sample(row.key, name, work_off(bench, name, kind, count, tasks), x=count)
