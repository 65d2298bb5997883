"""The composition root: a configuration in, a wired worker out.

The one place that names concrete adapters. Adapters are imported where they are opened: a worker
over the embedded pair loads neither server's SDK, and one over servers no libgit2.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from perago_worker.adapters.keys import KeyFiles
from perago_worker.adapters.system import SystemClock
from perago_worker.attempt.body.child_process import ChildSpec
from perago_worker.attempt.body.process import ProcessBody, child_environment
from perago_worker.attempt.body.runner import BodyRunner
from perago_worker.attempt.body.thread import ThreadBody
from perago_worker.attempt.budget import Budget
from perago_worker.attempt.context import AttemptSettings, Tools
from perago_worker.attempt.directories import AttemptDirectories
from perago_worker.attempt.lease_keeper import BEATS_PER_LEASE
from perago_worker.attempt.workspace import Limits
from perago_worker.config import (
    ConductorQueueSettings,
    LakeFSStoreSettings,
    LocalQueueSettings,
    LocalStoreSettings,
    Redactor,
    WorkerConfig,
    check_task_names,
    read_secret,
    secret_values,
)
from perago_worker.errors import ConfigError, ConfigProblem, StoreError, TaskDefinitionError
from perago_worker.events import ChildStarted, Fanout, Listener
from perago_worker.ports import MAX_POLL_WAIT_S, Clock, TaskQueue, WorkspaceStore
from perago_worker.runtime.heartbeats import Heartbeats
from perago_worker.runtime.janitor import Janitor, SeenRepositories, StageSurvey
from perago_worker.runtime.poller import Poller
from perago_worker.runtime.queue_survey import QueueSurvey
from perago_worker.runtime.secrecy import keep_to_itself
from perago_worker.runtime.shutdown import Shutdown
from perago_worker.runtime.slots import SlotPool
from perago_worker.runtime.supervisor import Supervisor
from perago_worker.runtime.watchdog import stacks
from perago_worker.task import TaskDefinition, load_module_tasks
from perago_worker.taskdef import build_taskdef
from perago_worker.telemetry.event_log import EventLog
from perago_worker.telemetry.http import TelemetryServer
from perago_worker.telemetry.logs import configure_logging, wants_bars
from perago_worker.telemetry.summary import RunSummary
from perago_worker.telemetry.traces import open_traces
from perago_worker.watching import Watching, not_started, status_of

if TYPE_CHECKING:
    from perago_worker.adapters.local.queue import LocalQueue
    from perago_worker.adapters.local.store import LocalStore
    from perago_worker.telemetry.progress import ProgressBars

SHORT_POLL_WAIT_S = 1.0
"""For the embedded queue, where a poll costs next to nothing, and for a worker that is to end when
nothing is left: both end within a poll."""


def run_worker(config: WorkerConfig, *, until_idle: bool, log_level: str | None) -> int:
    """Run the worker until it is asked to stop, or until nothing is left to do.

    Args:
        log_level: Replaces the configured one.

    Returns:
        The exit code: 0 when it has drained.

    Raises:
        TaskDefinitionError: A module cannot be loaded or a task in it breaks the contract.
        ConfigError: Something the configuration names cannot be used.
    """
    keep_to_itself()
    redactor = Redactor(secret_values(config))
    logs = config.logging
    level = log_level or logs.level
    bars = _progress_bars(config, level)
    stream = bars.stream if bars else None
    configure_logging(logs.format, level, stream=stream, redactor=redactor, levels=logs.levels)
    _log_config_warnings(config)
    definitions = _load_tasks_logging_warnings(config)
    clock = SystemClock()
    summary = RunSummary()
    worker_id = new_worker_id(config)
    traces = open_traces(os.environ, worker_id=worker_id)
    traced = {"trace_of": traces.trace_of} if traces else {}
    watching = Watching.of(config, definitions, worker_id=worker_id, clock=clock, **traced)
    requests = watching.requests
    with (
        closing(
            open_queue(
                config,
                worker_id=worker_id,
                clock=clock,
                listener=requests,
                on_secret=redactor.add,
            )
        ) as queue,
        closing(
            open_store(
                config,
                listener=requests,
                on_secret=redactor.add,
                slots=sum(watching.slots[d.name] for d in definitions if d.has_workspace),
            )
        ) as store,
    ):
        if config.queue.kind == "local":
            register_locally(queue, definitions)
        supervisor = build_supervisor(
            config,
            definitions,
            queue=queue,
            store=store,
            clock=clock,
            redactor=redactor,
            listeners=[EventLog(), summary, *(each for each in (bars, traces) if each)],
            until_idle=until_idle,
            watching=watching,
        )
        threading.Thread(target=_greet, args=(store,), name="store greeting", daemon=True).start()
        try:
            code = supervisor.run()
        finally:
            for each in (bars, traces):
                if each:
                    each.close()
    if until_idle:
        summary.render(sys.stdout)
    return code


def _progress_bars(config: WorkerConfig, level: str) -> ProgressBars | None:
    """Return what draws bars on standard output; None where nobody would see them."""
    if not wants_bars(
        sys.stdout, log_format=config.logging.format, level=level, environ=os.environ
    ):
        return None
    from perago_worker.telemetry.progress import ProgressBars

    return ProgressBars(sys.stdout)


def load_tasks(config: WorkerConfig) -> list[TaskDefinition]:
    """Import the configured modules and return their tasks.

    Raises:
        TaskDefinitionError: A module cannot be loaded, a task breaks the contract, or two modules
            declare tasks of the same name.
        ConfigError: A section `[tasks."NAME"]` names no task.
    """
    for folder in reversed(config.worker.python_path):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    definitions: dict[str, TaskDefinition] = {}
    for module in config.worker.modules:
        for definition in load_module_tasks(module):
            other = definitions.setdefault(definition.name, definition)
            if other is not definition:
                raise TaskDefinitionError(
                    f"task {definition.name!r} is declared in {other.fn.__module__} and again in "
                    f"{module}; a task type can be served by one of them only"
                )
    check_task_names(config, definitions)
    return list(definitions.values())


def new_worker_id(config: WorkerConfig) -> str:
    """Return an id that no other process start shares: leases are told apart by it."""
    name = config.worker.name or socket.gethostname()
    return f"{name}:{os.getpid()}:{os.urandom(4).hex()}"


def open_queue(
    config: WorkerConfig,
    *,
    worker_id: str,
    clock: Clock,
    listener: Listener | None = None,
    on_secret: Callable[[str], object] = str,
) -> TaskQueue:
    """Open the configured queue.

    Args:
        config: Names the queue.
        worker_id: Who polls.
        clock: For leases.
        listener: Told of requests, where there is a server.
        on_secret: Told of secrets before they are used, the exchanged ones too.
    """
    settings = config.queue
    if isinstance(settings, LocalQueueSettings):
        return open_local_queue(config, worker_id=worker_id, clock=clock)
    return _open_conductor(
        settings, worker_id=worker_id, clock=clock, listener=listener, on_secret=on_secret
    )


def _open_conductor(
    settings: ConductorQueueSettings,
    *,
    worker_id: str,
    clock: Clock,
    listener: Listener | None,
    on_secret: Callable[[str], object],
) -> TaskQueue:
    from perago_worker.adapters.conductor.client import ConductorSettings
    from perago_worker.adapters.conductor.queue import ConductorQueue

    key_id, secret = settings.auth_key_id_file, settings.auth_key_secret_file
    return ConductorQueue.open(
        ConductorSettings(
            url=settings.api_url,
            keys=_key_files(key_id, secret, on_secret) if key_id and secret else None,
            ca_file=settings.ca_file,
            cert_file=settings.cert_file,
            key_file=settings.key_file,
            tls_min_version=settings.tls_min_version,
            connect_timeout_s=settings.connect_timeout,
            request_timeout_s=settings.request_timeout,
        ),
        clock=clock,
        worker_id=worker_id,
        listener=listener,
    )


def open_local_queue(
    config: WorkerConfig, *, worker_id: str = "perago-worker-cli", clock: Clock | None = None
) -> LocalQueue:
    """Open the embedded queue.

    Raises:
        ConfigError: Another queue is configured.
    """
    from perago_worker.adapters.local.queue import LocalQueue

    if not isinstance(config.queue, LocalQueueSettings):
        raise _not_local(config, "queue", config.queue.kind)
    return LocalQueue(config.queue.path, clock=clock or SystemClock(), worker_id=worker_id)


def _key_files(key_id: Path, secret: Path, on_secret: Callable[[str], object]) -> KeyFiles:
    return KeyFiles(key_id, secret, read=read_secret, on_new=on_secret)


def open_store(
    config: WorkerConfig,
    *,
    listener: Listener | None = None,
    on_secret: Callable[[str], object] = str,
    slots: int = 1,
) -> WorkspaceStore:
    """Open the configured store; `listener` and `on_secret` as for `open_queue`.

    Args:
        slots: How many attempts there may be at once.
    """
    settings = config.store
    if isinstance(settings, LocalStoreSettings):
        return open_local_store(config)
    connections = config.workspace.transfer_connections * slots
    return _open_lakefs(settings, connections=connections, listener=listener, on_secret=on_secret)


def _open_lakefs(
    settings: LakeFSStoreSettings,
    *,
    connections: int,
    listener: Listener | None,
    on_secret: Callable[[str], object],
) -> WorkspaceStore:
    from perago_worker.adapters.lakefs.settings import LakeFSSettings
    from perago_worker.adapters.lakefs.store import LakeFSStore

    return LakeFSStore.open(
        LakeFSSettings(
            endpoint=settings.api_url,
            keys=_key_files(
                settings.access_key_id_file, settings.secret_access_key_file, on_secret
            ),
            ca_file=settings.ca_file,
            cert_file=settings.cert_file,
            key_file=settings.key_file,
            tls_min_version=settings.tls_min_version,
            connect_timeout_s=settings.connect_timeout,
            request_timeout_s=settings.request_timeout,
            presign=settings.presign == "auto",
            connections=connections,
        ),
        listener=listener,
    )


def open_local_store(config: WorkerConfig) -> LocalStore:
    """Open the embedded store.

    Raises:
        ConfigError: Another store is configured.
    """
    from perago_worker.adapters.local.store import LocalStore

    if not isinstance(config.store, LocalStoreSettings):
        raise _not_local(config, "store", config.store.kind)
    config.store.path.mkdir(parents=True, exist_ok=True)
    return LocalStore(config.store.path)


def _not_local(config: WorkerConfig, section: str, kind: str) -> ConfigError:
    problem = ConfigProblem(
        str(config.source), f"{section}.kind", f'is "{kind}"; this works with kind = "local" only'
    )
    return ConfigError([problem])


def register_locally(queue: TaskQueue, definitions: Sequence[TaskDefinition]) -> None:
    """Register definitions at the embedded queue, which has no operator to do it."""
    for definition in definitions:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # shown when the tasks were loaded
            queue.register_taskdef(build_taskdef(definition))


def build_supervisor(
    config: WorkerConfig,
    definitions: Sequence[TaskDefinition],
    *,
    queue: TaskQueue,
    store: WorkspaceStore,
    clock: Clock,
    redactor: Redactor,
    listeners: Sequence[Listener],
    until_idle: bool,
    watching: Watching | None = None,
) -> Supervisor:
    """Wire a worker for these tasks; nothing is started.

    Args:
        watching: What queue and store tell of their requests, where they were opened so.
    """
    watching = watching or Watching.of(config, definitions, worker_id="", clock=clock)
    shutdown = Shutdown()
    heartbeats = Heartbeats(clock=clock)
    slots = watching.slots
    seen = SeenRepositories()
    listener = Fanout([*listeners, *watching.listeners, seen])
    owner = f"{os.getpid()}-{os.urandom(4).hex()}"
    warm = config.workspace.warm
    if warm is None:
        warm = sum(slots[d.name] for d in definitions if d.has_workspace)
    directories = AttemptDirectories(
        config.workspace.root,
        owner=owner,
        warm=warm,
        cache_bytes=config.cache_bytes,
        listener=listener,
    )

    def make_poller(definition: TaskDefinition) -> Poller:
        def make_tools() -> Tools:
            return tools_of(
                config,
                definition,
                queue=queue,
                store=store,
                clock=clock,
                listener=listener,
                directories=directories,
                redactor=redactor,
                shut_down=shutdown.now,
                draining=shutdown.drain,
            )

        task = config.task(definition.name)
        is_local = isinstance(config.queue, LocalQueueSettings)
        return Poller(
            definition.name,
            queue=queue,
            pool=SlotPool(
                definition,
                size=slots[definition.name],
                make_tools=make_tools,
                heartbeats=heartbeats,
                clock=clock,
            ),
            domain=task.domain,
            idle_wait_s=SHORT_POLL_WAIT_S if is_local or until_idle else MAX_POLL_WAIT_S,
            clock=clock,
            listener=listener,
        )

    pollers = [make_poller(definition) for definition in definitions]
    domains = {poller.task_type: poller.domain for poller in pollers}
    supervisor = Supervisor(
        queue=queue,
        pollers=pollers,
        heartbeats=heartbeats,
        directories=directories,
        make_endpoint=lambda liveness, readiness: TelemetryServer(
            config.http.listen,
            registry=watching.registry,
            liveness=liveness,
            readiness=readiness,
            startup=lambda: not_started(supervisor),
            status=lambda: redactor.fields(status_of(supervisor, watching.board)),
            stacks=lambda: redactor.text(stacks()),
        ),
        shutdown=shutdown,
        clock=clock,
        listener=listener,
        drain_timeout_s=config.worker.drain_timeout,
        until_idle=until_idle,
        janitor=Janitor(
            survey=StageSurvey(queue=queue, store=store, clock=clock),
            store=store,
            directories=directories,
            seen=seen,
            clock=clock,
            listener=listener,
        ),
        observers=[QueueSurvey(queue, domains=domains, clock=clock, listener=listener)],
    )
    watching.look_at(supervisor, config.workspace.root, directories.cache)
    return supervisor


def tools_of(
    config: WorkerConfig,
    definition: TaskDefinition,
    *,
    queue: TaskQueue,
    store: WorkspaceStore,
    clock: Clock,
    listener: Listener,
    directories: AttemptDirectories,
    redactor: Redactor,
    shut_down: threading.Event,
    draining: threading.Event | None = None,
) -> Tools:
    """Return what attempts of one slot work with, as the configuration has it."""
    return Tools(
        queue=queue,
        store=store,
        clock=clock,
        listener=listener,
        directories=directories,
        body=_make_body(config, definition, listener),
        settings=_attempt_settings(config, definition),
        redact=redactor.text,
        shut_down=shut_down,
        draining=draining or threading.Event(),
    )


def budget_of(config: WorkerConfig, definition: TaskDefinition) -> Budget:
    """Return the times of a task: its own, or those of the configuration."""
    declared = definition.controls.publish_budget
    if declared is not None:
        return Budget.of(declared)
    defaults = config.publish
    return Budget(
        merge_s=defaults.merge_timeout,
        completion_s=defaults.completion_timeout,
        heartbeat_s=defaults.heartbeat_interval,
    )


def _attempt_settings(config: WorkerConfig, definition: TaskDefinition) -> AttemptSettings:
    defaults = config.publish
    return AttemptSettings(
        budget=budget_of(config, definition),
        limits=Limits(objects=config.workspace.max_objects, bytes=config.workspace.max_bytes),
        transfer_threads=config.workspace.transfer_connections,
        body_timeout_s=config.task(definition.name).body_timeout,
        record_result=defaults.record_result,
        adopt=defaults.on_abandoned == "adopt",
        require_fence=defaults.require_fence == "hook",
        sentinel=defaults.sentinel,
    )


def _make_body(config: WorkerConfig, definition: TaskDefinition, listener: Listener) -> BodyRunner:
    if config.task(definition.name).isolation == "thread":
        return ThreadBody(definition)
    worker = config.worker
    spec = ChildSpec(
        module=definition.fn.__module__,
        task_name=definition.name,
        environment=child_environment(
            os.environ, allowed=worker.body_env, python_path=worker.python_path
        ),
        memory_limit=worker.child_memory_limit or 0,
        cancel_grace_s=_cancel_grace(config, definition),
        kill_grace_s=worker.kill_grace,
        max_calls=worker.attempts_per_child,
    )

    def on_started(pid: int, cause: str) -> None:
        listener.on_event(ChildStarted(definition.name, pid, cause))

    return ProcessBody(spec, on_started=on_started)


def _greet(store: WorkspaceStore) -> None:
    """Load what the store's adapter needs and connect, while the pollers wait for work.

    Nothing depends on the answer: a store that is away now may be back when a task needs it.
    """
    log = structlog.get_logger(__name__)
    try:
        store.ping()
    except StoreError as error:
        log.warning("store.unreachable", error=str(error))
    else:
        log.debug("store.reached")


def _load_tasks_logging_warnings(config: WorkerConfig) -> list[TaskDefinition]:
    """Load the tasks; what their modules warn of, or their definitions, goes to the log."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        definitions = load_tasks(config)
        for definition in definitions:
            build_taskdef(definition)
    log = structlog.get_logger(__name__)
    for warning in caught:
        log.warning("task.warning", detail=str(warning.message))
    return definitions


def _cancel_grace(config: WorkerConfig, definition: TaskDefinition) -> float:
    """Return how long a body has to return by itself: well within one heartbeat interval."""
    heartbeat_s = _attempt_settings(config, definition).budget.heartbeat_s
    interval_s = min(heartbeat_s, definition.controls.timeout.response_seconds / BEATS_PER_LEASE)
    return min(config.worker.kill_grace, interval_s) / 2


def _log_config_warnings(config: WorkerConfig) -> None:
    log = structlog.get_logger(__name__)
    for problem in config.warnings:
        log.warning("config.warning", where=problem.where, key=problem.key, detail=problem.message)
