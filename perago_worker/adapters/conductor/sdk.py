"""What the adapter uses of conductor-python, imported without what it would do to the process.

Used are the resource classes, which know Conductor's endpoints and parameters, and the models of
what is sent. Not used is what lies below them, the SDK's client: it sends a poll whose answer was
lost a second time, so that tasks end up with nobody; it replaces a configured HTTP client after a
protocol error; one task it cannot read makes it drop a whole batch; a stray 404 from `/token` turns
authentication off for good; and keys found in the environment overrule ours. `transport` stands in
for that client.

Importing any part of the SDK runs its top package, which loads its worker runtime, sets the start
method of `multiprocessing` for the whole process and adds a method to every logger. Task code may
run in this process and must not find it changed, and a worker should poll within a second of its
start, of which the top package would take a fifth. So the parts are imported below an empty
stand-in for it, and are then taken out of `sys.modules`: whoever imports the SDK afterwards gets it
whole.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_TOP = "conductor.client"


@contextmanager
def _without_top_package() -> Iterator[None]:
    """Import parts of the SDK privately; when somebody has imported it before, use theirs."""
    if _TOP in sys.modules:
        yield
        return
    before = set(sys.modules)
    had_trace = hasattr(logging.Logger, "trace")
    sys.modules[_TOP] = _stand_in()
    try:
        yield
    finally:
        for name in set(sys.modules) - before:
            if name.split(".")[0] == "conductor":
                del sys.modules[name]
        if not had_trace:
            del logging.Logger.trace  # type: ignore[attr-defined]


def _stand_in() -> ModuleType:
    root = importlib.util.find_spec("conductor")
    if root is None or root.submodule_search_locations is None:
        raise ImportError("conductor-python is not installed")
    package = ModuleType(_TOP)
    package.__path__ = [f"{folder}/client" for folder in root.submodule_search_locations]
    return package


with _without_top_package():
    from conductor.client.http.api.metadata_resource_api import MetadataResourceApi
    from conductor.client.http.api.task_resource_api import TaskResourceApi
    from conductor.client.http.models.task_exec_log import TaskExecLog
    from conductor.client.http.models.task_result import TaskResult


def wire(model: Any) -> dict[str, Any]:
    """Return a model of the SDK as a JSON object with Conductor's field names, unset ones left out.

    Shallow on purpose: what is inside `outputData` is the author's, and the SDK's own conversion
    would turn what is not JSON into something else without a word.
    """
    values = ((key, getattr(model, name)) for name, key in model.attribute_map.items())
    return {key: value for key, value in values if value is not None}


__all__ = ["MetadataResourceApi", "TaskExecLog", "TaskResourceApi", "TaskResult", "wire"]
