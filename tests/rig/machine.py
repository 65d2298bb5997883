"""The whole protocol as a state machine: hypothesis decides who does what next, and what fails.

The product's own attempts run over the real embedded pair. A move lets one attempt go on to one of
its calls to the queue or the store, and decides what becomes of that call: it is carried out, lost
before or after its effect, held and let arrive later, or the last thing its process does. What is
not scheduled is paused. Between moves come heartbeats, time, other people's commits, deliveries of
tasks that are under way, reruns, cancellations, and workers that die.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.rig.bodies import KIND_NAMED, KIND_OF, Deed, Meddling
from tests.rig.crew import Running
from tests.rig.invariants import Judge
from tests.rig.moves import BACKEND, Chosen, Moves
from tests.rig.situation import Situation, after
from tests.rig.stepping import Fate
from tests.rig.template import Template, fast_folder
from tests.rig.world import World

MAX_FOREIGN = 2
"""Somebody else's commit ends the chances of every attempt in progress, so they are few."""

STEPS = 20

T = TypeVar("T")

_picks = st.integers(0, 5)
_workers = st.sampled_from([0, 0, 0, 1, 1, 2, 3])
_kinds = st.sampled_from(["a", "a", "b"])
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
_moves = Moves()


class Places:
    """Where worlds are made: one template for a process, and a folder for each example.

    Attributes:
        steps: Steps that were taken in all of them.
        virtual_s: Seconds that passed in all of them.
    """

    folder: ClassVar[Path | None] = None
    template: ClassVar[Template | None] = None
    steps: ClassVar[int] = 0
    virtual_s: ClassVar[float] = 0.0

    @classmethod
    def open(cls) -> None:
        """Make the template."""
        cls.folder = fast_folder()
        cls.template = Template(cls.folder / "template")
        cls.steps, cls.virtual_s = 0, 0.0

    @classmethod
    def close(cls) -> None:
        """Remove everything."""
        if cls.folder is not None:
            shutil.rmtree(cls.folder)
        cls.folder = cls.template = None

    @classmethod
    def new_world(cls) -> World:
        """Return a world of its own."""
        assert cls.folder is not None, "open() comes first"
        assert cls.template is not None
        return World(cls.template, Path(tempfile.mkdtemp(dir=cls.folder)))


