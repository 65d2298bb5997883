"""Queue and store, opened as the configuration has them.

Adapters are imported where they are opened: a worker over the embedded pair loads neither server's
SDK, and one over servers no libgit2.

"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from perago_worker.adapters.keys import KeyFiles
from perago_worker.adapters.system import SystemClock
from perago_worker.adapters.tls import TlsSettings
from perago_worker.config import (
    ConductorQueueSettings,
    LakeFSStoreSettings,
    LocalQueueSettings,
    LocalStoreSettings,
    WorkerConfig,
    read_secret,
)
from perago_worker.errors import ConfigError, ConfigProblem
from perago_worker.events import Listener
from perago_worker.ports import Clock, TaskQueue, WorkspaceStore
from perago_worker.task import TaskDefinition
from perago_worker.taskdef import build_taskdef

if TYPE_CHECKING:
    from perago_worker.adapters.local.queue import LocalQueue
    from perago_worker.adapters.local.store import LocalStore


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
            tls=tls_of(settings),
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
            tls=tls_of(settings),
            connect_timeout_s=settings.connect_timeout,
            request_timeout_s=settings.request_timeout,
            presign=settings.presign == "auto",
            connections=connections,
        ),
        listener=listener,
    )


def tls_of(settings: ConductorQueueSettings | LakeFSStoreSettings) -> TlsSettings:
    """Return how TLS is spoken to a server."""
    return TlsSettings(
        ca_file=settings.ca_file,
        cert_file=settings.cert_file,
        key_file=settings.key_file,
        min_version=settings.tls_min_version,
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


def _key_files(key_id: Path, secret: Path, on_secret: Callable[[str], object]) -> KeyFiles:
    return KeyFiles(key_id, secret, read=read_secret, on_new=on_secret)


def register_locally(queue: TaskQueue, definitions: Sequence[TaskDefinition]) -> None:
    """Register definitions at the embedded queue, which has no operator to do it."""
    for definition in definitions:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # shown when the tasks were loaded
            queue.register_taskdef(build_taskdef(definition))
