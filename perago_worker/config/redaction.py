"""Keeps secrets out of text: those the worker knows, and those that look like one."""

from __future__ import annotations

import base64
import re
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

_SUSPICIOUS = re.compile(r"[=:]|AKIA|ASIA|eyJ")
"""Is in every text that one of the patterns could match. Most of what is logged are ids and plain
words: one search over them in place of one for each pattern is a tenth of the worker's time."""

_SECRET_NAME = re.compile(
    r"(?i)^((?:x-)?authorization|.*password|.*passwd|.*secret|.*secret_access_key|.*access_token)$"
)


class Redactor:
    """Replaces secrets in text and in nested values by `[redacted]`. Safe from any thread.

    Args:
        secrets: Values to hide wherever they occur, also when quoted for a URL or in base64.
    """

    def __init__(self, secrets: Collection[str] = ()) -> None:
        forms = {form for secret in secrets if secret for form in _forms(secret)}
        ordered = sorted(forms, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def text(self, text: str) -> str:
        """Return `text` without secrets."""
        if self._known:
            text = self._known.sub(HIDDEN, text)
        if not _SUSPICIOUS.search(text):
            return text
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text

    def fields(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return named values without secrets; what has the name of a secret is hidden whole."""
        return {
            self.text(str(name)): HIDDEN if _names_a_secret(name, value) else self.value(value)
            for name, value in fields.items()
        }

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
