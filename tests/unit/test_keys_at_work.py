"""Every key of the configuration does something: each is claimed by a test of what it does.

A test claims keys with `@pytest.mark.key("section.key", ...)`; those of `[tasks."NAME"]` are
`tasks.*.key`. Reading a key is `test_config.py`'s; this file starts from the text of a
configuration and looks at what the worker then does, or hands to the part whose own tests, which
claim the key too, show what comes of it.
"""

from __future__ import annotations

import ast
import base64
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from perago_worker.adapters.conductor.client import ConductorSettings
from perago_worker.adapters.lakefs.settings import LakeFSSettings
from perago_worker.adapters.local.queue import LocalQueue
from perago_worker.adapters.local.store import LocalStore
from perago_worker.adapters.system import SystemClock
from perago_worker.attempt.body.process import ProcessBody
from perago_worker.attempt.codes import Code
from perago_worker.attempt.context import Attempt
from perago_worker.attempt.directories import CACHE_NAME, AttemptDirectories
from perago_worker.attempt.pipeline import run_attempt
from perago_worker.bootstrap.adapters import open_queue, open_store, register_locally
from perago_worker.bootstrap.attempts import tools_of
from perago_worker.bootstrap.run import new_worker_id
from perago_worker.bootstrap.tasks import load_tasks
from perago_worker.bootstrap.watching import Watching
from perago_worker.bootstrap.wiring import build_supervisor
from perago_worker.config import Redactor, WorkerConfig, load_config
from perago_worker.config.schema import SECTIONS
from perago_worker.config.settings import TaskSettings
from perago_worker.errors import QueueUnavailable, TaskDefinitionError
from perago_worker.events import ChildStarted, WorkspaceBrought
from perago_worker.models import Outcome
from perago_worker.task import TaskDefinition
from tests.support import ROOT, Recorder
from tests.tasks.probe import files, plain
from tests.unit.scripted_server import Act, ScriptedServer, answer, serving

TESTS = ROOT / "tests"
FILES = TaskDefinition.of(files)
PLAIN = TaskDefinition.of(plain)

LOCAL: dict[str, dict[str, str]] = {
    "worker": {"modules": '["tests.tasks.probe"]', "python_path": f'["{ROOT}"]'},
    "queue": {"kind": '"local"'},
    "store": {"kind": '"local"'},
    "http": {"listen": '""'},
}


def claimed() -> dict[str, list[str]]:
    """Return which tests claim each key, read off the files."""
    found: dict[str, list[str]] = {}
    for file in TESTS.rglob("test_*.py"):
        text = file.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if "mark.key" in text else ():
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.key":
                    for each in mark.args:
                        name = f"{file.relative_to(ROOT)}::{node.name}"
                        found.setdefault(ast.literal_eval(each), []).append(name)
    return found


def test_every_key_is_claimed_by_a_test_of_what_it_does() -> None:
    existing = {
        f"{section}.{key}"
        for section, kinds in SECTIONS.items()
        for model in kinds.values()
        for key in model.model_fields
    }
    existing |= {f"tasks.*.{key}" for key in TaskSettings.model_fields}

    assert sorted(set(claimed()) - existing) == [], "claimed, but there are no such keys"
    assert sorted(existing - set(claimed())) == [], "no test shows what these do"


# --- a worker's parts, from a configuration -------------------------------------------------------


