"""Removes what killed workers left behind: hidden stages in the store, directories on the disk.

Workers tidy up after themselves; this is for those that could not. A stage is removed only when its
task is known to have ended, so that whatever is wrong here, no attempt that may publish loses its
stage. Branches on which a fence was tried have no task: they go by their age. The cache, which many
workers fill, is held to its bounds here too.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from perago_worker.attempt.directories import AttemptDirectories
from perago_worker.attempt.stage_name import StageName
from perago_worker.errors import AdapterError, NotFound, StoreRefused
from perago_worker.events import AttemptStarted, Event, Listener, Swept
from perago_worker.models.probe_name import ProbeName
from perago_worker.ports import Clock, TaskEnd, TaskQueue, WorkspaceStore
from perago_worker.runtime.service import ThreadService

MIN_AGE_S = 3600.0
"""Stages younger than this stay, whatever the queue says of their tasks."""

GONE_AGE_S = 24 * 3600.0
"""Stages of tasks the queue does not know stay for longer: another team's worker, with a queue of
its own, may be uploading to the same repository, and no upload takes a day."""

INTERVAL_S = 600.0
MAX_REPOSITORIES = 256
"""How many repositories a worker remembers, those of its latest attempts."""

_log = logging.getLogger(__name__)


def reason_to_keep(
    name: StageName | None, *, now: float, min_age_s: float, end: TaskEnd | None
) -> str | None:
    """Return why a stage must stay, or None when it may be removed.

    Args:
        name: What the stage's name says; None when it says nothing.
        now: Wall clock, seconds since the epoch.
        min_age_s: Age below which a stage stays in any case.
        end: How the stage's task has ended; None when nobody could be asked.
    """
    if name is None:
        return "its name does not tell its task"
    age_s = now - name.created_at
    if age_s < min_age_s:
        return f"it is younger than {min_age_s:g} s"
    match end:
        case "completed" | "failed":
            return None
        case "gone":
            return (
                None
                if age_s >= GONE_AGE_S
                else "the queue does not know its task; it goes once it is a day old"
            )
        case "running":
            return "its task has not ended"
        case None:
            return "its name does not tell its task"


def reason_to_keep_probe(probe: ProbeName, *, now: float, min_age_s: float) -> str | None:
    """Return why a branch on which a fence is tried must stay, or None when it may be removed.

    It stays for `MIN_AGE_S` whatever was asked for: the trial of a fence takes seconds, and when
    its branch is taken away meanwhile, the fence seems not to work.

    Args:
        probe: What its name says.
        now: Wall clock, seconds since the epoch.
        min_age_s: Age below which it stays in any case.
    """
    least_s = max(min_age_s, MIN_AGE_S)
    if now - probe.created_at < least_s:
        return f"it is younger than {least_s:g} s"
    return None


@dataclass(frozen=True)
class FoundStage:
    """A stage, or a branch on which a fence was tried, and what is to become of it.

    Attributes:
        task_id: The task that made it; None when there is none or its name does not tell.
        age_s: How long ago it was made; None when its name does not tell.
        end: How that task has ended; None when there is none to ask about.
        keep: Why it must stay; None when it may be removed.
    """

    repository: str
    name: str
    task_id: str | None
    age_s: float | None
    end: TaskEnd | None
    keep: str | None


class StageSurvey:
    """Looks at the stages of repositories; changes nothing."""

    def __init__(
        self, *, queue: TaskQueue, store: WorkspaceStore, clock: Clock, min_age_s: float = MIN_AGE_S
    ) -> None:
        self._queue = queue
        self._store = store
        self._clock = clock
        self._min_age_s = min_age_s

    def of(self, repository: str) -> Iterator[FoundStage]:
        """Yield the stages of a repository; asks the queue about each of them.

        Raises:
            StoreError: The stages could not be listed.
            QueueError: Nothing was learnt of a task.
        """
        for text in self._store.stages(repository):
            yield self._look_at(repository, text)

    def _look_at(self, repository: str, text: str) -> FoundStage:
        probe = ProbeName.parse(text)
        if probe is not None:
            return self._look_at_probe(repository, text, probe)
        name = StageName.parse(text)
        task_id = name.task_id if name else None
        end = self._queue.ended(task_id) if task_id else None
        now = self._clock.time()
        return FoundStage(
            repository=repository,
            name=text,
            task_id=task_id,
            age_s=now - name.created_at if name else None,
            end=end,
            keep=reason_to_keep(name, now=now, min_age_s=self._min_age_s, end=end),
        )

    def _look_at_probe(self, repository: str, text: str, probe: ProbeName) -> FoundStage:
        now = self._clock.time()
        return FoundStage(
            repository=repository,
            name=text,
            task_id=None,
            age_s=now - probe.created_at,
            end=None,
            keep=reason_to_keep_probe(probe, now=now, min_age_s=self._min_age_s),
        )


class SeenRepositories:
    """A listener that remembers the repositories attempts were given, the latest of them."""

    def __init__(self, *, limit: int = MAX_REPOSITORIES) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._names: OrderedDict[str, None] = OrderedDict()

    def on_event(self, event: Event) -> None:
        """Note the repository in the input of an attempt that starts."""
        if not isinstance(event, AttemptStarted):
            return
        workspace = event.lease.input.get("workspace")  # as it came: nobody has validated it
        name = workspace.get("repository") if isinstance(workspace, dict) else None
        if not name or not isinstance(name, str):
            return
        with self._lock:
            self._names[name] = None
            self._names.move_to_end(name)
            if len(self._names) > self._limit:
                self._names.popitem(last=False)

    def names(self) -> list[str]:
        """Return the repositories, those seen longest ago first."""
        with self._lock:
            return list(self._names)

    def forget(self, name: str) -> None:
        """Leave a repository out until it is seen again."""
        with self._lock:
            self._names.pop(name, None)


class Janitor(ThreadService):
    """The service that tidies up every ten minutes, the first time at once."""

    def __init__(
        self,
        *,
        survey: StageSurvey,
        store: WorkspaceStore,
        directories: AttemptDirectories,
        seen: SeenRepositories,
        clock: Clock,
        listener: Listener,
    ) -> None:
        super().__init__("janitor", clock=clock)
        self._survey = survey
        self._store = store
        self._directories = directories
        self._seen = seen
        self._listener = listener

    def silent_for_s(self) -> float:
        """Return 0: however long a large directory takes to remove, it is no reason to restart."""
        return 0.0

    def run(self) -> None:
        """Tidy up, wait, and so on."""
        while not self.stopping.is_set():
            self._remove_directories()
            self._trim_cache()
            self._sweep_all()
            self._clock.wait(self.stopping, INTERVAL_S)

    def _remove_directories(self) -> None:
        try:
            for name in self._directories.remove_dead():
                self._listener.on_event(Swept("directory", "", name))
        except OSError as error:  # another user's, most likely; the work goes on without it
            _log.warning("a dead worker's directory could not be removed: %s", error)

    def _trim_cache(self) -> None:
        try:
            self._directories.cache.trim()
        except OSError as error:
            _log.warning("the cache could not be looked at: %s", error)

    def _sweep_all(self) -> None:
        for repository in self._seen.names():
            if self.stopping.is_set():
                return
            self._sweep(repository)

    def _sweep(self, repository: str) -> None:
        try:
            for stage in self._survey.of(repository):
                if self.stopping.is_set():
                    return
                if stage.keep is None:
                    self._store.drop_stage(repository, stage.name)
                    self._listener.on_event(Swept("stage", repository, stage.name))
        except (NotFound, StoreRefused) as error:
            self._seen.forget(repository)
            _log.info("stages of %r are not looked at any more: %s", repository, error)
        except AdapterError as error:  # those who need the server say so louder
            _log.info("stages of %r could not be looked at: %s", repository, error)
