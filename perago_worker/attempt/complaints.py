"""Saying what is wrong with data that people wrote, in one line and without repeating it."""

from __future__ import annotations

from pydantic import ValidationError


def complaints(error: ValueError) -> str:
    """Return what is wrong and where; the values themselves may be secret and stay out."""
    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())
    return "; ".join(
        f"{'.'.join(str(part) for part in found['loc']) or 'the object'}: {found['msg']}"
        for found in error.errors(include_url=False, include_context=False, include_input=False)
    )
