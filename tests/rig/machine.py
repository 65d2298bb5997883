"""The whole protocol as a state machine: hypothesis decides who does what next, and what fails.

The product's own attempts run over the real embedded pair. A rule lets one attempt go on to one of
its calls to the queue or the store, and decides what becomes of that call: it is carried out, lost
before or after its effect, held and let arrive later, or the last thing its process does. What is
not scheduled is paused. Between rules come heartbeats, time, other people's commits, deliveries of
tasks that are under way, reruns, cancellations, and workers that die.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from perago_worker.adapters.local.queue_records import UNFINISHED, TaskRecord
from tests.rig.bodies import KIND_OF, Deed
from tests.rig.crew import Running
from tests.rig.invariants import Judge
from tests.rig.stepping import Fate
from tests.rig.world import World, fast_folder, make_template

MAX_TASKS = 5
MAX_FOREIGN = 2
"""Somebody else's commit ends the chances of every attempt in progress, so they are few."""

T = TypeVar("T")

_picks = st.integers(0, 5)
_kinds = st.sampled_from(tuple(KIND_OF))
_deeds: st.SearchStrategy[list[Deed]] = st.lists(
    st.sampled_from(
        ["write", "write", "write", "delete", "same", "nothing", "rewrite", "fail", "terminal"]
    ),
    min_size=1,
    max_size=3,
)
_early_calls = st.sampled_from(["resolve", "history", "ended", "list", "body", "stage", "commit"])
_late_calls = st.sampled_from(
    [
        *("publish", "publish", "publish", "complete", "complete"),
        *("observe", "extend", "replacement", "give_back", "drop_stage"),
    ]
)
_fates = st.sampled_from(Fate)


class Places:
    """Where worlds are made: one template for a process, and a folder for each example."""

    folder: ClassVar[Path | None] = None

    @classmethod
    def open(cls) -> None:
        """Make the template."""
        cls.folder = fast_folder()
        make_template(cls.folder / "template")

    @classmethod
    def close(cls) -> None:
        """Remove everything."""
        if cls.folder is not None:
            shutil.rmtree(cls.folder)
        cls.folder = None

    @classmethod
    def new_world(cls) -> World:
        """Return a world of its own."""
        assert cls.folder is not None, "open() comes first"
        return World(cls.folder / "template", Path(tempfile.mkdtemp(dir=cls.folder)))


def _some(things: list[T], pick: int) -> T:
    return things[pick % len(things)]


