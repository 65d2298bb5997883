"""What differs between a task definition as declared and as registered."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_ABSENT = object()

EXACT = frozenset({"data"})
"""Below these keys (JSON schemas) everything counts. Elsewhere only what is declared does: the
queue keeps what a definition does not name, and servers add fields of their own."""


@dataclass(frozen=True)
class Change:
    """One value that registering would change."""

    key: str
    registered: Any
    declared: Any

    def __str__(self) -> str:
        return f"{self.key}: {_shown(self.registered)} -> {_shown(self.declared)}"


def changes(registered: Mapping[str, Any] | None, declared: Mapping[str, Any]) -> list[Change]:
    """Return what registering `declared` would change, in the order of the declaration."""
    return list(_compare("", registered or {}, declared, exact=False))


def _compare(key: str, registered: Any, declared: Any, *, exact: bool) -> Iterator[Change]:
    if isinstance(registered, Mapping) and isinstance(declared, Mapping):
        names = {**declared, **registered} if exact else declared
        for name in names:
            yield from _compare(
                f"{key}.{name}" if key else name,
                registered.get(name, _ABSENT),
                declared.get(name, _ABSENT),
                exact=exact or name in EXACT,
            )
    elif not _equal(registered, declared):
        yield Change(key, registered, declared)


def _equal(registered: Any, declared: Any) -> bool:
    if isinstance(registered, bool) or isinstance(declared, bool):
        return registered is declared
    return bool(registered == declared)


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "(none)"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:99]}…"
