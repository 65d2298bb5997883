"""The arithmetic of results: middles, spreads and ratios."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """Several measurements of one thing.

    Attributes:
        value: What stands for them: their median, or another percentile.
        low: The smallest.
        high: The largest.
        count: How many there are.
    """

    value: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float], *, percent: float = 50.0) -> Summary:
        """Sum up at least one measurement."""
        middle = statistics.median(values) if percent == 50 else percentile(values, percent)
        return cls(middle, min(values), max(values), len(values))

    def to_json(self) -> dict[str, float]:
        """Return it rounded to what can be meant."""
        return {
            "value": round(self.value, 4),
            "low": round(self.low, 4),
            "high": round(self.high, 4),
            "count": self.count,
        }


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest of the values that `percent` of them do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = math.ceil(percent / 100 * len(ordered))
    return ordered[max(0, rank - 1)]


def ratio(value: float, base: float | None) -> float | None:
    """Return how many times `base` a value is; None when there is nothing to divide by."""
    return value / base if base else None


def rate_after_warm_up(ended_at: Sequence[float], *, dropped: int) -> float:
    """Return how many per second ended, from the last one dropped to the very last.

    Args:
        ended_at: When each ended, in seconds, in any order.
        dropped: How many of the first do not count, at least one.

    Raises:
        ValueError: Nothing is dropped, or nothing is left.
    """
    ordered = sorted(ended_at)
    counted = len(ordered) - dropped
    if dropped < 1 or counted < 1:
        raise ValueError(f"{dropped} dropped of {len(ordered)} leave no rate")
    span = ordered[-1] - ordered[dropped - 1]
    return counted / span if span > 0 else math.inf
