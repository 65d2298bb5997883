"""The configuration: one TOML file, environment variables over it, all problems told at once."""

from perago_worker.config.loading import check_task_names, load_config
from perago_worker.config.redaction import Redactor
from perago_worker.config.schema import nearest
from perago_worker.config.secrets import read_secret, secret_values
from perago_worker.config.settings import (
    ConductorQueueSettings,
    EffectiveTask,
    HttpSettings,
    Isolation,
    LakeFSStoreSettings,
    LocalQueueSettings,
    LocalStoreSettings,
    LoggingSettings,
    PublishSettings,
    QueueSettings,
    StoreSettings,
    TaskSettings,
    WorkerConfig,
    WorkerSettings,
    WorkspaceSettings,
)
from perago_worker.config.values import parse_listen

__all__ = [
    "load_config",
    "check_task_names",
    "read_secret",
    "secret_values",
    "nearest",
    "parse_listen",
    "Redactor",
    "WorkerConfig",
    "WorkerSettings",
    "QueueSettings",
    "LocalQueueSettings",
    "ConductorQueueSettings",
    "StoreSettings",
    "LocalStoreSettings",
    "LakeFSStoreSettings",
    "WorkspaceSettings",
    "PublishSettings",
    "HttpSettings",
    "LoggingSettings",
    "TaskSettings",
    "EffectiveTask",
    "Isolation",
]
