"""Configurations of the workers that rigs start in processes of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tests.rig.tasks import CASE
from tests.support import ROOT

Isolation = Literal["process", "thread"]
OnAbandoned = Literal["adopt", "replace"]

EMBEDDED_PAIR = """\
[queue]
kind = "local"
path = "queue.db"
[store]
kind = "local"
path = "store"
"""

_CONFIG = """\
[worker]
modules = ["{module}"]
python_path = ["{root}"]
isolation = "{isolation}"
body_env = ["{case}"]
{pair}[workspace]
root = "work"
cache_max = "16MiB"
[publish]
on_abandoned = "{on_abandoned}"
[http]
listen = ""
[logging]
format = "json"
level = "debug"
"""


def write_config(
    path: Path,
    *,
    module: str,
    isolation: Isolation,
    on_abandoned: OnAbandoned,
    pair: str = EMBEDDED_PAIR,
) -> Path:
    """Write a worker's configuration and return where it is; it has a cache.

    Args:
        path: Its file; what the worker keeps is beside it.
        module: Where its tasks are.
        isolation: Where bodies run.
        on_abandoned: The setting of that name.
        pair: The sections of its queue and its store.
    """
    path.write_text(
        _CONFIG.format(
            module=module,
            root=ROOT,
            isolation=isolation,
            case=CASE,
            on_abandoned=on_abandoned,
            pair=pair,
        )
    )
    return path