@dataclass
class Here:
    """A folder, and what the worker makes of configurations in it."""

    folder: Path
    recorder: Recorder = field(default_factory=Recorder)

    def config(self, *more: str) -> WorkerConfig:
        """Load a configuration over the embedded pair, with lines such as `worker.name = "x"`."""
        sections = {name: dict(keys) for name, keys in LOCAL.items()}
        for line in more:
            place, _, value = line.partition(" = ")
            section, _, key = place.rpartition(".")
            sections.setdefault(section, {})[key] = value
        text = "".join(
            f"[{section}]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())
            for section, keys in sections.items()
        )
        file = self.folder / "worker.toml"
        file.write_text(text)
        return load_config(file, environ={})

    def secret(self, name: str, value: str) -> str:
        """Write a secret file; return its name."""
        (self.folder / name).write_text(value)
        (self.folder / name).chmod(0o600)
        return name

    def run(
        self,
        config: WorkerConfig,
        definition: TaskDefinition = PLAIN,
        *,
        times: int = 1,
        **order: Any,
    ) -> list[Outcome]:
        """Carry out attempts as a slot would; return how each ended."""
        clock = SystemClock()
        queue = open_queue(config, worker_id=new_worker_id(config), clock=clock)
        store = open_store(config)
        assert isinstance(queue, LocalQueue)
        assert isinstance(store, LocalStore)
        register_locally(queue, [definition])
        warm = 1 if config.workspace.warm is None else config.workspace.warm
        directories = AttemptDirectories(
            config.workspace.root, owner="owner", warm=warm, cache_bytes=config.cache_bytes
        )
        directories.open()
        tools = tools_of(
            config,
            definition,
            queue=queue,
            store=store,
            clock=clock,
            listener=self.recorder,
            directories=directories,
            redactor=Redactor(),
            shut_down=threading.Event(),
        )
        outcomes = []
        with closing(queue), closing(store), closing(directories), closing(tools.body):
            for number in range(times):
                given: dict[str, Any] = {"params": order}
                if definition.has_workspace:
                    given["workspace"] = self._workspace(store, number)
                queue.submit(definition.name, given)
                (lease,) = queue.poll(definition.name, count=1, wait_s=1)
                outcomes.append(run_attempt(Attempt.begin(definition, lease, tools)))
        return outcomes

    def _workspace(self, store: LocalStore, number: int) -> dict[str, str]:
        data = self.folder / "input"
        (data / "data").mkdir(parents=True, exist_ok=True)
        (data / "data/in.txt").write_text(f"input {number}")
        (data / "data/more.txt").write_text("x" * 100)
        commit = store.import_directory("lake", "main", data, "input")
        return {
            "repository": "lake",
            "branch": "main",
            "ref_type": "commit",
            "ref": commit.id,
        }


def detail(outcome: Outcome) -> dict[str, Any]:
    assert outcome.output is not None
    return dict(outcome.output["result"]["detail"])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    monkeypatch.setattr(sys, "path", list(sys.path))
    return Here(tmp_path)


@pytest.fixture
def start() -> Iterator[Callable[..., ScriptedServer]]:
    with serving() as start:
        yield start


# --- [worker] and [tasks."NAME"] ------------------------------------------------------------------


