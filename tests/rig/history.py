"""What happened in a case, written down so that it survives the death of whoever wrote it.

One line for each entry, each written at once to a file that is only appended to: processes may
share a journal, and a killed one leaves no half line.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from perago_worker.events import AttemptFinished, AttemptStarted, ChildStarted, Event, StepFinished
from perago_worker.models import Lease, Publication


@dataclass(frozen=True)
class Made:
    """A body came to its end, and this is what it made of its workspace.

    Attributes:
        run: Drawn anew by every run of a body; part of the result and of every file it writes.
        written: Object key -> checksum.
        deleted: Object keys.
    """

    task_id: str
    run: str
    written: dict[str, str] = field(default_factory=dict)
    deleted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sent:
    """A merge was asked for."""

    uuid: str
    lineage: str
    token: str
    task_id: str
    expected_head: str


@dataclass(frozen=True)
class Answered:
    """A merge was answered with a commit."""

    uuid: str
    commit: str


@dataclass(frozen=True)
class Foreign:
    """Somebody else's commit reached the branch."""

    commit: str


@dataclass(frozen=True)
class Started:
    """An attempt began."""

    task_id: str
    lineage: str
    token: str


@dataclass(frozen=True)
class Finished:
    """An attempt came to its end.

    Attributes:
        reported: Whether the queue answered its report.
    """

    task_id: str
    lineage: str
    token: str
    kind: str
    code: str
    reason: str = ""
    output_ref: str | None = None
    reported: bool = True


@dataclass(frozen=True)
class Called:
    """A port was called."""

    name: str
    nth: int
    thread: str


@dataclass(frozen=True)
class Passed:
    """An attempt has done a step."""

    lineage: str
    step: str


@dataclass(frozen=True)
class Child:
    """A body's process was started."""

    pid: int


@dataclass(frozen=True)
class Killed:
    """A process is about to be killed on purpose."""

    where: str
    pid: int


@dataclass(frozen=True)
class Paused:
    """A process is about to be stopped on purpose, to be continued later."""

    where: str
    pid: int


Entry = (
    Made
    | Sent
    | Answered
    | Foreign
    | Started
    | Finished
    | Called
    | Passed
    | Child
    | Killed
    | Paused
)
_KINDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        *(Made, Sent, Answered, Foreign, Started, Finished),
        *(Called, Passed, Child, Killed, Paused),
    )
}


class Journal:
    """An append-only file of entries. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, entry: Entry) -> None:
        """Append an entry."""
        line = json.dumps({"entry": type(entry).__name__, **asdict(entry)}).encode() + b"\n"
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, line)
        finally:
            os.close(fd)

    def read(self) -> tuple[Entry, ...]:
        """Return all entries, oldest first."""
        if not self.path.exists():
            return ()
        # What follows the last line break is a line that is being written at this moment.
        whole, _, _ = self.path.read_text().rpartition("\n")
        return tuple(_parse(line) for line in whole.splitlines())


def _parse(line: str) -> Entry:
    fields = json.loads(line)
    kind = _KINDS[fields.pop("entry")]
    if kind is Made:
        fields["deleted"] = tuple(fields["deleted"])
    entry: Entry = kind(**fields)
    return entry


class Historian:
    """A listener that keeps the journal of attempts."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def on_event(self, event: Event) -> None:
        """Note when attempts begin and end, and which processes run bodies."""
        match event:
            case AttemptStarted(lease=lease):
                self._journal.note(Started(**_identity(lease)))
            case AttemptFinished(lease=lease, outcome=outcome, reported=reported):
                self._journal.note(
                    Finished(
                        **_identity(lease),
                        kind=outcome.kind,
                        code=outcome.code,
                        reason=outcome.reason,
                        output_ref=outcome.output_ref,
                        reported=reported,
                    )
                )
            case StepFinished(lease=lease, step=step, error=""):
                self._journal.note(Passed(str(lease.lineage), step))
            case ChildStarted(pid=pid):
                self._journal.note(Child(pid))
            case _:
                pass


def _identity(lease: Lease) -> dict[str, str]:
    return {
        "task_id": lease.task_id,
        "lineage": str(lease.lineage),
        "token": str(lease.token),
    }


def sent(publication: Publication, expected_head: str) -> Sent:
    """Return the entry for a merge that is about to be asked for."""
    return Sent(
        uuid=publication.uuid,
        lineage=publication.lineage,
        token=str(publication.token),
        task_id=publication.task_id,
        expected_head=expected_head,
    )
