"""Where cases begin: a queue and a store in which something has happened already, and one task.

A scene is prepared once, under a clock that leaps, and copied for every case.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from perago_worker.attempt.context import AttemptSettings
from perago_worker.attempt.directories import CACHE_NAME, SHELF_NAME
from perago_worker.attempt.pipeline import run_attempt
from perago_worker.errors import QueueUnavailable
from perago_worker.events import AttemptStarted, Event
from perago_worker.models import CommitInfo, Lease, Publication
from perago_worker.models.lease import Token
from perago_worker.task import TaskDefinition, load_module_tasks
from tests.rig.cached import entry_of
from tests.rig.clocks import LeapingClock
from tests.rig.history import Foreign, Historian, Journal, Made
from tests.rig.taps import Call, Counting, Tap, Tapped, recording, untouched
from tests.rig.tasks import CASE, PREFIX, RESPONSE_S, Deed
from tests.support import Recorder, Rig, put

MODULE = "tests.rig.tasks"
DEFINITION: TaskDefinition = load_module_tasks(MODULE)[0]
INPUT = b"input"
"""What `in.txt` holds in the first commit of a rig."""

FILES = {f"{PREFIX}/old.txt": "old", f"{PREFIX}/same.txt": "same"}

LEASE_OVER_S = RESPONSE_S * 2.0
"""After this long nobody holds a lease that was granted before."""

MAX_ATTEMPTS = 12
"""A clean worker that needs more for one task will never be done."""


class Chronicler(Recorder):
    """A recorder that keeps the journal, too."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._historian = Historian(journal)

    def on_event(self, event: Event) -> None:
        """Keep an event and write it down."""
        self._historian.on_event(event)
        super().on_event(event)

    def leases(self) -> list[Lease]:
        """Return the leases of the attempts that began, oldest first."""
        return [event.lease for event in self.of(AttemptStarted)]


@dataclass
class Bench(Rig):
    """A rig whose attempts go through taps and write a journal.

    Attributes:
        adopt: Whether abandoned publications are taken over.
    """

    clock: LeapingClock = field(default_factory=LeapingClock)
    adopt: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.journal = Journal(self.root / "journal")
        self.recorder: Chronicler = Chronicler(self.journal)
        os.environ[CASE] = str(self.root)

    def settings(self) -> AttemptSettings:
        """Return what the configuration would say."""
        return replace(super().settings(), adopt=self.adopt)

    def keeps(self) -> bool:
        """Tell whether the disk holds what is given up for room: kept workspaces, or a cache."""
        work = self.root / "work"
        return any(chain(work.glob(f"{CACHE_NAME}/*/*"), work.glob(f"*/{SHELF_NAME}/*")))

    def uncache(self, content: bytes) -> None:
        """Take an object out of the cache, if it is there."""
        entry = entry_of(content, work=self.root / "work", store=self.local_store)
        entry.unlink(missing_ok=True)

    def poll_one(self, worker: str) -> Lease | None:
        """Take a task as this worker would, if one waits."""
        self.clock.leap(0.01)  # no two deliveries at one time
        queue = self.another_queue(worker)
        try:
            leases = queue.poll(DEFINITION.name, count=1, wait_s=0)
        finally:
            queue.close()
        return leases[0] if leases else None

    def carry_out(self, lease: Lease, tap: Tap = untouched, *, calls: bool = False) -> str:
        """Carry out an attempt; return the kind of its outcome, or `raised`.

        Args:
            tap: Makes its calls.
            calls: Whether to write them down.
        """
        noted, counting = recording(self.journal, tap, calls=calls), Counting()
        self.queue = Tapped(self.local_queue, "queue", noted, counting)
        self.store = Tapped(self.local_store, "store", noted, counting)
        attempt = self.attempt(DEFINITION, lease)
        try:
            return run_attempt(attempt).kind
        except RuntimeError:  # a fault that nobody foresees: the slot is started anew
            return "raised"

    def work(self, worker: str, tap: Tap = untouched) -> None:
        """Carry out what waits, until nothing does."""
        for _ in range(MAX_ATTEMPTS):
            lease = self.poll_one(worker)
            if lease is None:
                return
            self.carry_out(lease, tap)

    def finish(self, tap: Tap = untouched) -> None:
        """Let every lease run out and a clean worker do what is left."""
        self.clock.leap(LEASE_OVER_S)
        self.work("successor", tap)

    def commit_foreign(self, files: dict[str, str | bytes | None]) -> CommitInfo:
        """Let somebody else commit to the branch."""
        commit = put(self.local_store, files)
        self.journal.note(Foreign(commit.id))
        return commit


