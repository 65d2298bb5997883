"""Zombies: workers that stand still for so long that another one is given their task.

An episode pauses a worker in one phase of an attempt, lets a successor come as far as it is to
come, and continues the zombie. Then both finish what there is, and the oracle judges.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from time import monotonic

from perago_worker.attempt.lease_keeper import BEATS_PER_LEASE
from tests.rig.history import Finished, Journal, Made, Paused, Started
from tests.rig.pausing import BODY, paused_body
from tests.rig.worker_config import Isolation, OnAbandoned
from tests.rig.worker_main import Forker, Forkers, WorkerOrder
from tests.support import eventually, is_running

PHASES = {
    "receive": "step.receive",
    "precheck": "call.store.history.1.after",
    "download": "call.store.read.1.after",
    "body": BODY,
    "changes": "step.changes",
    "stage": "call.stage.write.1.after",
    "confirmed": "call.store.publish.1.before",
    "merged": "call.store.publish.1.after",
}
"""Where the zombie pauses; the last two are on both sides of the merge."""

SUCCESSORS = {"polled": "step.begun", "published": "call.store.publish.1.after", "completed": ""}
"""Where the successor waits for the zombie, having come that far."""

HELD = 0.5
PAUSES = (HELD, 1.1, 3.0)
"""Lengths of pauses, in response timeouts; the first is too short to lose the lease by."""

LEFT_SHARE = 1 - 1 / BEATS_PER_LEASE
"""What is left of a lease at least while heartbeats are on time. On a busy machine a pause that
should have been too short can cost the lease, and there is nothing wrong with that."""

NUDGE_INTERVAL_S = 0.3

SILENT = frozenset({"superseded", "cancelled"})


@dataclass(frozen=True)
class Episode:
    """One pause."""

    phase: str
    successor: str
    pause: float

    def __str__(self) -> str:
        return f"{self.phase}/{self.successor}/{self.pause:g}"

    @property
    def keeps_lease(self) -> bool:
        """Whether the pause is too short for a successor."""
        return self.pause == HELD

    @property
    def isolation(self) -> Isolation:
        """Where bodies run; only one in a process of its own can be paused with its worker."""
        return "process" if self.phase == BODY else "thread"

    @property
    def on_abandoned(self) -> OnAbandoned:
        """A successor that is to publish must not adopt what the zombie has published."""
        return "replace" if self.successor == "published" else "adopt"


def episodes(pauses: tuple[float, ...] = PAUSES) -> list[Episode]:
    """Return all episodes with these pauses."""
    return [Episode(*each) for each in product(PHASES, SUCCESSORS, pauses)]


class Stage:
    """Two workers, their journal, and who of them goes on when.

    Args:
        ended: Tells whether the queue says that all is over.
        nudge: Makes the queue notice timeouts that it would see much later by itself.
    """

    def __init__(
        self,
        episode: Episode,
        config: Path,
        case: Path,
        *,
        response_s: float,
        workers: tuple[Forkers, Forkers],
        ended: Callable[[], bool],
        nudge: Callable[[], object] = lambda: None,
    ) -> None:
        self._episode = episode
        self._config = config
        self._case = case
        self._response_s = response_s
        self._forkers = tuple(each.get() for each in workers)
        self._ended = ended
        self._nudge = nudge
        self._nudged_at = 0.0
        self._journal = Journal(case / "journal")
        self._running: dict[int, Forker] = {}

    def play(self) -> list[str]:
        """Let the episode happen, to the end of both workers; return what is wrong so far."""
        try:
            return self._play()
        finally:
            for pid, forker in self._running.items():  # only when something went wrong
                with suppress(ProcessLookupError):  # it failed, and its forker has seen it off
                    os.kill(pid, signal.SIGKILL)
                forker.wait()
            if (body := paused_body(self._case)) is not None and is_running(body):
                os.kill(body, signal.SIGKILL)

    def _play(self) -> list[str]:
        zombie = self._start(self._forkers[0], PHASES[self._episode.phase])
        self._wait(lambda: self._is_paused(zombie), "pause of the zombie")
        paused_at = monotonic()
        successor = self._start(self._forkers[1], SUCCESSORS[self._episode.successor])
        if not self._episode.keeps_lease:
            self._wait(lambda: self._has_come_far(successor), "successor")
        # The pause is what is tested here, so its length is waited for.
        over_at = paused_at + self._episode.pause * self._response_s
        threading.Event().wait(max(0.0, over_at - monotonic()))
        succeeded = len(self._of(Started)) > 1
        self._continue(zombie)
        self._wait(lambda: self._ending() is not None, "end of the zombie's attempt")
        soon = monotonic() < paused_at + self._response_s * LEFT_SHARE
        complaints = self._judge_zombie(succeeded=succeeded, held=soon)
        # A successor that was never needed, or comes late, may still stop at its own place.
        self._wait(lambda: self._over(successor), "end of the task")
        return [*complaints, *self._end(zombie), *self._end(successor)]

    def ending(self) -> str:
        """Return how the zombie's attempt ended, in a word or two."""
        ending = self._ending()
        return f"{ending.kind} {ending.code}" if ending else "none"

    def _start(self, forker: Forker, pause: str) -> int:
        order = WorkerOrder(
            config=str(self._config), case=str(self._case), pause=pause, until_idle=False
        )
        pid = forker.start(order)
        self._running[pid] = forker
        return pid

    def _end(self, pid: int) -> list[str]:
        os.kill(pid, signal.SIGTERM)
        code = self._running.pop(pid).wait()
        return [f"worker {pid} ended with {code}"] if code else []

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        try:
            eventually(condition, f"no {what}")
        except AssertionError as late:
            late.add_note(self._log())
            raise

    def _log(self) -> str:
        log = self._case / "log"
        return log.read_text()[-4000:] if log.exists() else ""

    def _of(self, kind: type[Started] | type[Paused]) -> list[Started | Paused]:
        return [entry for entry in self._journal.read() if isinstance(entry, kind)]

    def _is_paused(self, pid: int) -> bool:
        noted = any(isinstance(e, Paused) and e.pid == pid for e in self._of(Paused))
        return noted and _is_stopped(pid)

    def _has_come_far(self, successor: int) -> bool:
        self._nudge_now_and_then()
        if SUCCESSORS[self._episode.successor]:
            return self._is_paused(successor)
        return any(e.reported for e in self._endings()[1:]) or self._ended()

    def _continue(self, pid: int) -> None:
        os.kill(pid, signal.SIGCONT)
        if (body := paused_body(self._case)) is not None:
            with suppress(ProcessLookupError):  # its worker was quicker
                os.kill(body, signal.SIGCONT)

    def _over(self, successor: int) -> bool:
        if _is_stopped(successor):
            os.kill(successor, signal.SIGCONT)
        self._nudge_now_and_then()
        return self._ended()

    def _nudge_now_and_then(self) -> None:
        if monotonic() > self._nudged_at + NUDGE_INTERVAL_S:
            self._nudged_at = monotonic()
            self._nudge()

    def _endings(self) -> list[Finished]:
        return [entry for entry in self._journal.read() if isinstance(entry, Finished)]

    def _ending(self) -> Finished | None:
        """Return how the attempt that was paused ended."""
        started = self._of(Started)[0]
        assert isinstance(started, Started)
        return next((e for e in self._endings() if e.token == started.token), None)

    def _judge_zombie(self, *, succeeded: bool, held: bool) -> list[str]:
        ending = self._ending()
        assert ending is not None
        wrong = []
        if held and not succeeded and ending.kind != "completed":
            wrong.append(f"the worker held its lease and ended as {self.ending()}")
        if ending.kind not in (SILENT if succeeded else SILENT | {"completed"}):
            wrong.append(f"the zombie ended as {self.ending()}: {ending.reason}")
        body = paused_body(self._case)
        if body is not None and not self._has_made(ending) and is_running(body):
            wrong.append(f"the zombie's body, process {body}, goes on")
        return wrong

    def _has_made(self, ending: Finished) -> bool:
        """Whether the zombie's body came to its end by itself; its process then waits for more."""
        made = [e for e in self._journal.read() if isinstance(e, Made)]
        return any(e.task_id == ending.task_id for e in made)


def _is_stopped(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] == "T"


class Outcomes:
    """How zombies ended. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def count(self, phase: str, ending: str) -> None:
        """Count an ending."""
        with self._lock:
            self._counts[f"{phase}: {ending}"] += 1

    def __str__(self) -> str:
        return ", ".join(f"{what} x {count}" for what, count in sorted(self._counts.items()))
