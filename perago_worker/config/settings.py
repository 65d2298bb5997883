"""Every key of a configuration, its bounds and its default.

The text below a key is its documentation. Durations are seconds and paths absolute once loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from perago_worker.config.values import (
    Domain,
    Expected,
    Listen,
    LocalPath,
    LowerCase,
    ModuleName,
    Name,
    ReadableFile,
    Seconds,
    SecondsOrZero,
    SecretFile,
    Size,
    SizeOrZero,
    Url,
    VariableName,
    parse_listen,
)
from perago_worker.errors import ConfigProblem

Isolation = Literal["process", "thread"]
Concurrency = Annotated[
    int, Field(strict=True, ge=1, le=256), Expected("a whole number from 1 to 256")
]


DEFAULT_CACHE_BYTES = 1024**3
"""With a store across the network. The embedded one is on this disk already."""


class Section(BaseModel):
    """Base of all sections; defaults are validated too, so that default paths become absolute."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True
    )


class WorkerSettings(Section):
    """`[worker]`: what to work on, how much at once, and how to stop."""

    modules: Annotated[
        tuple[ModuleName, ...],
        Field(min_length=1),
        Expected('a list with at least one module name, such as ["features.tasks"]'),
    ]
    """Modules with tasks in them, by import name."""
    python_path: Annotated[
        tuple[LocalPath, ...], Expected('a list of folders, such as ["src"]')
    ] = (Path(),)
    """Folders that modules are imported from, before those of the Python installation. The folder
    of the configuration file unless given."""
    name: Name | None = None
    """Name of the worker in logs and at the queue; that of the host unless given. Processes may
    share one."""
    concurrency: Concurrency = 1
    """Attempts of one task that run at once, 1 to 256; see also `tasks.*.concurrency`."""
    take_ahead: SecondsOrZero = 0.1
    """Work that a slot may have waiting while there is a backlog: as many tasks as attempts of late
    would take so long for, at most eight, of task types without a workspace and with retries. While
    some wait, reports are held back for a moment. All of them use a retry when the worker is
    killed. 0 takes none before a slot is free."""
    isolation: Isolation = "process"
    """Where bodies run: `process` is a child process without credentials, `thread` this process."""
    drain_timeout: SecondsOrZero = 30.0
    """How long attempts may go on after the worker was asked to stop; then they are given back."""
    kill_grace: SecondsOrZero = 5.0
    """Time between SIGTERM and SIGKILL for a body that has to end."""
    body_env: Annotated[
        tuple[VariableName, ...],
        Expected('a list of names of environment variables, such as ["OMP_NUM_THREADS"]'),
    ] = ()
    """Names of environment variables that bodies in child processes see, besides the basic ones."""
    attempts_per_child: Annotated[
        int,
        Field(strict=True, ge=1, le=1_000_000),
        Expected("a whole number from 1 to 1000000"),
    ] = 1000
    """Attempts after which a child process makes room for a new one."""
    child_memory_limit: Size | None = None
    """Address space that a child process may use; no limit unless given."""


class LocalQueueSettings(Section):
    """`[queue]` with `kind = "local"`: a queue in a file, for one machine."""

    kind: Literal["local"] = "local"
    """Which queue: `local` or `conductor`."""
    path: LocalPath = Path("var/queue.db")
    """The file; it and its folder are made when missing."""


class ConductorQueueSettings(Section):
    """`[queue]` with `kind = "conductor"`: a Conductor server."""

    kind: Literal["conductor"]
    """Which queue: `local` or `conductor`."""
    url: Url
    """Root of the server or of its API, such as `https://conductor.example.com/api`."""
    auth_key_id_file: SecretFile | None = None
    """File with the id of the access key; for servers that ask for one. Both are read anew when
    they change."""
    auth_key_secret_file: SecretFile | None = None
    """File with the secret of the access key."""
    ca_file: ReadableFile | None = None
    """Certificates, in PEM, to trust instead of those of the system."""
    cert_file: ReadableFile | None = None
    """Certificate, in PEM with its chain, that tells the server who we are; for servers that ask
    for one. Read anew when it changes."""
    key_file: ReadableFile | None = None
    """Key of that certificate, in PEM and without a passphrase; not needed where `cert_file` holds
    it."""
    tls_min_version: Literal["1.2", "1.3"] = "1.2"
    """Oldest version of TLS that is spoken."""
    domain: Domain | None = None
    """Task domain to poll from; the default queue unless given. See also `tasks.*.domain`."""
    connect_timeout: Seconds = 5.0
    """Time for a connection to come about."""
    request_timeout: Seconds = 15.0
    """Time for a request to be answered; a long poll may take its waiting time more."""

    @field_validator("auth_key_secret_file")
    @classmethod
    def _check_pair(cls, secret: Path | None, info: ValidationInfo) -> Path | None:
        if "auth_key_id_file" not in info.data:
            return secret  # it was given and is wrong: reported already
        key_id = info.data["auth_key_id_file"]
        if key_id and not secret:
            raise ValueError("is missing beside auth_key_id_file; give both or none")
        if secret and not key_id:
            raise ValueError("is given without auth_key_id_file; give both or none")
        return secret

    @field_validator("key_file")
    @classmethod
    def _check_key(cls, key: Path | None, info: ValidationInfo) -> Path | None:
        if key and info.data.get("cert_file", key) is None:
            raise ValueError("is given without cert_file; name the certificate too")
        return key

    @property
    def api_url(self) -> str:
        """The URL with `/api` at its end."""
        return self.url if self.url.endswith("/api") else f"{self.url}/api"