# --- the scenes -----------------------------------------------------------------------------------


def _abandon(bench: Bench) -> None:
    """Let an attempt publish and not be able to say so."""
    lease = bench.poll_one("predecessor")
    assert lease is not None
    bench.carry_out(lease, _unreported)
    bench.clock.leap(LEASE_OVER_S)


def _unreported(call: Call) -> Any:
    if call.name == "queue.complete":
        raise QueueUnavailable("the queue is away")
    return call.perform()


def _submit(bench: Bench, *, first: Deed = "write", later: Deed = "write") -> None:
    bench.submit(DEFINITION, first=first, later=later)


def _first(bench: Bench) -> None:
    _submit(bench)


def _deletion(bench: Bench) -> None:
    _submit(bench, first="delete", later="delete")


def _abandoned(bench: Bench) -> None:
    _submit(bench)
    _abandon(bench)


def _no_op(bench: Bench) -> None:
    _submit(bench, later="nothing")
    _abandon(bench)


def _second(bench: Bench) -> None:
    """A task of another workflow starts from what a first one has published."""
    _submit(bench)
    bench.work("predecessor")
    bench.start = bench.head()
    _submit(bench, first="delete", later="delete")


def _downstream(bench: Bench) -> None:
    """An abandoned publication has got one of the same workflow on top, as before a rerun."""
    _submit(bench)
    _abandon(bench)
    head, content = bench.head(), b"made further down"
    below = Publication.from_metadata(head.metadata)
    assert below is not None
    now_ms = int(bench.clock.time() * 1000)
    publication = Publication(
        uuid="downstream",
        workflow_id=below.workflow_id,
        task_id="downstream",
        lineage=f"{below.workflow_id}/downstream/0",
        token=Token(start_time_ms=now_ms, retry_count=0, poll_count=1),
        input_ref=head.id,
        params_digest="",
    )
    made = {f"{PREFIX}/down.txt": hashlib.sha256(content).hexdigest()}
    bench.journal.note(Made("downstream", "downstream", made))
    put(
        bench.local_store,
        {f"{PREFIX}/down.txt": content},
        metadata=publication.metadata(expected_head=head.id),
    )


def _keep(bench: Bench) -> None:
    """The worker keeps what it has published; one file of it is somebody else's since."""
    bench.work("worker")
    bench.start = bench.commit_foreign({f"{PREFIX}/same.txt": "not the same any more"})
    _submit(bench, first="delete", later="delete")


@dataclass(frozen=True)
class Scene:
    """What has happened before a case.

    Attributes:
        prepare: Lets it happen, in another process than the case as far as anybody can tell.
        keep: Lets happen in the process of the case what it is to keep workspaces of.
        adopt: Whether abandoned publications are taken over.
        cached: Whether what was read and published is still in the cache.
    """

    name: str
    prepare: Callable[[Bench], None]
    keep: Callable[[Bench], None] | None = None
    adopt: bool = False
    cached: bool = True

    def template(self, folder: Path) -> Path:
        """Return a folder in which it has happened; prepared once below `folder`."""
        target = folder / f"scene-{self.name}"
        if not target.exists():
            with closing(Bench(target)) as bench:
                put(bench.local_store, dict(FILES))
                bench.start = bench.head()
                self.prepare(bench)
                # Whether it was cached before the first body wrote to it is chance.
                bench.uncache(INPUT)
        return target

    def open(self, root: Path) -> Bench:
        """Return a bench in `root` on which it has happened."""
        bench = Bench(root, template=self.template(root.parent), adopt=self.adopt)
        if self.keep is not None:
            self.keep(bench)
        if not self.cached:
            bench.directories.cache.clear()
        bench.clock.leap(LEASE_OVER_S)
        return bench


SCENES = {
    scene.name: scene
    for scene in (
        Scene("first", _first),
        Scene("deletion", _deletion),
        Scene("replace", _abandoned),
        Scene("adopt", _abandoned, adopt=True),
        Scene("no_op", _no_op),
        Scene("second", _second),
        Scene("downstream", _downstream),
    )
}

BRINGING = {
    scene.name: scene
    for scene in (
        Scene("replace_uncached", _abandoned, cached=False),
        Scene("no_op_uncached", _no_op, cached=False),
        Scene("second_uncached", _second, cached=False),
        Scene("downstream_uncached", _downstream, cached=False),
        Scene("kept", _first, _keep),
        Scene("kept_uncached", _first, _keep, cached=False),
    )
}
"""Scenes that differ from those in where the workspace's files come from, and in nothing else."""
