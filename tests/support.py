"""What tests of attempts and of the runtime share: the local pair, listeners, and faults.

Faults are put around the real local adapters: a `Faulty` port does what the adapter does, and what
a test wants to happen before or after the nth call of one of its methods.
"""

from __future__ import annotations

import io
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from perago_worker.adapters.local.queue import LocalQueue
from perago_worker.adapters.local.queue_records import TaskRecord
from perago_worker.adapters.local.store import LocalStore
from perago_worker.adapters.system import SystemClock
from perago_worker.attempt.body.child_process import ChildSpec
from perago_worker.attempt.body.process import ProcessBody, child_environment
from perago_worker.attempt.body.runner import BodyRunner
from perago_worker.attempt.body.thread import ThreadBody
from perago_worker.attempt.budget import Budget
from perago_worker.attempt.context import Attempt, AttemptSettings, Tools
from perago_worker.attempt.directories import SHELF_NAME, SPARE_NAME, AttemptDirectories
from perago_worker.attempt.lease_keeper import LeaseKeeper
from perago_worker.attempt.stop import StopToken
from perago_worker.attempt.workspace import Limits
from perago_worker.events import Event
from perago_worker.models import CommitInfo, Lease
from perago_worker.ports import Clock, Stage, TaskQueue, WorkspaceStore
from perago_worker.task import TaskDefinition
from perago_worker.taskdef import build_taskdef

ROOT = Path(__file__).parents[1]
"""The repository; children find the package and the tests' tasks there."""

REPOSITORY = "lake"
BRANCH = "main"
PATIENCE_S = 30.0
"""How long a test waits for something that is to happen at once."""

E = TypeVar("E", bound=Event)


def eventually(condition: Callable[[], bool], what: str = "it did not happen") -> None:
    """Return as soon as a condition holds that other threads or processes bring about."""
    give_up_at = time.monotonic() + PATIENCE_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < give_up_at, what
        pause.wait(0.005)


def is_running(pid: int) -> bool:
    """Tell whether a process exists and has not ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


class Recorder:
    """A listener that keeps every event."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.events: list[Event] = []

    def on_event(self, event: Event) -> None:
        """Keep an event."""
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def of(self, kind: type[E]) -> list[E]:
        """Return the events of one kind, oldest first."""
        with self._changed:
            return [event for event in self.events if isinstance(event, kind)]

    def wait_for(self, kind: type[E], count: int = 1) -> list[E]:
        """Wait until there are so many events of one kind; return them."""
        with self._changed:
            came = self._changed.wait_for(
                lambda: sum(isinstance(e, kind) for e in self.events) >= count, PATIENCE_S
            )
        assert came, f"{len(self.of(kind))} of {count} {kind.__name__} came"
        return self.of(kind)


# --- faults ---------------------------------------------------------------------------------------


def raising(error: Exception) -> Callable[[], object]:
    """Return a function that raises `error`."""

    def act() -> None:
        raise error

    return act