class LocalStoreSettings(Section):
    """`[store]` with `kind = "local"`: git repositories in a folder, for one machine."""

    kind: Literal["local"] = "local"
    """Which store: `local` or `lakefs`."""
    path: LocalPath = Path("var/repositories")
    """The folder; it is made when missing."""


class LakeFSStoreSettings(Section):
    """`[store]` with `kind = "lakefs"`: a lakeFS server."""

    kind: Literal["lakefs"]
    """Which store: `local` or `lakefs`."""
    endpoint: Url
    """Root of the server or of its API, such as `https://lakefs.example.com`."""
    access_key_id_file: SecretFile
    """File with the id of the access key. Both are read anew when they change."""
    secret_access_key_file: SecretFile
    """File with the secret of the access key."""
    ca_file: ReadableFile | None = None
    """Certificates, in PEM, to trust instead of those of the system."""
    cert_file: ReadableFile | None = None
    """Certificate, in PEM with its chain, that tells the server who we are; for servers that ask
    for one. Read anew when it changes."""
    key_file: ReadableFile | None = None
    """Key of that certificate, in PEM and without a passphrase; not needed where `cert_file` holds
    it."""
    tls_min_version: Literal["1.2", "1.3"] = "1.2"
    """Oldest version of TLS that is spoken."""
    connect_timeout: Seconds = 5.0
    """Time for a connection to come about."""
    request_timeout: Seconds = 30.0
    """Time for a request to be answered, and longest pause within a transfer."""
    presign: Literal["auto", "off"] = "auto"
    """Whether objects are read and written at the object store itself, by addresses that the server
    signs: `auto` where it offers to and they can be reached, `off` never."""

    @field_validator("key_file")
    @classmethod
    def _check_key(cls, key: Path | None, info: ValidationInfo) -> Path | None:
        if key and info.data.get("cert_file", key) is None:
            raise ValueError("is given without cert_file; name the certificate too")
        return key

    @property
    def api_url(self) -> str:
        """The URL with `/api/v1` at its end."""
        return f"{self.endpoint.removesuffix('/api/v1')}/api/v1"


class WorkspaceSettings(Section):
    """`[workspace]`: where attempts have their files, and how they come and go."""

    root: LocalPath = Path("var/workspaces")
    """Folder for the files of running attempts; it is made when missing."""
    transfer_connections: Annotated[
        int, Field(strict=True, ge=1, le=64), Expected("a whole number from 1 to 64")
    ] = 8
    """Connections that one attempt moves objects over, 1 to 64."""
    max_bytes: Size | None = None
    """Size of the largest workspace that is downloaded; no limit unless given."""
    max_objects: Annotated[
        int, Field(strict=True, ge=1), Expected("a whole number from 1 upwards")
    ] = 1_000_000
    """Number of objects in the largest workspace that is downloaded."""
    warm: (
        Annotated[int, Field(strict=True, ge=0, le=4096), Expected("a whole number from 0 to 4096")]
        | None
    ) = None
    """Workspaces that a worker keeps when their attempts are over, so that the next one of the same
    task and repository brings only what has changed; as many as it has slots unless given, 0 keeps
    none."""
    cache_max: SizeOrZero | None = None
    """Size of the cache below `root`: objects that were read or published once, for all tasks and
    workers of this root. It holds less where more would take more than half of what is left of the
    disk. `1GiB` with lakeFS and none with the embedded store unless given; 0 is none."""


