"""Imports parts of a package without all that its own `__init__` modules would load and do.

The servers' SDKs are generated: a package names every endpoint and model there is, so that to
import one of them is to import all, which takes most of a second, and as much memory as the rest of
the worker. So the parts are imported below empty stand-ins for the packages, and are then taken out
of `sys.modules`: whoever imports the package afterwards, such as a task, gets it whole.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def without_packages(
    *packages: str, stubs: Mapping[str, ModuleType] | None = None
) -> Iterator[None]:
    """Import within the block as if `packages` were empty.

    When somebody has imported the first of them before, theirs are used and nothing is replaced.

    Args:
        packages: Outermost first.
        stubs: Modules to find in place of others.

    Raises:
        ImportError: The distribution is not installed.
    """
    if packages[0] in sys.modules:
        yield
        return
    top = packages[0].partition(".")[0]
    before = set(sys.modules)
    for name in packages:
        _insert(name, _stand_in(name))
    for name, stub in (stubs or {}).items():
        sys.modules[name] = stub
    try:
        yield
    finally:
        for name in set(sys.modules) - before:
            if name.partition(".")[0] == top:
                del sys.modules[name]


def _stand_in(name: str) -> ModuleType:
    top, _, rest = name.partition(".")
    root = sys.modules.get(top)
    folders = root.__path__ if root is not None else _find(top)
    package = ModuleType(name)
    below = f"/{rest.replace('.', '/')}" if rest else ""
    package.__path__ = [f"{folder}{below}" for folder in folders]
    return package


def _find(top: str) -> list[str]:
    spec = importlib.util.find_spec(top)
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError(f"{top} is not installed")
    return list(spec.submodule_search_locations)


def _insert(name: str, module: ModuleType) -> None:
    """Make a module known, and an attribute of its parent, as an import of it would."""
    sys.modules[name] = module
    parent, _, last = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], last, module)
