"""Text from anywhere, made safe for a terminal and lined up."""

from __future__ import annotations

import re
from collections.abc import Sequence

# C0 and C1 controls, separators and marks that move or reverse text, and halves of surrogate pairs
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_CONTROL_IN_LINES = re.compile(_CONTROL.pattern.replace(r"\x00-\x1f", r"\x00-\x08\x0b-\x1f"))


def visible(text: str, *, keep_lines: bool = False) -> str:
    r"""Return `text` with what would move the cursor or forge a line shown as `\x1b` and the like.

    Args:
        text: Anything.
        keep_lines: Leave line breaks and tabs as they are.
    """
    pattern = _CONTROL_IN_LINES if keep_lines else _CONTROL
    return pattern.sub(lambda match: ascii(match[0])[1:-1], text)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as lines of plain text, their columns two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    return "".join(f"{line}\n" for line in lines)