def examples(count: int) -> settings:
    """Return the settings for so many schedules."""
    return settings(
        max_examples=count,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        backend=BACKEND,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


def _some(things: Sequence[T], pick: int) -> T:
    return things[pick % len(things)]


class Protocol(RuleBasedStateMachine):
    """Up to four workers, up to five tasks, every fault at every call.

    Attributes:
        now: What there is after the last step.
        left_out: The moves this schedule does without.
    """

    def __init__(self) -> None:
        super().__init__()
        self.world = Places.new_world()
        self.judge = Judge(self.world)
        self.now = Situation((), (), ())
        self.left_out: frozenset[int] = frozenset()
        self._sound = True
        self._swept = False

    # --- what users and their workflows do ---

    @_moves.add(
        lambda self: self.now.room,
        kind=_kinds,
        deeds=_deeds,
        back=st.sampled_from([0, 0, 0, 0, 1, 2]),
    )
    def submit(self, kind: str, deeds: list[Deed], back: int) -> None:
        """Start a workflow at the head, or at a commit a little before it."""
        history = self.world.history()
        self.world.submit(KIND_OF[kind], deeds, ref=history[-1 - min(back, len(history) - 1)].id)

    @_moves.add(lambda self: self.now.followable, pick=_picks, kind=_kinds, deeds=_deeds)
    def follow(self, pick: int, kind: str, deeds: list[Deed]) -> None:
        """Schedule the task that takes over what a completed task put out."""
        task = _some(self.now.followable, pick)
        ref = task.output["workspace"]["ref"]
        self.world.submit(
            KIND_OF[kind], deeds, ref=ref, workflow_id=task.workflow_id, name=after(task)
        )

    @_moves.add(lambda self: self.now.room, pick=_picks, kind=_kinds, deeds=_deeds)
    def branch_off(self, pick: int, kind: str, deeds: list[Deed]) -> None:
        """Schedule a task beside another one, of the same workflow and from the same input."""
        task = _some(self.now.tasks, pick)
        ref = task.input["workspace"]["ref"]
        name = f"beside-{len(self.now.tasks)}"
        self.world.submit(KIND_OF[kind], deeds, ref=ref, workflow_id=task.workflow_id, name=name)

    @_moves.add(lambda self: self.now.ended, pick=_picks)
    def rerun(self, pick: int) -> None:
        """Run a workflow again from one of its tasks that has ended."""
        self.world.clock.advance(0.001)
        self.world.rerun(_some(self.now.ended, pick))

    @_moves.add(lambda self: self.now.unfinished, pick=_picks)
    def terminate(self, pick: int) -> None:
        """End a workflow."""
        task = _some(self.now.unfinished, pick)
        self.world.operator.terminate_workflow(task.workflow_id, "not wanted")

    @_moves.add(
        lambda self: self.now.running and len(self.world.foreign) < MAX_FOREIGN,
        folder=st.sampled_from(["a", "b", "other"]),
    )
    def commit_foreign(self, folder: str) -> None:
        """Let somebody else commit."""
        self.world.commit_foreign(folder)

    # --- what workers do ---

    @_moves.add(
        lambda self: self.now.waiting,
        weight=2,
        spared=True,
        pick=_picks,
        worker=_workers,
        answer_lost=st.sampled_from([False] * 5 + [True]),
    )
    def poll(self, pick: int, worker: int, answer_lost: bool) -> None:
        """Take a task of a kind that waits; begin with it, or with none when the answer is lost."""
        kind = KIND_NAMED[_some(self.now.waiting, pick).task_type]
        self.world.worker(worker).poll(kind, answer_lost=answer_lost)

    @_moves.add(lambda self: self.now.waiting, pick=_picks, worker=_workers)
    def work(self, pick: int, worker: int) -> None:
        """Take a task of a kind that waits, and let the attempt go on to its end."""
        kind = KIND_NAMED[_some(self.now.waiting, pick).task_type]
        for running in self.world.worker(worker).poll(kind):
            running.stepper.finish()

    @_moves.add(
        lambda self: self.now.running, weight=2, pick=_picks, until=_early_calls, fate=_fates
    )
    def prepare(self, pick: int, until: str, fate: Fate) -> None:
        """Let one attempt go on to a call that is made before it may publish."""
        self._running(pick).run(until, fate)

    @_moves.add(
        lambda self: self.now.running, weight=3, pick=_picks, until=_late_calls, fate=_fates
    )
    def publish(self, pick: int, until: str, fate: Fate) -> None:
        """Let one attempt go on to a call that publishes, reports or tidies up."""
        self._running(pick).run(until, fate)

    @_moves.add(
        lambda self: self.now.running, pick=_picks, merge=st.sampled_from([Fate.GO, Fate.HOLD])
    )
    def publish_and_die(self, pick: int, merge: Fate) -> None:
        """Let one attempt send its merge, which may arrive late, and die before it reports."""
        running = self._running(pick)
        running.run("publish", merge)
        if not running.stepper.done:
            self.world.crash(running.worker)

    @_moves.add(lambda self: self.now.running, weight=2, pick=_picks)
    def finish(self, pick: int) -> None:
        """Let one attempt go on to its end."""
        self._running(pick).stepper.finish()

    @_moves.add(lambda self: self.now.running, weight=2, pick=_picks, steps=st.integers(1, 4))
    def take_steps(self, pick: int, steps: int) -> None:
        """Let one attempt make a few calls."""
        running = self._running(pick)
        for _ in range(steps):
            running.stepper.step()

    @_moves.add(
        lambda self: self.now.running,
        pick=_picks,
        call=st.sampled_from(["observe", "extend"]),
        fate=_fates,
    )
    def beat(self, pick: int, call: str, fate: Fate) -> None:
        """Send a heartbeat; the death of its worker is another move's."""
        lost = {Fate.DIE_BEFORE: Fate.LOSE_CALL, Fate.DIE_AFTER: Fate.LOSE_ANSWER}
        self._running(pick).beat(call, lost.get(fate, fate))

    @_moves.add(lambda self: self.now.running, pick=_picks)
    def drain(self, pick: int) -> None:
        """Want one attempt's worker to end."""
        self._running(pick).drain()

    @_moves.add(lambda self: self.now.running, pick=_picks)
    def die(self, pick: int) -> None:
        """Kill a worker."""
        self.world.crash(self._running(pick).worker)

    # --- what happens to all of them ---

    @_moves.add(lambda self: self.world.held, pick=_picks)
    def release(self, pick: int) -> None:
        """Let a call that was held arrive."""
        self.world.release(pick % len(self.world.held))

    @_moves.add(lambda self: self.now.running, pick=_picks, worker=_workers)
    def deliver_twice(self, pick: int, worker: int) -> None:
        """Put tasks that are under way in the queue once more, and let somebody take one."""
        kind = KIND_NAMED[self._running(pick).lease.task_type]
        self.world.redeliver(kind)
        self.world.worker(worker).poll(kind)

    @_moves.add(lambda self: self.now.unfinished, seconds=st.sampled_from([1, 25, 61, 200]))
    def pass_time(self, seconds: int) -> None:
        """Let time pass; 61 seconds end every lease that was not extended."""
        self.world.clock.advance(seconds)

    @_moves.add(lambda self: self.now.kept, pick=_picks, how=st.sampled_from(Meddling))
    def meddle(self, pick: int, how: Meddling) -> None:
        """Let somebody change a workspace that is kept, behind the worker's back."""
        how.do(_some(self.now.kept, pick))

    @_moves.add(lambda self: self.world.leftovers and not self._swept)
    def sweep(self) -> None:
        """Tidy up behind the dead."""
        self.world.sweep()
        self._swept = True

    # --- how hypothesis gets hold of it ---

    @initialize(
        kind=_kinds,
        deeds=_deeds,
        adopt=st.sampled_from([True, True, False]),
        warm=st.sampled_from([2, 1, 0]),
        left_out=_moves.swarm(),
    )
    def begin(
        self, kind: str, deeds: list[Deed], adopt: bool, warm: int, left_out: frozenset[int]
    ) -> None:
        """Start with a task that one worker has taken."""
        self.left_out = left_out
        self.world.adopt, self.world.warm = adopt, warm
        self.world.submit(KIND_OF[kind], deeds)
        self.world.worker(0).poll(KIND_OF[kind])

    @rule(move=_moves.choice())
    def go_on(self, move: Chosen) -> None:
        """Let one thing happen."""
        self._swept = False
        move.play(self)

    # --- what must hold ---

    @invariant()
    def promises_hold(self) -> None:
        """Check everything that must always hold."""
        Places.steps += 1
        self.now = Situation(self.world.tasks(), self.world.running(), self.world.kept())
        self._checked(lambda: self.judge.check(self.now.tasks))

    def teardown(self) -> None:
        """Let the faults end: then every task ends, every promise holds, and nothing is left."""
        try:
            if self._sound:
                self.world.settle()
                self._checked(self.judge.check_end)
            Places.virtual_s += self.world.passed_s
        finally:
            self.world.close()

    def _checked(self, check: Callable[[], None]) -> None:
        self._sound = False  # a world that broke a promise need not come to rest
        check()
        self._sound = True

    def _running(self, pick: int) -> Running:
        return _some(self.now.running, pick)
