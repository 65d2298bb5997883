"""What the adapter uses of lakefs-sdk, imported without the rest of it.

The whole package takes a second to load, most of it for the models of calls that are never made.
"""

from __future__ import annotations

import sys
from types import ModuleType

from pydantic.v1 import class_validators

from perago_worker.adapters.partial_import import without_packages

_MODELS = "lakefs_sdk.models"


def _offer_models(package: ModuleType) -> None:
    """Put the models that were loaded where the SDK's client looks for those of its answers."""
    for name, module in list(sys.modules.items()):
        if name.startswith(f"{_MODELS}."):
            found = (item for item in vars(module).values() if isinstance(item, type))
            vars(package).update({item.__name__: item for item in found if item.__module__ == name})


def _forget_validators() -> None:
    """Let the models be defined a second time, by whoever imports the package afterwards.

    pydantic 1 refuses a validator whose full name it has seen. Its last version is part of
    pydantic 2 and changes no more, this set of names included.
    """
    seen = class_validators._FUNCS
    seen -= {name for name in seen if name.startswith("lakefs_sdk.")}


with without_packages("lakefs_sdk", "lakefs_sdk.api", _MODELS):
    from lakefs_sdk.api.branches_api import BranchesApi
    from lakefs_sdk.api.commits_api import CommitsApi
    from lakefs_sdk.api.objects_api import ObjectsApi
    from lakefs_sdk.api.refs_api import RefsApi
    from lakefs_sdk.api_client import ApiClient
    from lakefs_sdk.configuration import Configuration
    from lakefs_sdk.exceptions import ApiException
    from lakefs_sdk.models.branch_creation import BranchCreation
    from lakefs_sdk.models.commit import Commit
    from lakefs_sdk.models.commit_creation import CommitCreation
    from lakefs_sdk.models.merge import Merge
    from lakefs_sdk.models.object_error import ObjectError
    from lakefs_sdk.models.path_list import PathList

    if "lakefs_sdk.api.auth_api" not in sys.modules:  # the package was not loaded before
        _offer_models(sys.modules[_MODELS])
        _forget_validators()

__all__ = [
    "ApiClient",
    "ApiException",
    "BranchCreation",
    "BranchesApi",
    "Commit",
    "CommitCreation",
    "CommitsApi",
    "Configuration",
    "Merge",
    "ObjectError",
    "ObjectsApi",
    "PathList",
    "RefsApi",
]
