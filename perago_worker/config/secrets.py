"""The secrets a configuration names: read when they are needed, never kept in it."""

from __future__ import annotations

from pathlib import Path

from perago_worker.config.schema import is_secret
from perago_worker.config.settings import WorkerConfig
from perago_worker.errors import ConfigError, ConfigProblem


def read_secret(path: Path) -> str:
    """Return what a secret file holds, without white space at its ends.

    Read anew on every call, so that a secret that was exchanged is found.

    Raises:
        ConfigError: The file cannot be read or is empty.
    """
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ConfigError([ConfigProblem(str(path), "", f"cannot be read: {reason}")]) from None
    if not text:
        raise ConfigError([ConfigProblem(str(path), "", "is empty; expected a secret in it")])
    return text


def secret_values(config: WorkerConfig) -> frozenset[str]:
    """Return every secret that `config` names, for keeping them out of logs and reports.

    Ids of keys are not among them: they may be plain words, which logs are full of.
    """
    return frozenset(
        read_secret(file)
        for section in (config.queue, config.store)
        for key, info in type(section).model_fields.items()
        if is_secret(info) and not key.endswith("_id_file")
        if (file := getattr(section, key)) is not None
    )
