"""Keeps secrets out of text: those the worker knows, and those that look like one."""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import quote

HIDDEN = "[redacted]"

_PATTERNS = (
    # AWS-style access key ids; lakeFS issues ids of the same form
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{12,}\b"), HIDDEN),
    # JSON Web Tokens
    (re.compile(r"\beyJ[\w-]{5,}\.[\w-]{5,}\.[\w-]*"), HIDDEN),
    # Authorization and X-Authorization headers, up to the end of the line or of the quotes
    (
        re.compile(r"(?i)((?:x-)?authorization\\*[\"']?\s*[:=]\s*(?:b?\\*[\"'])?)[^\"'\r\n]+"),
        rf"\1{HIDDEN}",
    ),
    # presigned URLs
    (
        re.compile(r"(?i)(x-amz-(?:signature|credential|security-token)=)[^&\s\"'<>]+"),
        rf"\1{HIDDEN}",
    ),
    # passwords in URLs
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s/:@]*:)[^\s/@]+(?=@)", re.IGNORECASE), rf"\1{HIDDEN}"),
    # what is called a secret
    (
        re.compile(
            r"(?i)\b((?:\w+_)?(?:password|passwd|secret|secret_access_key|key_secret|access_token)"
            r"\\*[\"']?\s*[=:]\s*+\\*+[\"']?+)(?!\[redacted\])[^\s\"',;&}]+"
        ),
        rf"\1{HIDDEN}",
    ),
)

_SUSPICIOUS = r"[=:]|AKIA|ASIA|eyJ"
"""Is in every text that one of the patterns could match. Most of what is logged are ids and plain
words: one search over them in place of one for each pattern is a tenth of the worker's time."""

_PLAIN_TYPES = frozenset({int, float, bool, type(None)})

MAX_KNOWN_NAMES = 1000

_SECRET_NAME = re.compile(
    r"(?i)^((?:x-)?authorization|.*password|.*passwd|.*secret|.*secret_access_key|.*access_token)$"
)


class Redactor:
    """Replaces secrets in text and in nested values by `[redacted]`. Safe from any thread.

    Args:
        secrets: Values to hide wherever they occur, also when quoted for a URL or in base64.
    """

    def __init__(self, secrets: Collection[str] = ()) -> None:
        self._lock = threading.Lock()
        self._forms: set[str] = set()
        self._harmless_names: set[str] = set()
        self._known: re.Pattern[str] | None = None
        self._suspicious = re.compile(_SUSPICIOUS)
        self.add(*secrets)

    def add(self, *secrets: str) -> None:
        """Hide more secrets from now on; those before stay hidden, too."""
        with self._lock:
            forms = {form for secret in secrets if secret for form in _forms(secret)}
            if forms <= self._forms:
                return
            self._forms |= forms
            known = list(map(re.escape, sorted(self._forms, key=len, reverse=True)))
            # In this order: what is suspicious now is looked for among the known ones next.
            self._known = re.compile("|".join(known))
            self._suspicious = re.compile("|".join([*known, _SUSPICIOUS]))
            self._harmless_names = set()  # a name may hold what has become a secret

    def text(self, text: str) -> str:
        """Return `text` without secrets."""
        if not self._suspicious.search(text):
            return text
        if self._known:
            text = self._known.sub(HIDDEN, text)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text

    def fields(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return named values without secrets; what has the name of a secret is hidden whole."""
        if self._is_harmless(fields):
            return dict(fields)
        return {
            self.text(str(name)): HIDDEN if _names_a_secret(name, value) else self.value(value)
            for name, value in fields.items()
        }

    def _is_harmless(self, fields: Mapping[str, Any]) -> bool:
        """Whether nothing can be in there to hide; False where that would take a closer look.

        One search over all texts together, which finds whatever it would find in one of them.
        """
        texts = []
        for name, value in fields.items():
            if type(value) is str:
                texts.append(value)
            elif type(value) not in _PLAIN_TYPES:
                return False
            if name not in self._harmless_names and not self._is_harmless_name(name):
                return False
        return not self._suspicious.search("\n".join(texts))

    def _is_harmless_name(self, name: object) -> bool:
        if type(name) is not str or self._suspicious.search(name) or _names_a_secret(name, ""):
            return False
        if len(self._harmless_names) < MAX_KNOWN_NAMES:
            self._harmless_names.add(name)
        return True

    def value(self, value: Any) -> Any:
        """Return a value made of plain types, without secrets; strange objects become text."""
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, Mapping):
            return self.fields(value)
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self.value(item) for item in value]
        return self.text(str(value))


def _names_a_secret(name: object, value: object) -> bool:
    return isinstance(value, str) and _SECRET_NAME.search(str(name)) is not None


def _forms(secret: str) -> set[str]:
    return {secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode()}