class Protocol(RuleBasedStateMachine):
    """Up to four workers, up to five tasks, every fault at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.world = Places.new_world()
        self.judge = Judge(self.world)
        self._sound = True
        self._tasks: list[TaskRecord] = []

    @initialize(kind=_kinds, deeds=_deeds)
    def begin(self, kind: str, deeds: list[Deed]) -> None:
        """Start with a task that one worker has taken."""
        self.world.submit(KIND_OF[kind], deeds)
        self.world.worker(0).poll(KIND_OF[kind])

    # --- what users and their workflows do ---

    @precondition(lambda self: len(self._tasks) < MAX_TASKS and len(self._unfinished()) < 2)
    @rule(kind=_kinds, deeds=_deeds, back=st.sampled_from([0, 0, 0, 0, 1, 2]))
    def submit(self, kind: str, deeds: list[Deed], back: int) -> None:
        """Start a workflow at the head, or at a commit a little before it."""
        history = self.world.history()
        self.world.submit(KIND_OF[kind], deeds, ref=history[-1 - min(back, len(history) - 1)].id)

    @precondition(lambda self: self._followable())
    @rule(pick=_picks, kind=_kinds, deeds=_deeds)
    def follow(self, pick: int, kind: str, deeds: list[Deed]) -> None:
        """Schedule the task that takes over what a completed task put out."""
        task = _some(self._followable(), pick)
        ref = task.output["workspace"]["ref"]
        name = f"{task.reference_name}+"
        self.world.submit(KIND_OF[kind], deeds, ref=ref, workflow_id=task.workflow_id, name=name)

    @precondition(lambda self: len(self._tasks) < MAX_TASKS and len(self._unfinished()) < 2)
    @rule(pick=_picks, kind=_kinds, deeds=_deeds)
    def branch_off(self, pick: int, kind: str, deeds: list[Deed]) -> None:
        """Schedule a task beside another one, of the same workflow and from the same input."""
        tasks = self._tasks
        task = _some(tasks, pick)
        ref = task.input["workspace"]["ref"]
        name = f"beside-{len(tasks)}"
        self.world.submit(KIND_OF[kind], deeds, ref=ref, workflow_id=task.workflow_id, name=name)

    @precondition(lambda self: self._ended())
    @rule(pick=_picks)
    def rerun(self, pick: int) -> None:
        """Run a workflow again from one of its tasks that has ended."""
        self.world.clock.advance(0.001)
        self.world.rerun(_some(self._ended(), pick))

    @precondition(lambda self: self._unfinished())
    @rule(pick=_picks)
    def terminate(self, pick: int) -> None:
        """End a workflow."""
        task = _some(self._unfinished(), pick)
        self.world.operator.terminate_workflow(task.workflow_id, "not wanted")

    @precondition(lambda self: self.world.running() and len(self.world.foreign) < MAX_FOREIGN)
    @rule(folder=st.sampled_from(["a", "b", "other"]))
    def commit_foreign(self, folder: str) -> None:
        """Let somebody else commit."""
        self.world.commit_foreign(folder)

    # --- what workers do ---

    @precondition(lambda self: self._unfinished())
    @rule(worker=st.integers(0, 3), kind=_kinds, answer_lost=st.sampled_from([False] * 5 + [True]))
    def poll(self, worker: int, kind: str, answer_lost: bool) -> None:
        """Take a task and begin with it, or with none when the answer is lost."""
        self.world.worker(worker).poll(KIND_OF[kind], answer_lost=answer_lost)

    @precondition(lambda self: self.world.running())
    @rule(pick=_picks, until=_early_calls, fate=_fates)
    def prepare(self, pick: int, until: str, fate: Fate) -> None:
        """Let one attempt go on to a call that is made before it may publish."""
        self._running(pick).run(until, fate)

    @precondition(lambda self: self.world.running())
    @rule(pick=_picks, until=_late_calls, fate=_fates)
    def publish(self, pick: int, until: str, fate: Fate) -> None:
        """Let one attempt go on to a call that publishes, reports or tidies up."""
        self._running(pick).run(until, fate)

    @precondition(lambda self: self.world.running())
    @rule(pick=_picks, merge=st.sampled_from([Fate.GO, Fate.HOLD]))
    def publish_and_die(self, pick: int, merge: Fate) -> None:
        """Let one attempt send its merge, which may arrive late, and die before it reports."""
        running = self._running(pick)
        running.run("publish", merge)
        if not running.stepper.done:
            self.world.crash(running.worker)

    @precondition(lambda self: self.world.running())
    @rule(pick=_picks)
    def finish(self, pick: int) -> None:
        """Let one attempt go on to its end."""
        self._running(pick).stepper.finish()

    @precondition(lambda self: self.world.running())
    @rule(pick=_picks, steps=st.integers(1, 4))
    def take_steps(self, pick: int, steps: int) -> None:
        """Let one attempt make a few calls."""
        for _ in range(steps):
            self._running_step(pick)

    @precondition(lambda self: self.world.running())
    @rule(pick=_picks, call=st.sampled_from(["observe", "extend"]), fate=_fates)
    def beat(self, pick: int, call: str, fate: Fate) -> None:
        """Send a heartbeat; the death of its worker is another rule's."""
        lost = {Fate.DIE_BEFORE: Fate.LOSE_CALL, Fate.DIE_AFTER: Fate.LOSE_ANSWER}
        self._running(pick).beat(call, lost.get(fate, fate))

    @precondition(lambda self: self.world.running())
    @rule(pick=_picks)
    def drain(self, pick: int) -> None:
        """Want one attempt's worker to end."""
        self._running(pick).drain()

    @precondition(lambda self: self.world.running())
    @rule(pick=_picks)
    def die(self, pick: int) -> None:
        """Kill a worker."""
        self.world.crash(self._running(pick).worker)

    # --- what happens to all of them ---

    @precondition(lambda self: self.world.held)
    @rule(pick=_picks)
    def release(self, pick: int) -> None:
        """Let a call that was held arrive."""
        self.world.release(pick % len(self.world.held))

    @precondition(lambda self: self.world.running())
    @rule(kind=_kinds, worker=st.integers(0, 3))
    def deliver_twice(self, kind: str, worker: int) -> None:
        """Put tasks that are under way in the queue once more, and let somebody take one."""
        self.world.redeliver(KIND_OF[kind])
        self.world.worker(worker).poll(KIND_OF[kind])

    @precondition(lambda self: self._unfinished())
    @rule(seconds=st.sampled_from([1, 25, 61, 200]))
    def pass_time(self, seconds: int) -> None:
        """Let time pass; 61 seconds end every lease that was not extended."""
        self.world.clock.advance(seconds)

    @precondition(lambda self: self.world.leftovers)
    @rule()
    def sweep(self) -> None:
        """Tidy up behind the dead."""
        self.world.sweep()

    # --- what must hold ---

    @invariant()
    def promises_hold(self) -> None:
        """Check everything that must always hold."""
        self._tasks = self.world.tasks()
        self._checked(lambda: self.judge.check(self._tasks))

    def teardown(self) -> None:
        """Let the faults end: then every task ends, every promise holds, and nothing is left."""
        try:
            if self._sound:
                self.world.settle()
                self._checked(self.judge.check_end)
        finally:
            self.world.close()

    def _checked(self, check: Callable[[], None]) -> None:
        self._sound = False  # a world that broke a promise need not come to rest
        check()
        self._sound = True

    def _running(self, pick: int) -> Running:
        return _some(self.world.running(), pick)

    def _running_step(self, pick: int) -> None:
        if self.world.running():
            self._running(pick).stepper.step()

    def _unfinished(self) -> list[TaskRecord]:
        return [task for task in self._tasks if task.status in UNFINISHED]

    def _ended(self) -> list[TaskRecord]:
        """Return the tasks that can be run again: the last try of each, ended."""
        tasks = self._tasks
        waiting = {task.workflow_id for task in self._unfinished()}
        retried = {task.retried_task_id for task in tasks}
        return [
            task
            for task in tasks
            if task.task_id not in retried and task.workflow_id not in waiting
        ]

    def _followable(self) -> list[TaskRecord]:
        """Return the completed tasks whose output nobody takes over yet."""
        tasks = self._tasks
        if len(tasks) >= MAX_TASKS:
            return []
        taken = {(t.workflow_id, t.reference_name, t.input["workspace"]["ref"]) for t in tasks}
        waiting = {(t.workflow_id, t.reference_name) for t in self._unfinished()}
        return [
            task
            for task in tasks
            if task.status == "COMPLETED"
            and (task.workflow_id, f"{task.reference_name}+") not in waiting
            and (
                task.workflow_id,
                f"{task.reference_name}+",
                task.output["workspace"]["ref"],
            )
            not in taken
        ]
