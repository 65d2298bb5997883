"""How far a server's clock is from ours, as its answers show."""

from __future__ import annotations

from email.utils import parsedate_to_datetime


def clock_skew_s(date: str, at: float) -> float | None:
    """Return how many seconds the clock behind a Date header is ahead of ours; None for no date.

    Dates are whole seconds: half of one is added to what was cut off, and what is left of the
    error, with the time that the answer was under way, is within a second.

    Args:
        date: The header as it came.
        at: Our wall clock when it came, in seconds since the epoch.
    """
    try:
        return parsedate_to_datetime(date).timestamp() + 0.5 - at
    except (ValueError, OverflowError):
        return None