class Faulty:
    """A port around another one, with something happening at the nth call of a method.

    Methods of stages that a store opens are named `stage.write`, `stage.delete`, `stage.commit`.
    """

    def __init__(self, target: object, prefix: str = "", like: Faulty | None = None) -> None:
        self._target = target
        self._prefix = prefix
        self._lock: threading.Lock = like._lock if like else threading.Lock()
        self._acts: dict[tuple[str, str, int], Callable[[], object]] = like._acts if like else {}
        self._calls: list[str] = like._calls if like else []
        self._asked: list[tuple[str, dict[str, Any]]] = like._asked if like else []

    def before(self, method: str, act: Callable[[], object], *, nth: int = 0) -> None:
        """Call `act` before the nth call from now on, the first being 1; before each if 0."""
        self._add("before", method, act, nth)

    def after(self, method: str, act: Callable[[], object], *, nth: int = 0) -> None:
        """Call `act` when the nth call has had its effect."""
        self._add("after", method, act, nth)

    def calls(self, method: str) -> int:
        """Return how often a method was called."""
        with self._lock:
            return self._calls.count(method)

    def asked(self, method: str) -> list[dict[str, Any]]:
        """Return the keyword arguments of every call of a method."""
        with self._lock:
            return [arguments for name, arguments in self._asked if name == method]

    def _add(self, when: str, method: str, act: Callable[[], object], nth: int) -> None:
        with self._lock:
            at = self._calls.count(method) + nth if nth else 0
            self._acts[when, method, at] = act

    def _act(self, when: str, method: str, number: int) -> None:
        with self._lock:
            acts = [self._acts.get((when, method, at)) for at in (number, 0)]
        for act in acts:
            if act is not None:
                act()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not callable(found):
            return found
        method = self._prefix + name

        def call(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                self._calls.append(method)
                self._asked.append((method, kwargs))
                number = self._calls.count(method)
            self._act("before", method, number)
            answer = found(*args, **kwargs)
            self._act("after", method, number)
            return Faulty(answer, "stage.", self) if method == "stage" else answer

        return call

    def as_queue(self) -> TaskQueue:
        """Return self typed as the queue it wraps."""
        return cast("TaskQueue", self)

    def as_store(self) -> WorkspaceStore:
        """Return self typed as the store it wraps."""
        return cast("WorkspaceStore", self)


class HastyClock(SystemClock):
    """The machine's clock, whose waits end at once and count as if they had lasted."""

    def __init__(self) -> None:
        self._skipped = 0.0

    def now(self) -> float:
        """Return the reading, with the waits that were cut short added."""
        return super().now() + self._skipped

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Skip the wait."""
        self._skipped += max(0.0, seconds)
        return event.is_set()


# --- the local pair -------------------------------------------------------------------------------


def put(
    store: WorkspaceStore,
    files: Mapping[str, str | bytes | None],
    *,
    branch: str = BRANCH,
    metadata: Mapping[str, str] | None = None,
) -> CommitInfo:
    """Publish files (None deletes one) on a branch as somebody else would; return the commit."""
    head = store.head(REPOSITORY, branch)
    name = f"foreign-{os.urandom(4).hex()}"
    stage = store.stage(REPOSITORY, head.id, name)
    write(stage, files)
    source = stage.commit("somebody's files", {})
    store.drop_stage(REPOSITORY, name)
    return store.publish(
        REPOSITORY,
        branch,
        source=source,
        expected_head=head.id,
        metadata=metadata or {},
        message="Add somebody's files",
        timeout_s=10,
    )


def write(stage: Stage, files: Mapping[str, str | bytes | None]) -> None:
    """Write to a stage; None deletes."""
    for key, content in files.items():
        if content is None:
            stage.delete([key])
            continue
        data = content.encode() if isinstance(content, str) else content
        stage.write(key, io.BytesIO(data), len(data))


def contents(store: WorkspaceStore, commit: str, prefix: str = "") -> dict[str, bytes]:
    """Return everything a commit holds: key -> bytes."""
    found = {}
    for info in store.list(REPOSITORY, commit, prefix):
        into = io.BytesIO()
        store.read(REPOSITORY, commit, info.key, into)
        found[info.key] = into.getvalue()
    return found


@dataclass
class Rig:
    """The local queue and store, and an attempt over them, as a slot would set it up.

    Attributes:
        template: A folder with a queue and a store to begin with; by default the queue is empty and
            the store holds one commit.
        queue: Faults go here; `local_queue` is what is beneath.
        store: Likewise.
    """

    root: Path
    template: Path | None = None
    clock: Clock = field(default_factory=SystemClock)
    recorder: Recorder = field(default_factory=Recorder)
    shut_down: threading.Event = field(default_factory=threading.Event)
    budget: Budget = field(
        default_factory=lambda: Budget(merge_s=60, completion_s=5, heartbeat_s=5)
    )
    limits: Limits = field(default_factory=lambda: Limits(objects=1000))
    body_timeout_s: float | None = None
    redact: Callable[[str], str] = str
    warm: int = 2
    cache_bytes: int = 64 * 1024**2
    draining: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        template = self.template or _template(self.root.parent)
        shutil.copytree(template, self.root, dirs_exist_ok=True)
        self.local_queue = self.another_queue("worker")
        self.local_store = LocalStore(self.root / "store")
        self.queue = Faulty(self.local_queue)
        self.store = Faulty(self.local_store)
        self.directories = AttemptDirectories(
            self.root / "work",
            owner="owner",
            warm=self.warm,
            cache_bytes=self.cache_bytes,
            listener=self.recorder,
        )
        self.directories.open()
        self.start = self.head()

    def another_queue(self, worker_id: str) -> LocalQueue:
        """Open the same queue as another worker would."""
        return LocalQueue(self.root / "queue.db", clock=self.clock, worker_id=worker_id)

    def close(self) -> None:
        """Close what is open."""
        self.directories.close()
        self.local_queue.close()

    def submit(self, definition: TaskDefinition, **order: Any) -> str:
        """Register a task and start a workflow of it at the first commit; return the task's id.

        Args:
            order: The params; `workspace` replaces the workspace input.
        """
        self.local_queue.register_taskdef(build_taskdef(definition))
        given: dict[str, Any] = {}
        if definition.has_workspace:
            given["workspace"] = order.pop("workspace", None) or self.workspace_input()
        given["params"] = order.pop("params", order)
        return self.local_queue.submit(definition.name, given).task_id

    def workspace_input(self, **fields: str) -> dict[str, str]:
        """Return a valid workspace input, with some fields replaced."""
        return {
            "repository": REPOSITORY,
            "branch": BRANCH,
            "ref_type": "commit",
            "ref": self.start.id,
            **fields,
        }

    def poll(self, definition: TaskDefinition) -> Lease:
        """Take the one task that waits."""
        (lease,) = self.local_queue.poll(definition.name, count=1, wait_s=1)
        return lease

    def keeper(self, lease: Lease) -> LeaseKeeper:
        """Return the keeper of a lease."""
        return LeaseKeeper(
            lease,
            queue=self.queue.as_queue(),
            clock=self.clock,
            heartbeat_interval_s=self.budget.heartbeat_s,
            stop=StopToken(),
            shut_down=self.shut_down,
            listener=self.recorder,
        )

    def settings(self) -> AttemptSettings:
        """Return what the configuration would say."""
        return AttemptSettings(
            budget=self.budget,
            limits=self.limits,
            transfer_threads=4,
            body_timeout_s=self.body_timeout_s,
        )

    def tools(self, body: BodyRunner) -> Tools:
        """Return the tools of a slot."""
        return Tools(
            queue=self.queue.as_queue(),
            store=self.store.as_store(),
            clock=self.clock,
            listener=self.recorder,
            directories=self.directories,
            body=body,
            settings=self.settings(),
            redact=self.redact,
            shut_down=self.shut_down,
            draining=self.draining,
        )

    def attempt(
        self, definition: TaskDefinition, lease: Lease, body: BodyRunner | None = None
    ) -> Attempt:
        """Return an attempt that is ready to be carried out, in a thread unless told otherwise."""
        return Attempt.begin(definition, lease, self.tools(body or ThreadBody(definition)))

    def task(self, task_id: str) -> TaskRecord:
        """Return what the queue knows of a task."""
        (found,) = [t for t in self.local_queue.tasks() if t.task_id == task_id]
        return found

    def head(self) -> CommitInfo:
        """Return where the branch is."""
        return self.local_store.head(REPOSITORY, BRANCH)

    def publications(self) -> int:
        """Return how many commits were made on the branch since the first."""
        history = self.local_store.history(REPOSITORY, BRANCH, limit=1000)
        return [commit.id for commit in history].index(self.start.id)

    def leftovers(self) -> list[str]:
        """Return what attempts have left behind, but for what is kept: stages and directories."""
        home = self.root / "work" / "owner"
        names = {each.name for each in home.iterdir() if each.is_dir()}
        directories = sorted(names - {SHELF_NAME, SPARE_NAME})
        return [*self.local_store.stages(REPOSITORY), *directories]


def _template(folder: Path) -> Path:
    """Return an empty queue and a store with one commit, made once: a copy is quicker to have."""
    template = folder / "rig-template"
    if not template.exists():
        LocalQueue(template / "queue.db", clock=SystemClock(), worker_id="none").close()
        store = LocalStore(template / "store")
        store.create_repository(REPOSITORY, branch=BRANCH)
        put(store, {"data/in.txt": "input", "other/kept.txt": "kept"})
    return template


@contextmanager
def rig(root: Path, **fields: Any) -> Iterator[Rig]:
    """Open a rig, and close it."""
    opened = Rig(root, **fields)
    try:
        yield opened
    finally:
        opened.close()


# --- bodies and what they leave -------------------------------------------------------------------


def nest(folder: Path, levels: int, name: str = "deep") -> None:
    """Make directories within directories, however deep, and a file in the last."""
    fd = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


def child_spec(task_name: str, module: str = "tests.tasks.probe", **fields: Any) -> ChildSpec:
    """Return how to start a child for one of the tests' tasks."""
    environment = child_environment(os.environ, allowed=(), python_path=[ROOT])
    fields.setdefault("kill_grace_s", 0.2)
    fields.setdefault("environment", environment)
    return ChildSpec(module, task_name, **fields)


@contextmanager
def process_body(
    task_name: str,
    *,
    on_started: Callable[[int, str], object] = lambda *_: None,
    **fields: Any,
) -> Iterator[ProcessBody]:
    """Offer a body in a child process, and end it."""

    def started(pid: int, cause: str) -> None:
        on_started(pid, cause)

    body = ProcessBody(child_spec(task_name, **fields), on_started=started)
    try:
        yield body
    finally:
        body.close()
