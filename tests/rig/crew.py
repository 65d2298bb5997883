"""Workers as the rig plays them: a process with its ports, its directories and its attempts."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perago_worker.adapters.local.queue import LocalQueue
from perago_worker.attempt.body.thread import ThreadBody
from perago_worker.attempt.budget import Budget
from perago_worker.attempt.context import Attempt, AttemptSettings, Tools
from perago_worker.attempt.directories import SHELF_NAME, AttemptDirectories
from perago_worker.attempt.pipeline import run_attempt
from perago_worker.attempt.stop import StopCause
from perago_worker.attempt.workspace import Limits
from perago_worker.definition import TaskDefinition
from perago_worker.models import Lease
from tests.rig.conduct import Conduct
from tests.rig.stepping import Fate, Stepper, steered_queue, steered_store

if TYPE_CHECKING:
    from tests.rig.world import World

BUDGET = Budget(merge_s=8, completion_s=5, heartbeat_s=20)


class Worker:
    """One worker process: its ports, its directories, and the attempts it carries out."""

    def __init__(self, world: World, owner: str, name: str | None) -> None:
        self.world = world
        self.name = name or owner
        self.queue = LocalQueue(world.root / "queue.db", clock=world.clock, worker_id=self.name)
        self.directories = AttemptDirectories(world.root / "work", owner=owner, warm=world.warm)
        self.directories.open()
        self.home = world.root / "work" / owner
        self.attempts: list[Running] = []

    def poll(
        self, kind: TaskDefinition, *, answer_lost: bool = False, after_s: float = 0.001
    ) -> list[Running]:
        """Take one task, and do with it what the poller does.

        Args:
            after_s: Passes first, so that no two deliveries are made at one time.
        """
        self.world.clock.advance(after_s)
        leases = self.queue.poll(kind.name, count=1, wait_s=0)
        return [] if answer_lost else [began for each in leases for began in self._take(each, kind)]

    def _take(self, lease: Lease, kind: TaskDefinition) -> list[Running]:
        for running in self.attempts:
            if running.lease.task_id == lease.task_id and not running.stepper.done:
                if not running.attempt.keeper.adopt(lease):
                    self.queue.give_back(lease, after_s=1.0)
                return []
        self.attempts.append(Running(self, kind, lease))
        return self.attempts[-1:]

    def kept(self) -> list[Path]:
        """Return the workspaces it has kept, those put away last at the end."""
        folder = self.home / SHELF_NAME
        found = folder.iterdir() if folder.exists() else ()
        return sorted(found, key=lambda kept: kept.stat().st_ctime_ns)

    def die(self) -> None:
        """End as a killed process does: nothing is tidied up, only the kernel's locks are freed."""
        for running in self.attempts:
            running.die()
        self.attempts.clear()
        descriptor = self.directories._lock_fd
        assert descriptor is not None
        os.close(descriptor)
        self.queue.close()


class Running:
    """One attempt in a stepper."""

    def __init__(self, worker: Worker, kind: TaskDefinition, lease: Lease) -> None:
        self.worker = worker
        self.conduct = Conduct(
            lease=lambda: self.lease,
            is_holder=worker.world.is_holder,
            complain=worker.world.complaints.append,
        )
        self.attempt = Attempt.begin(kind, lease, self._tools(kind, lease))
        self.stepper = Stepper(lambda: run_attempt(self.attempt))

    @property
    def lease(self) -> Lease:
        """The newest delivery it stands for."""
        return self.attempt.lease

    def _tools(self, kind: TaskDefinition, lease: Lease) -> Tools:
        world = self.worker.world
        assert kind.workspace is not None
        prefix = kind.workspace.prefix

        def body(workspace: Path, params: Any) -> Any:
            world.look_at_input(lease, workspace, prefix)
            return world.bodies.run(lease, workspace, params, prefix)

        bound = TaskDefinition(**{**vars(kind), "fn": body})
        return Tools(
            queue=steered_queue(self.worker.queue, self.conduct),
            store=steered_store(world.store, self.conduct),
            clock=world.clock,
            listener=world.recorder,
            directories=self.worker.directories,
            body=ThreadBody(bound),
            settings=AttemptSettings(
                budget=BUDGET,
                limits=Limits(objects=1000),
                transfer_threads=1,
                adopt=world.adopt,
            ),
            redact=str,
            shut_down=threading.Event(),
        )

    def run(self, until: str, fate: Fate) -> None:
        """Go on to a call of that name, and let it have that fate."""
        if not self.stepper.run_to(until):
            return
        if fate in {Fate.DIE_BEFORE, Fate.DIE_AFTER}:
            self.keep_leftovers()
            self.stepper.step(fate)
            self.worker.world.crash(self.worker)
            return
        self.stepper.step(fate)
        self.worker.world.held.extend(self.stepper.held)
        self.stepper.held.clear()

    def drain(self) -> None:
        """Tell it that its worker wants to end."""
        self.attempt.stop.trip(StopCause.DRAINED, "the worker drains")

    def beat(self, call: str = "", fate: Fate = Fate.GO) -> None:
        """Send a heartbeat; let one of its calls have a fate."""
        keeper = self.attempt.keeper
        beat = Stepper(lambda: keeper.beat(due=keeper.next_beat_at))
        if call and beat.run_to(call):
            beat.step(fate)
        beat.finish()
        self.worker.world.held.extend(beat.held)

    def keep_leftovers(self) -> None:
        """Let what would be undone at the end of the attempt stay, as after a death."""
        self.worker.world.leftovers.append(self.attempt.leaving.pop_all())

    def die(self) -> None:
        """Die where it is."""
        self.keep_leftovers()
        self.stepper.kill()
