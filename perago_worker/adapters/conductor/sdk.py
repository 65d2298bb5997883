"""What the adapter uses of conductor-python, imported without what it would do to the process.

Used are the resource classes, which know Conductor's endpoints and parameters. Not used is what
lies below them, the SDK's client: it sends a poll whose answer was lost a second time, so that
tasks end up with nobody; it replaces a configured HTTP client after a protocol error; one task it
cannot read makes it drop a whole batch; a stray 404 from `/token` turns authentication off for
good; and keys found in the environment overrule ours. `transport` stands in for that client.

Importing any part of the SDK runs its top package, which loads its worker runtime, sets the start
method of `multiprocessing` for the whole process and adds a method to every logger. Task code may
run in this process and must not find it changed. So the parts are imported below stand-ins, and
without the SDK's client and what that loads.
"""

from __future__ import annotations

from types import ModuleType

from perago_worker.adapters.partial_import import without_packages

_CLIENT = "conductor.client.http.api_client"


def _no_client() -> ModuleType:
    module = ModuleType(_CLIENT)
    module.ApiClient = None  # type: ignore[attr-defined]  # the default of what we always give
    return module


with without_packages(
    "conductor.client", "conductor.client.http.models", stubs={_CLIENT: _no_client()}
):
    from conductor.client.http.api.metadata_resource_api import MetadataResourceApi
    from conductor.client.http.api.task_resource_api import TaskResourceApi

__all__ = ["MetadataResourceApi", "TaskResourceApi"]