class PublishSettings(Section):
    """`[publish]`: how results become the head of a branch; for tasks without a PublishBudget."""

    merge_timeout: Seconds = 60.0
    """Time for the merge that publishes."""
    completion_timeout: Seconds = 60.0
    """Time for the report that follows the merge."""
    heartbeat_interval: Seconds = 20.0
    """Longest time between two heartbeats of a lease."""
    record_result: Annotated[bool, Field(strict=True), Expected("true or false")] = True
    """Whether a publication carries the task's result, so that a repeated attempt can adopt it."""
    on_abandoned: Annotated[Literal["adopt", "replace"], LowerCase] = "adopt"
    """What becomes of a publication whose attempt could not report it: `adopt` takes over its
    recorded result where that is sound, `replace` always runs the body again."""
    require_fence: Annotated[Literal["none", "hook"], LowerCase] = "none"
    """`hook` refuses inputs whose publication would only be verified after the merge; see
    `perago-worker fence`."""
    sentinel: Annotated[bool, Field(strict=True), Expected("true or false")] = False
    """Whether publications without a better fence rewrite an object below `_perago/heads`, so that
    two of them that race conflict."""


class HttpSettings(Section):
    """`[http]`: status page, metrics and probes."""

    listen: Listen = "127.0.0.1:9464"
    """Address and port to serve on; port 0 is any free one, an empty string turns it off."""
    client_metrics: Annotated[bool, Field(strict=True), Expected("true or false")] = False
    """Whether `/metrics` also shows the metrics that Conductor's client libraries share."""

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port; None when it is turned off."""
        return parse_listen(self.listen)


class LoggingSettings(Section):
    """`[logging]`: what the worker writes to its standard output."""

    format: Annotated[Literal["auto", "console", "json"], LowerCase] = "auto"
    """`console` for people, `json` for machines; `auto` is `console` on a terminal."""
    level: Annotated[Literal["debug", "info", "warning", "error"], LowerCase] = "info"
    """The least important kind of line that is written."""
    levels: Annotated[
        Mapping[str, Annotated[Literal["debug", "info", "warning", "error"], LowerCase]],
        Expected('a table of loggers and levels, such as {"urllib3": "debug"}'),
    ] = {}
    """Levels of single loggers by name, with those below them, where another than `logging.level`
    is wanted; also for modules of tasks that run in threads."""


class TaskSettings(Section):
    """`[tasks."NAME"]`: what is different for one task."""

    concurrency: Concurrency | None = None
    """Attempts that run at once; `worker.concurrency` unless given."""
    isolation: Isolation | None = None
    """Where the body runs; `worker.isolation` unless given."""
    domain: Domain | None = None
    """Task domain to poll from; `queue.domain` unless given."""
    body_timeout: Seconds | None = None
    """Longest time for the body; only the timeouts of the task definition unless given."""


@dataclass(frozen=True)
class EffectiveTask:
    """The settings of one task with the worker's own filled in."""

    concurrency: int
    isolation: Isolation
    domain: str | None
    body_timeout: float | None


QueueSettings = LocalQueueSettings | ConductorQueueSettings
StoreSettings = LocalStoreSettings | LakeFSStoreSettings


class WorkerConfig(BaseModel):
    """A whole configuration, valid and unchangeable.

    Attributes:
        source: The file it came from.
        warnings: What works but is better changed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    worker: WorkerSettings
    queue: Annotated[QueueSettings, Field(discriminator="kind")]
    store: Annotated[StoreSettings, Field(discriminator="kind")]
    workspace: WorkspaceSettings
    publish: PublishSettings
    http: HttpSettings
    logging: LoggingSettings
    tasks: Mapping[str, TaskSettings]
    source: Path
    warnings: tuple[ConfigProblem, ...] = ()

    @property
    def cache_bytes(self) -> int:
        """How large the cache may be; 0 is none."""
        given = self.workspace.cache_max
        if given is not None:
            return given
        return DEFAULT_CACHE_BYTES if self.store.kind == "lakefs" else 0

    def task(self, name: str) -> EffectiveTask:
        """Return what holds for the task called `name`."""
        own = self.tasks.get(name, TaskSettings())
        queue_domain = self.queue.domain if isinstance(self.queue, ConductorQueueSettings) else None
        return EffectiveTask(
            concurrency=own.concurrency or self.worker.concurrency,
            isolation=own.isolation or self.worker.isolation,
            domain=own.domain or queue_domain,
            body_timeout=own.body_timeout,
        )
