"""What is kept to be looked at: metrics and the status board, and how they see the worker.

Part of the composition root: it joins telemetry, which knows nothing of the worker's parts, to the
runtime, which knows nothing of telemetry.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from perago_worker.attempt.cache import ContentCache
from perago_worker.attempt.codes import Code
from perago_worker.attempt.pipeline import STEP_NAMES
from perago_worker.config import WorkerConfig
from perago_worker.events import Listener
from perago_worker.models import Lease
from perago_worker.ports import Clock
from perago_worker.runtime.slots import SlotPool
from perago_worker.runtime.supervisor import Supervisor
from perago_worker.task import TaskDefinition
from perago_worker.telemetry.board import Board
from perago_worker.telemetry.cache_metrics import CacheMetrics
from perago_worker.telemetry.client_metrics import ClientMetrics
from perago_worker.telemetry.metrics import Metrics
from perago_worker.telemetry.request_metrics import RequestMetrics

SERVERS = {"conductor", "lakefs"}


@dataclass(frozen=True)
class Watching:
    """What listens in order to be looked at.

    Attributes:
        clients: Metrics by the names of Conductor's clients, where they are asked for.
        slots: How many attempts each task type may have at once.
        listeners: To be told of everything that happens.
    """

    registry: CollectorRegistry
    metrics: Metrics
    cache: CacheMetrics
    clients: ClientMetrics | None
    board: Board
    slots: Mapping[str, int]
    listeners: Sequence[Listener]

    @classmethod
    def of(
        cls,
        config: WorkerConfig,
        definitions: Sequence[TaskDefinition],
        *,
        worker_id: str,
        clock: Clock,
        trace_of: Callable[[Lease], str | None] = lambda _: None,
    ) -> Watching:
        """Make what the configuration asks for.

        Args:
            config: What is asked for.
            definitions: Of the tasks that are served.
            worker_id: As the queue knows it.
            clock: For ages and times.
            trace_of: Returns the trace an attempt is recorded in, for exemplars.
        """
        registry = CollectorRegistry()
        slots = {d.name: slot_count(config, d) for d in definitions}
        services = ["heartbeats", "janitor", "queue survey", "watchdog"]
        services += [f"poller {name}" for name in slots]
        metrics = Metrics(
            registry,
            slots=slots,
            steps=STEP_NAMES,
            codes=tuple(Code),
            services=services,
            trace_of=trace_of,
        )
        cache = CacheMetrics(registry, tasks=slots)
        kinds = {"queue": config.queue.kind, "store": config.store.kind}
        servers = {port: kind for port, kind in kinds.items() if kind in SERVERS}
        about = {"id": worker_id, "name": worker_id.partition(":")[0], **kinds}
        about["config"] = config_hash(config)
        board = Board(slots=slots, about=about, clock=clock)
        counting: list[Listener] = [RequestMetrics(registry, services=servers)]
        clients = ClientMetrics(registry, tasks=slots) if config.http.client_metrics else None
        if clients is not None:
            counting.append(clients)
        return cls(
            registry=registry,
            metrics=metrics,
            cache=cache,
            clients=clients,
            board=board,
            slots=slots,
            listeners=[metrics, cache, board, *counting],
        )

    def look_at(self, supervisor: Supervisor, workspaces: Path, cache: ContentCache) -> None:
        """Have metrics that are read off the worker when somebody asks."""
        self.cache.watch(lambda: cache.held_bytes)
        pools = {poller.task_type: poller.pool for poller in supervisor.pollers}
        busy = {task: _busy(pool) for task, pool in pools.items()}
        if self.clients is not None:
            self.clients.watch(busy)
        self.metrics.watch(
            disk_free_bytes=lambda: _free_bytes(workspaces),
            loop_lag_s=supervisor.lag_s,
            lease_remaining_s={task: pool.shortest_lease_s for task, pool in pools.items()},
            slots_busy=busy,
        )


def config_hash(config: WorkerConfig) -> str:
    """Return a few digits that are the same where the same settings hold, whatever they came from.

    Secrets are no part of it, but the files that hold them.
    """
    effective = config.model_dump(mode="json", exclude={"source", "warnings"})
    text = json.dumps(effective, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def slot_count(config: WorkerConfig, definition: TaskDefinition) -> int:
    """Return how many attempts of a task may run here at once.

    Slots beyond the task's limit would be of no use: Conductor postpones what is polled for them by
    a minute.
    """
    limit = definition.controls.limits.concurrent_exec_limit  # 0 is none, too
    concurrency = config.task(definition.name).concurrency
    return min(concurrency, limit) if limit else concurrency


def status_of(supervisor: Supervisor, board: Board, cache: ContentCache) -> dict[str, Any]:
    """Return the status as plain values: what the board knows, and the parts as they are now."""
    return {
        **board.snapshot(
            lease_left_s=lambda task_id: _lease_left_s(supervisor, task_id),
            slots_busy={p.task_type: p.pool.busy for p in supervisor.pollers},
            cache_held_bytes=cache.held_bytes,
            cache_max_bytes=cache.max_bytes,
        ),
        "not_alive": supervisor.liveness(),
        "not_ready": supervisor.readiness(),
        "services": [
            {
                "name": service.name,
                "silent_s": round(service.silent_for_s(), 1),
                "failure": _last_line(service.failure),
            }
            for service in supervisor.services
        ],
    }


def not_started(supervisor: Supervisor) -> list[str]:
    """Return why the worker has not started: the first answer of every queue is awaited.

    Once it has been given, whatever happens later is for the other probes.
    """
    if supervisor.state == "starting":
        return ["the worker is starting"]
    return [
        f"{poller.task_type}: has not polled yet"
        for poller in supervisor.pollers
        if poller.polled_at is None and not poller.pool.busy
    ]


def _lease_left_s(supervisor: Supervisor, task_id: str) -> float | None:
    for poller in supervisor.pollers:
        attempt = poller.pool.running(task_id)
        if attempt is not None:
            return attempt.keeper.remaining_s
    return None


def _busy(pool: SlotPool) -> Callable[[], float]:
    return lambda: pool.busy


def _last_line(failure: str | None) -> str:
    return failure.strip().rpartition("\n")[2] if failure else ""


def _free_bytes(folder: Path) -> float:
    """Return what is left for an ordinary user; not a number when it cannot be told."""
    for place in (folder, *folder.parents):
        try:
            return float(shutil.disk_usage(place).free)
        except FileNotFoundError:
            continue
        except OSError:
            break
    return float("nan")
