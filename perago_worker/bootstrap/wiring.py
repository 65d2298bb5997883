"""Services wired into a supervisor: pollers with their slots, endpoint, janitor, surveys."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from perago_worker.attempt.context import Tools
from perago_worker.attempt.directories import AttemptDirectories
from perago_worker.bootstrap.attempts import tools_of
from perago_worker.bootstrap.watching import Watching, not_started, status_of
from perago_worker.config import LocalQueueSettings, Redactor, WorkerConfig
from perago_worker.events import Fanout, Listener
from perago_worker.ports import MAX_POLL_WAIT_S, Clock, TaskQueue, WorkspaceStore
from perago_worker.runtime.heartbeats import Heartbeats
from perago_worker.runtime.janitor import Janitor, SeenRepositories, StageSurvey
from perago_worker.runtime.poller import Poller
from perago_worker.runtime.queue_survey import QueueSurvey
from perago_worker.runtime.shutdown import Shutdown
from perago_worker.runtime.slots import SlotPool
from perago_worker.runtime.supervisor import Supervisor
from perago_worker.runtime.watchdog import stacks
from perago_worker.task import TaskDefinition
from perago_worker.telemetry.http import TelemetryServer

SHORT_POLL_WAIT_S = 1.0
"""For the embedded queue, where a poll costs next to nothing, and for a worker that is to end when
nothing is left: both end within a poll."""


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
    catch_up: Callable[[], object] = lambda: None,
) -> Supervisor:
    """Wire a worker for these tasks; nothing is started.

    Args:
        listeners: Told of everything that happens.
        watching: What is looked at, if it is among those who are told already.
        catch_up: Has listeners told of what they have not been told of yet.
    """
    if watching is None:
        watching = Watching.of(config, definitions, worker_id="", clock=clock)
        listeners = [*listeners, *watching.listeners]
    shutdown = Shutdown()
    heartbeats = Heartbeats(clock=clock)
    slots = watching.slots
    seen = SeenRepositories()
    listener = Fanout([*listeners, seen])
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
                take_ahead_s=config.worker.take_ahead,
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
            catch_up=catch_up,
            liveness=liveness,
            readiness=readiness,
            startup=lambda: not_started(supervisor),
            status=lambda: redactor.fields(
                status_of(supervisor, watching.board, directories.cache)
            ),
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
