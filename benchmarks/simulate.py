"""What many workers ask of Conductor and lakeFS: worked out, and played through to check that.

`python -m benchmarks.simulate --workers 1000 --rate 5 --duration-s 60` prints both. docs/scale.md
uses the arithmetic; the simulation does not.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import sys
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, fields

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

POP_EVERY_S = 0.1
"""A poll that Conductor 3.32.1 holds open asks its queue this often."""

REQUESTS_PER_BEAT = 2
"""A heartbeat looks at the lease, then extends it."""


@dataclass(frozen=True)
class Fleet:
    """Workers and their load.

    Attributes:
        types: Task types that every worker serves.
        slots: Slots of each type on each worker.
        rate: Tasks a second over all types.
        duration_s: From poll to report.
        poll_wait_s: How long the server holds an idle poll open.
        heartbeat_s: Time between two heartbeats of an attempt.
        store_calls: Requests to lakeFS of one attempt.
        store_mib: What one attempt moves from and to lakeFS.
    """

    workers: int
    types: int = 1
    slots: int = 1
    rate: float = 0.0
    duration_s: float = 60.0
    poll_wait_s: float = 5.0
    heartbeat_s: float = 20.0
    store_calls: float = 0.0
    store_mib: float = 0.0


@dataclass(frozen=True)
class Demand:
    """What a fleet asks for, each second.

    Attributes:
        polls: Polls that are sent.
        pops: Looks at Conductor's queue on behalf of polls that are held open.
        beats: Requests of heartbeats.
        reports: Completions.
        running: Attempts that run at once (no rate).
        store_calls: Requests to lakeFS.
        store_mib: MiB moved from and to lakeFS.
    """

    polls: float
    pops: float
    beats: float
    reports: float
    running: float
    store_calls: float
    store_mib: float

    @property
    def conductor(self) -> float:
        """Requests to Conductor."""
        return self.polls + self.beats + self.reports


def demand(fleet: Fleet) -> Demand:
    """Work out what a fleet asks for that keeps up with its load.

    A poller whose slots are all busy asks for nothing; any other has an idle poll open. A task ends
    one of those, and makes one poll more: the next does not wait, and is empty without a backlog.

    Raises:
        ValueError: There are fewer slots than attempts that have to run at once.
    """
    running = fleet.rate * fleet.duration_s
    pollers = fleet.workers * fleet.types
    if running >= pollers * fleet.slots:
        raise ValueError(f"{running:.0f} attempts at once need more than {pollers * fleet.slots}")
    open_polls = pollers * (1 - all_busy(running / pollers, fleet.slots))
    idle_polls = open_polls / mean_poll_s(fleet.rate / open_polls, fleet.poll_wait_s)
    return Demand(
        polls=idle_polls + fleet.rate,
        pops=open_polls / POP_EVERY_S,
        beats=REQUESTS_PER_BEAT * fleet.rate * beats(fleet),
        reports=fleet.rate,
        running=running,
        store_calls=fleet.rate * fleet.store_calls,
        store_mib=fleet.rate * fleet.store_mib,
    )


def beats(fleet: Fleet) -> int:
    """Return how many heartbeats an attempt has: one after each interval that it outlives."""
    return max(0, math.ceil(fleet.duration_s / fleet.heartbeat_s) - 1)


def mean_poll_s(rate: float, wait_s: float) -> float:
    """Return how long a poll is open that tasks end at a rate, and the server after a wait."""
    return wait_s if rate == 0 else (1 - math.exp(-rate * wait_s)) / rate


def all_busy(mean: float, slots: int) -> float:
    """Return the share of time in which all slots of a poller are busy, of which `mean` are.

    A poller takes tasks while it has a free slot, as a telephone exchange takes calls: Erlang's
    loss formula, for the offered load of which `mean` is carried.
    """
    low, high = 0.0, float(slots)
    while high * (1 - _erlang(high, slots)) < mean:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        if middle * (1 - _erlang(middle, slots)) < mean:
            low = middle
        else:
            high = middle
    return _erlang(low, slots)


def _erlang(offered: float, slots: int) -> float:
    blocked = 1.0
    for slot in range(1, slots + 1):
        blocked = offered * blocked / (slot + offered * blocked)
    return blocked


class Simulation:
    """Plays a fleet through, event by event.

    Which of the open polls gets a task is chance, as it is at the server.
    """

    def __init__(self, fleet: Fleet, *, seed: int = 1) -> None:
        self.counts: Counter[str] = Counter()
        self.open_s = 0.0
        self.busy_s = 0.0
        self.longest_queue = 0
        self._fleet = fleet
        self._chance = random.Random(seed)  # noqa: S311 -- not for secrets
        self._events: list[tuple[float, int, str, int, int]] = []
        self._serial = 0
        self._waiting: deque[float] = deque()
        pollers = fleet.workers * fleet.types
        self._free = [fleet.slots] * pollers
        self._polling = [0] * pollers
        self._open: list[int] = []
        self._place: dict[int, int] = {}
        self._opened_at: dict[int, float] = {}

    def run(self, *, seconds: float, after_s: float = 0.0) -> Demand:
        """Play, and return what was asked for each second, not counting the first `after_s`."""
        fleet = self._fleet
        for poller in range(len(self._free)):
            self._at(self._chance.uniform(0, fleet.poll_wait_s), "poll", poller)
        if fleet.rate:
            self._at(self._chance.expovariate(fleet.rate), "arrive", 0)
        self._from, self._until = after_s, after_s + seconds
        while self._events and self._events[0][0] < self._until:
            now, _, kind, poller, poll = heapq.heappop(self._events)
            if kind != "end_poll" or poll == self._polling[poller]:
                getattr(self, f"_{kind}")(now, poller)
        for poller in list(self._open):
            self._close(self._until, poller)
        per_second = {kind: count / seconds for kind, count in self.counts.items()}
        reports = per_second.get("report", 0.0)
        return Demand(
            polls=per_second.get("poll", 0.0),
            pops=self.open_s / seconds / POP_EVERY_S,
            beats=per_second.get("beat", 0.0),
            reports=reports,
            running=self.busy_s / seconds,
            store_calls=reports * fleet.store_calls,
            store_mib=reports * fleet.store_mib,
        )

    def _at(self, when: float, kind: str, poller: int, poll: int = 0) -> None:
        self._serial += 1
        heapq.heappush(self._events, (when, self._serial, kind, poller, poll))

    def _count(self, now: float, kind: str, amount: int = 1) -> None:
        if now >= self._from:
            self.counts[kind] += amount

    def _within(self, start: float, end: float) -> float:
        return max(0.0, min(end, self._until) - max(start, self._from))

    def _arrive(self, now: float, _: int) -> None:
        """Give a new task to one of the open polls, or let it wait."""
        self._at(now + self._chance.expovariate(self._fleet.rate), "arrive", 0)
        if not self._open:
            self._waiting.append(now)
            self.longest_queue = max(self.longest_queue, len(self._waiting))
            return
        poller = self._chance.choice(self._open)
        self._close(now, poller)
        self._begin(now, poller)
        self._poll(now, poller)

    def _poll(self, now: float, poller: int) -> None:
        """Ask without a wait, then, where nothing waits, with one."""
        if not self._free[poller] or poller in self._place:
            return
        while self._free[poller]:
            self._count(now, "poll")
            if not self._waiting:
                break
            for _ in range(min(self._free[poller], len(self._waiting))):
                self._waiting.popleft()
                self._begin(now, poller)
        if self._free[poller]:
            self._hold(now, poller)

    def _hold(self, now: float, poller: int) -> None:
        self._count(now, "poll")
        self._polling[poller] += 1
        self._place[poller] = len(self._open)
        self._open.append(poller)
        self._opened_at[poller] = now
        self._at(now + self._fleet.poll_wait_s, "end_poll", poller, self._polling[poller])

    def _end_poll(self, now: float, poller: int) -> None:
        """End a poll that brought nothing; the next one waits too."""
        self._close(now, poller)
        self._hold(now, poller)

    def _close(self, now: float, poller: int) -> None:
        self._polling[poller] += 1
        place, last = self._place.pop(poller), self._open.pop()
        if last != poller:
            self._open[place] = last
            self._place[last] = place
        self.open_s += self._within(self._opened_at.pop(poller), now)

    def _begin(self, now: float, poller: int) -> None:
        fleet = self._fleet
        self._free[poller] -= 1
        self.busy_s += self._within(now, now + fleet.duration_s)
        for beat in range(1, beats(fleet) + 1):
            self._at(now + beat * fleet.heartbeat_s, "beat", poller)
        self._at(now + fleet.duration_s, "finish", poller)

    def _beat(self, now: float, _: int) -> None:
        self._count(now, "beat", REQUESTS_PER_BEAT)

    def _finish(self, now: float, poller: int) -> None:
        self._count(now, "report")
        self._free[poller] += 1
        self._poll(now, poller)


def comparison(fleet: Fleet, *, seconds: float) -> Table:
    """Return what was worked out beside what was played through."""
    expected = demand(fleet)
    played = Simulation(fleet).run(seconds=seconds, after_s=fleet.duration_s + fleet.poll_wait_s)
    table = Table("each second", "worked out", "played", box=SIMPLE_HEAD)
    for title, name in (
        ("polls", "polls"),
        ("looks at the queue", "pops"),
        ("heartbeat requests", "beats"),
        ("reports", "reports"),
        ("requests to Conductor", "conductor"),
        ("attempts running (at once)", "running"),
        ("requests to lakeFS", "store_calls"),
        ("MiB moved", "store_mib"),
    ):
        table.add_row(title, f"{getattr(expected, name):,.1f}", f"{getattr(played, name):,.1f}")
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare for the fleet that is asked for; 2 when it cannot keep up."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate", description=__doc__)
    for field in fields(Fleet):
        kind = int if field.name in {"workers", "types", "slots"} else float
        default = 1000 if field.name == "workers" else field.default
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=default)
    parser.add_argument("--seconds", type=float, default=120.0, help="to play")
    options = vars(parser.parse_args(arguments))
    seconds = options.pop("seconds")
    try:
        Console().print(comparison(Fleet(**options), seconds=seconds))
    except ValueError as problem:
        sys.stderr.write(f"{problem}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