@pytest.mark.key("worker.modules", "worker.python_path")
def test_modules_are_imported_from_the_folders_that_are_named(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    source = (TESTS / "tasks/probe.py").read_text()
    (here.folder / "elsewhere").mkdir()
    (here.folder / "elsewhere/named_here.py").write_text(source)
    named = 'worker.modules = ["named_here"]'
    try:
        with pytest.raises(TaskDefinitionError, match="named_here"):
            load_tasks(here.config(named))
        config = here.config(named, 'worker.python_path = ["elsewhere"]')
        assert [d.fn.__module__ for d in load_tasks(config)] == ["named_here"] * 4
    finally:
        sys.modules.pop("named_here", None)


@pytest.mark.key("worker.name")
def test_the_name_is_what_the_queue_knows_the_worker_by(here: Here) -> None:
    assert new_worker_id(here.config('worker.name = "etl-1"')).startswith("etl-1:")


@pytest.mark.key("worker.concurrency", "tasks.*.concurrency")
def test_concurrency_is_the_number_of_slots(here: Here) -> None:
    config = here.config("worker.concurrency = 3", 'tasks."probe.plain".concurrency = 2')

    slots = Watching.of(config, [FILES, PLAIN], worker_id="w", clock=SystemClock()).slots

    assert slots == {"probe.files": 3, "probe.plain": 2}


@pytest.mark.key("worker.take_ahead")
@pytest.mark.parametrize(("line", "taken"), [("", 8), ("worker.take_ahead = 0", 0)])
def test_short_tasks_are_taken_ahead_unless_no_time_is_allowed(
    here: Here, line: str, taken: int
) -> None:
    config = here.config(*([line] if line else []))
    clock = SystemClock()
    with (
        closing(open_queue(config, worker_id="w", clock=clock)) as queue,
        closing(open_store(config)) as store,
    ):
        supervisor = build_supervisor(
            config,
            [PLAIN],
            queue=queue,
            store=store,
            clock=clock,
            redactor=Redactor(),
            listeners=[],
            until_idle=False,
        )
        pool = supervisor.pollers[0].pool
        pool.learn(0.01)
        assert pool.room == taken


@pytest.mark.key("worker.isolation", "tasks.*.isolation")
@pytest.mark.parametrize(
    ("lines", "is_ours"),
    [
        ((), False),
        (('worker.isolation = "thread"',), True),
        (('tasks."probe.plain".isolation = "thread"',), True),
        (('worker.isolation = "thread"', 'tasks."probe.plain".isolation = "process"'), False),
    ],
)
def test_isolation_is_where_bodies_run(here: Here, lines: tuple[str, ...], is_ours: bool) -> None:
    said = here.folder / "pid"

    here.run(here.config(*lines), do="nothing", signal_file=str(said))

    assert (int(said.read_text()) == os.getpid()) is is_ours


@pytest.mark.key("worker.body_env")
def test_bodies_see_the_variables_that_are_named(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEEN", "1")
    monkeypatch.setenv("UNSEEN", "1")

    (outcome,) = here.run(here.config('worker.body_env = ["SEEN"]'), do="environment")

    seen = detail(outcome)["environment"]
    assert "SEEN" in seen
    assert "UNSEEN" not in seen


@pytest.mark.key("worker.attempts_per_child")
def test_a_child_makes_room_after_so_many_attempts(here: Here) -> None:
    here.run(here.config("worker.attempts_per_child = 1"), times=2, do="nothing")
    here.run(here.config("worker.attempts_per_child = 2"), times=2, do="nothing")

    causes = [event.cause for event in here.recorder.of(ChildStarted)]
    assert causes == ["start", "recycled", "start"]


@pytest.mark.key("worker.child_memory_limit", "worker.kill_grace")
def test_limits_are_those_of_the_children(here: Here) -> None:
    config = here.config('worker.child_memory_limit = "1GiB"', 'worker.kill_grace = "7s"')
    made: list[Any] = []

    class Seen(ProcessBody):
        def __init__(self, spec: Any, **more: Any) -> None:
            made.append(spec)
            super().__init__(spec, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("perago_worker.bootstrap.attempts.ProcessBody", Seen)
        here.run(config, do="nothing")

    assert (made[0].memory_limit, made[0].kill_grace_s) == (1 << 30, 7.0)


@pytest.mark.key("tasks.*.body_timeout")
def test_a_body_that_takes_too_long_is_stopped(here: Here) -> None:
    wait = here.folder / "wait"

    (outcome,) = here.run(
        here.config('tasks."probe.plain".body_timeout = "100ms"', 'worker.kill_grace = "100ms"'),
        do="wait",
        signal_file=str(wait),
    )

    assert outcome.code == Code.BODY_TIMEOUT


@pytest.mark.key("queue.domain", "tasks.*.domain")
def test_domains_are_polled_from(here: Here) -> None:
    config = here.config(
        'queue.kind = "conductor"',
        'queue.url = "http://127.0.0.1:9"',
        'queue.domain = "gpu"',
        'tasks."probe.plain".domain = "cpu"',
    )
    clock = SystemClock()
    with (
        closing(open_queue(config, worker_id="w", clock=clock)) as queue,
        closing(open_store(config)) as store,
    ):
        supervisor = build_supervisor(
            config,
            [FILES, PLAIN],
            queue=queue,
            store=store,
            clock=clock,
            redactor=Redactor(),
            listeners=[],
            until_idle=True,
        )
    assert {p.task_type: p.domain for p in supervisor.pollers} == {
        "probe.files": "gpu",
        "probe.plain": "cpu",
    }


# --- [queue] and [store] --------------------------------------------------------------------------


@pytest.mark.key("queue.kind", "queue.path", "store.kind", "store.path")
def test_the_embedded_pair_is_where_it_is_said_to_be(here: Here) -> None:
    config = here.config('queue.path = "q/here.db"', 'store.path = "s"')

    here.run(config, FILES, do="write")

    assert (here.folder / "q/here.db").is_file()
    assert (here.folder / "s/lake.git").is_dir() or (here.folder / "s/lake").is_dir()


def ok(content: Any) -> Act:
    return answer(200, content, Content_Type="application/json")


@pytest.mark.key("queue.url", "queue.auth_key_id_file", "queue.auth_key_secret_file")
def test_conductor_is_asked_where_it_is_with_our_keys(
    here: Here, start: Callable[..., ScriptedServer]
) -> None:
    server = start(ok({"token": "the-token"}), ok({"name": "x"}))
    config = here.config(
        'queue.kind = "conductor"',
        f'queue.url = "{server.endpoint}/below"',
        f'queue.auth_key_id_file = "{here.secret("id", "me")}"',
        f'queue.auth_key_secret_file = "{here.secret("secret", "hidden")}"',
    )

    with closing(open_queue(config, worker_id="w", clock=SystemClock())) as queue:
        queue.taskdef("x")

    assert server.targets == ["POST /below/api/token", "GET /below/api/metadata/taskdefs/x"]
    assert json.loads(server.requests[0].body) == {"keyId": "me", "keySecret": "hidden"}
    assert server.requests[1].headers["x-authorization"] == "the-token"


@pytest.mark.key("store.endpoint", "store.access_key_id_file", "store.secret_access_key_file")
def test_lakefs_is_asked_where_it_is_with_our_keys(
    here: Here, start: Callable[..., ScriptedServer]
) -> None:
    server = start(ok({"user": {"id": "me"}}))
    config = here.config(
        'store.kind = "lakefs"',
        f'store.endpoint = "{server.endpoint}/below"',
        f'store.access_key_id_file = "{here.secret("id", "me")}"',
        f'store.secret_access_key_file = "{here.secret("secret", "hidden")}"',
    )

    with closing(open_store(config)) as store:
        store.ping()

    assert server.targets == ["GET /below/api/v1/user"]
    scheme, _, credentials = server.requests[0].headers["authorization"].partition(" ")
    assert (scheme, base64.b64decode(credentials)) == ("Basic", b"me:hidden")


@pytest.mark.key("queue.connect_timeout", "queue.request_timeout", "queue.ca_file")
def test_conductor_is_spoken_to_as_is_said(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[ConductorSettings] = []

    def opened(settings: ConductorSettings, **_: object) -> None:
        given.append(settings)
        raise QueueUnavailable("seen")

    monkeypatch.setattr("perago_worker.adapters.conductor.queue.ConductorQueue.open", opened)
    config = here.config(
        'queue.kind = "conductor"',
        'queue.url = "https://c"',
        'queue.connect_timeout = "2s"',
        'queue.request_timeout = "3s"',
        f'queue.ca_file = "{here.secret("ca.pem", "certificates")}"',
    )

    with pytest.raises(QueueUnavailable, match="seen"):
        open_queue(config, worker_id="w", clock=SystemClock())

    (settings,) = given
    assert (settings.connect_timeout_s, settings.request_timeout_s) == (2.0, 3.0)
    assert settings.tls.ca_file == here.folder / "ca.pem"


@pytest.mark.key(
    "store.connect_timeout",
    "store.request_timeout",
    "store.ca_file",
    "store.presign",
    "workspace.transfer_connections",
)
def test_lakefs_is_spoken_to_as_is_said(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[LakeFSSettings] = []

    def opened(settings: LakeFSSettings, **_: object) -> None:
        given.append(settings)
        raise QueueUnavailable("seen")

    monkeypatch.setattr("perago_worker.adapters.lakefs.store.LakeFSStore.open", opened)
    config = here.config(
        'store.kind = "lakefs"',
        'store.endpoint = "https://l"',
        f'store.access_key_id_file = "{here.secret("id", "me")}"',
        f'store.secret_access_key_file = "{here.secret("secret", "hidden")}"',
        'store.connect_timeout = "2s"',
        'store.request_timeout = "3s"',
        'store.presign = "off"',
        f'store.ca_file = "{here.secret("ca.pem", "certificates")}"',
        "workspace.transfer_connections = 5",
    )

    for slots in (1, 3):
        with pytest.raises(QueueUnavailable, match="seen"):
            open_store(config, slots=slots)

    settings, for_three = given
    assert for_three.connections == 3 * settings.connections
    assert (settings.connect_timeout_s, settings.request_timeout_s) == (2.0, 3.0)
    assert (settings.presign, settings.connections) == (False, 5)
    assert settings.tls.ca_file == here.folder / "ca.pem"


# --- [workspace] ----------------------------------------------------------------------------------


@pytest.mark.key("workspace.root")
def test_attempts_have_their_files_below_the_root(here: Here) -> None:
    (outcome,) = here.run(here.config('workspace.root = "w"'), do="environment")

    assert Path(detail(outcome)["cwd"]).is_relative_to(here.folder / "w")


@pytest.mark.key("workspace.max_objects", "workspace.max_bytes")
@pytest.mark.parametrize("line", ["workspace.max_objects = 1", 'workspace.max_bytes = "50B"'])
def test_a_workspace_that_is_too_large_is_refused(here: Here, line: str) -> None:
    thread = 'worker.isolation = "thread"'

    (small,) = here.run(here.config(thread, "workspace.max_objects = 2"), FILES, do="nothing")
    (large,) = here.run(here.config(thread, line), FILES, do="nothing")

    assert (small.code, large.code) == (Code.NO_OP, Code.WORKSPACE_TOO_LARGE)


@pytest.mark.key("workspace.warm")
@pytest.mark.parametrize(("kept", "source"), [(1, "warm"), (0, "cold")])
def test_workspaces_are_kept_for_the_next_attempt(here: Here, kept: int, source: str) -> None:
    config = here.config('worker.isolation = "thread"', f"workspace.warm = {kept}")

    here.run(config, FILES, times=2, do="nothing")

    assert [e.source for e in here.recorder.of(WorkspaceBrought)] == ["cold", source]


@pytest.mark.key("workspace.cache_max")
@pytest.mark.parametrize(
    ("line", "kept"), [('cache_max = "1MiB"', True), ("cache_max = 0", False), ("warm = 0", False)]
)
def test_objects_are_kept_for_other_workers(here: Here, line: str, kept: bool) -> None:
    config = here.config('worker.isolation = "thread"', f"workspace.{line}")

    here.run(config, FILES, do="nothing")

    assert (config.workspace.root / CACHE_NAME).exists() is kept


# --- [publish] ------------------------------------------------------------------------------------


@pytest.mark.key("publish.record_result")
@pytest.mark.parametrize("recorded", [True, False])
def test_a_publication_carries_the_result(here: Here, recorded: bool) -> None:
    config = here.config(
        'worker.isolation = "thread"', f"publish.record_result = {str(recorded).lower()}"
    )

    here.run(config, FILES, do="write")

    with closing(open_store(config)) as store:
        metadata = store.head("lake", "main").metadata
    assert any("write" in value for value in metadata.values()) is recorded


@pytest.mark.key(
    "publish.merge_timeout",
    "publish.completion_timeout",
    "publish.heartbeat_interval",
    "publish.on_abandoned",
    "publish.require_fence",
    "publish.sentinel",
)
def test_attempts_publish_as_is_said(here: Here) -> None:
    config = here.config(
        'publish.merge_timeout = "11s"',
        'publish.completion_timeout = "12s"',
        'publish.heartbeat_interval = "13s"',
        'publish.on_abandoned = "replace"',
        'publish.require_fence = "hook"',
        "publish.sentinel = true",
    )
    tools = tools_of(
        config,
        FILES,
        queue=open_queue(config, worker_id="w", clock=SystemClock()),
        store=open_store(config),
        clock=SystemClock(),
        listener=here.recorder,
        directories=AttemptDirectories(config.workspace.root, owner="owner"),
        redactor=Redactor(),
        shut_down=threading.Event(),
    )
    tools.queue.close()

    budget = tools.settings.budget
    assert (budget.merge_s, budget.completion_s, budget.heartbeat_s) == (11, 12, 13)
    assert not tools.settings.adopt
    assert tools.settings.require_fence
    assert tools.settings.sentinel


# --- [http] ---------------------------------------------------------------------------------------


@pytest.mark.key("http.client_metrics")
@pytest.mark.parametrize("shown", [True, False])
def test_the_metrics_of_client_libraries_are_shown(here: Here, shown: bool) -> None:
    config = here.config(f"http.client_metrics = {str(shown).lower()}")

    watching = Watching.of(config, [PLAIN], worker_id="w", clock=SystemClock())

    value = watching.registry.get_sample_value("task_poll_total", {"taskType": "probe.plain"})
    assert (value is not None) is shown
