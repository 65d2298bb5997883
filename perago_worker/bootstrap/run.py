"""A worker from start to exit code: its queue and store opened, wired, run and closed."""

from __future__ import annotations

import os
import socket
import sys
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import structlog

from perago_worker.adapters.system import SystemClock
from perago_worker.bootstrap.adapters import open_queue, open_store, register_locally
from perago_worker.bootstrap.tasks import load_tasks_logging_warnings
from perago_worker.bootstrap.watching import Watching
from perago_worker.bootstrap.wiring import build_supervisor
from perago_worker.config import Redactor, WorkerConfig, secret_values
from perago_worker.errors import StoreError
from perago_worker.events import Fanout
from perago_worker.ports import WorkspaceStore
from perago_worker.runtime.secrecy import keep_to_itself
from perago_worker.telemetry.deferred import HELD_UP_S, Deferred
from perago_worker.telemetry.event_log import EventLog
from perago_worker.telemetry.logs import configure_logging, wants_bars
from perago_worker.telemetry.summary import RunSummary
from perago_worker.telemetry.traces import open_traces

if TYPE_CHECKING:
    from perago_worker.telemetry.progress import ProgressBars


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
    definitions = load_tasks_logging_warnings(config)
    clock = SystemClock()
    summary = RunSummary() if until_idle else None
    worker_id = new_worker_id(config)
    traces = open_traces(os.environ, worker_id=worker_id)
    traced = {"trace_of": traces.trace_of} if traces else {}
    watching = Watching.of(config, definitions, worker_id=worker_id, clock=clock, **traced)
    asked_for = (each for each in (summary, bars, traces) if each)
    listener = Deferred(
        Fanout([EventLog(), *asked_for, *watching.listeners]),
        at_once=any(config.task(d.name).isolation == "thread" for d in definitions),
    )
    with (
        closing(listener),
        closing(
            open_queue(
                config,
                worker_id=worker_id,
                clock=clock,
                listener=listener,
                on_secret=redactor.add,
            )
        ) as queue,
        closing(
            open_store(
                config,
                listener=listener,
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
            listeners=[listener],
            until_idle=until_idle,
            watching=watching,
            catch_up=lambda: listener.flush(timeout_s=HELD_UP_S),
        )
        threading.Thread(target=_greet, args=(store,), name="store greeting", daemon=True).start()
        try:
            code = supervisor.run()
        finally:
            is_told = listener.flush(timeout_s=HELD_UP_S)
            if bars and is_told:  # a terminal that is stopped would hold this up, too
                bars.close()
            if traces:
                traces.close()
    if summary:
        summary.render(sys.stdout)
    elif listener.held_up:
        # Nobody reads the log, and the usual way out waits until its last line is written.
        os._exit(code)
    return code


def new_worker_id(config: WorkerConfig) -> str:
    """Return an id that no other process start shares: leases are told apart by it."""
    name = config.worker.name or socket.gethostname()
    return f"{name}:{os.getpid()}:{os.urandom(4).hex()}"


def _progress_bars(config: WorkerConfig, level: str) -> ProgressBars | None:
    """Return what draws bars on standard output; None where nobody would see them."""
    if not wants_bars(
        sys.stdout, log_format=config.logging.format, level=level, environ=os.environ
    ):
        return None
    from perago_worker.telemetry.progress import ProgressBars

    return ProgressBars(sys.stdout)


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


def _log_config_warnings(config: WorkerConfig) -> None:
    log = structlog.get_logger(__name__)
    for problem in config.warnings:
        log.warning("config.warning", where=problem.where, key=problem.key, detail=problem.message)
