"""What was measured, summed up: a row for each kind of work, a goal for what is promised of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.stats import Summary

Medians = Mapping[str, float]
"""Contender -> median of one metric."""


@dataclass(frozen=True)
class Sample:
    """One measurement of one contender.

    Attributes:
        row: Key of the row it belongs to.
        values: Name -> what was measured; see the row's metrics.
        steps: Step of an attempt -> seconds, from the worker's own metrics.
        x: Where on a curve it was taken.
    """

    row: str
    contender: str
    values: Mapping[str, float]
    steps: Mapping[str, float] = field(default_factory=dict)
    x: float | None = None


@dataclass(frozen=True)
class Metric:
    """One thing that is measured in a row.

    Attributes:
        key: Name of its value in samples.
        title: Heading, with the unit.
        percent: Which percentile of the samples stands for them.
        more_is_better: As it is of rates.
    """

    key: str
    title: str
    percent: float = 50.0
    more_is_better: bool = False


@dataclass(frozen=True)
class Goal:
    """What a metric of the worker is to keep to.

    Attributes:
        metric: Index of the metric in its row.
        text: The goal in words.
        bound: Makes the bound from the other contenders' medians; KeyError when one is missing.
        at_least: Whether the bound is a lower one.
        contender: Whose value is held against it.
    """

    metric: int
    text: str
    bound: Callable[[Medians], float]
    at_least: bool = False
    contender: str = "worker"

    def met(self, medians: Medians) -> bool | None:
        """Return whether the goal is met; None when something was not measured."""
        try:
            value, bound = medians[self.contender], self.bound(medians)
        except KeyError:
            return None
        return value >= bound if self.at_least else value <= bound


@dataclass(frozen=True)
class Row:
    """One kind of work.

    Attributes:
        key: Its stable name.
        title: What is done.
        x: What a curve is drawn over; empty for a single row.
    """

    key: str
    title: str
    metrics: tuple[Metric, ...]
    goals: tuple[Goal, ...] = ()
    x: str = ""


class Results:
    """All samples of a run."""

    def __init__(self, samples: Iterable[Sample] = ()) -> None:
        self.samples = list(samples)

    def add(self, sample: Sample) -> None:
        """Take up one more."""
        self.samples.append(sample)

    def contenders(self, row: str) -> list[str]:
        """Return who was measured in a row, the first measured first."""
        return list(dict.fromkeys(s.contender for s in self.samples if s.row == row))

    def xs(self, row: str) -> list[float]:
        """Return where a curve was measured."""
        return sorted({s.x for s in self.samples if s.row == row and s.x is not None})

    def places(self, row: str) -> list[float | None]:
        """Return where a curve was measured; for a single row, the one place that is None."""
        return [*self.xs(row)] or [None]

    def summary(
        self, row: str, metric: Metric, contender: str, x: float | None = None
    ) -> Summary | None:
        """Sum up one metric of one contender; None when it was not measured."""
        values = [
            s.values[metric.key]
            for s in self.samples
            if s.row == row and s.contender == contender and s.x == x and metric.key in s.values
        ]
        return Summary.of(values, percent=metric.percent) if values else None

    def medians(self, row: str, metric: Metric) -> dict[str, float]:
        """Return the middle, or the percentile, of one metric for each contender."""
        found = {each: self.summary(row, metric, each) for each in self.contenders(row)}
        return {each: summary.value for each, summary in found.items() if summary}

    def steps(
        self, row: str, contender: str = "worker", x: float | None = None
    ) -> dict[str, float]:
        """Return the median seconds of each step of an attempt, in the order they are made."""
        samples = [
            s for s in self.samples if s.row == row and s.contender == contender and s.x == x
        ]
        names = dict.fromkeys(name for sample in samples for name in sample.steps)
        return {
            name: Summary.of([s.steps[name] for s in samples if name in s.steps]).value
            for name in names
        }

    def to_json(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Return every row with its samples and what they come to."""
        return [self._row_to_json(row) for row in rows if self.contenders(row.key)]

    def _row_to_json(self, row: Row) -> dict[str, Any]:
        samples = [s for s in self.samples if s.row == row.key]
        return {
            "row": row.key,
            "title": row.title,
            "summaries": [
                {
                    "contender": contender,
                    "metric": metric.title,
                    **({} if x is None else {"x": x}),
                    **summary.to_json(),
                }
                for x in self.places(row.key)
                for metric in row.metrics
                for contender in self.contenders(row.key)
                if (summary := self.summary(row.key, metric, contender, x))
            ],
            "goals": [
                {
                    "goal": goal.text,
                    "met": goal.met(self.medians(row.key, row.metrics[goal.metric])),
                }
                for goal in row.goals
            ],
            "samples": [
                {
                    "contender": s.contender,
                    **({} if s.x is None else {"x": s.x}),
                    "values": dict(s.values),
                    **({"steps": dict(s.steps)} if s.steps else {}),
                }
                for s in samples
            ],
        }
