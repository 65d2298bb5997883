"""What an examination found: a line for each thing, with why it matters and what to do about it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from perago_worker.cli.check import Report
from perago_worker.cli.exits import Exit
from perago_worker.config import Redactor
from perago_worker.telemetry.text import visible

T = TypeVar("T")


class Level(StrEnum):
    """How bad it is: as it should be, better changed, or in the way of work."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Line:
    """One thing that was looked at.

    Attributes:
        what: What it is, in one or two words.
        found: How it is.
        why: Why that matters; empty when all is well.
        todo: What to do next; likewise.
    """

    level: Level
    what: str
    found: str
    why: str = ""
    todo: str = ""

    def __str__(self) -> str:
        lines = [f"{self.level:<4}  {self.what}: {visible(self.found)}"]
        lines += [
            f"      {word} {visible(text)}"
            for word, text in (("why:", self.why), ("next:", self.todo))
            if text
        ]
        return "\n".join(lines)


@dataclass
class Diagnosis:
    """All that was found, in the order it was looked at."""

    lines: list[Line] = field(default_factory=list)
    codes: set[Exit] = field(default_factory=set)

    def ok(self, what: str, found: str) -> None:
        """Note that something is as it should be."""
        self.lines.append(Line(Level.OK, what, found))

    def warn(self, what: str, found: str, *, why: str, todo: str) -> None:
        """Note something that works but is better changed."""
        self.lines.append(Line(Level.WARN, what, found, why, todo))

    def fail(
        self, what: str, found: str, *, why: str, todo: str, code: Exit = Exit.UNEXPECTED
    ) -> None:
        """Note something that is in the way of work; `code` is the exit code it stands for."""
        self.lines.append(Line(Level.FAIL, what, found, why, todo))
        self.codes.add(code)

    def check(
        self, what: str, look: Callable[[], tuple[T, str]], *, why: str, todo: str
    ) -> T | None:
        """Look at something as `perago-worker check` does; None when it cannot be used."""
        report = Report()
        result = report.run(what, look)
        if what in report.passed:
            self.ok(what, report.passed[what])
        for finding in report.findings:
            level = Level.FAIL if finding.level == "error" else Level.WARN
            place = [part for part in (finding.where, finding.key) if part and part != what]
            self.lines.append(Line(level, what, ": ".join([*place, finding.message]), why, todo))
        self.codes |= report.codes
        return result

    @property
    def code(self) -> Exit:
        """The exit code of the most basic thing that is in the way of work."""
        return Report(codes=set(self.codes)).code

    def without_secrets(self, secrets: Collection[str]) -> None:
        """Hide secrets, which servers may repeat in what they answer."""
        redact = Redactor(secrets).text
        self.lines = [
            Line(line.level, *map(redact, (line.what, line.found, line.why, line.todo)))
            for line in self.lines
        ]

    def as_json(self, config: str) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "ok": self.code is Exit.DONE,
            "exit_code": int(self.code),
            "config": config,
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "lines": [asdict(line) for line in self.lines],
        }

    def summary(self) -> str:
        """Return how many things are how bad."""
        counts = {level: sum(line.level is level for line in self.lines) for level in Level}
        return ", ".join(f"{count} {level}" for level, count in counts.items())
