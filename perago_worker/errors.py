"""Every error this package raises on purpose, in one tree, ordered by who can act on it.

    PeragoError
    ├── ConfigError                  the operator: the configuration cannot be used
    ├── TaskDefinitionError          the author: a task breaks the contract (also a ValueError)
    ├── TaskExecutionError           raised by a task body, to say how its attempt ends
    │   ├── TaskFailed               a retry may succeed
    │   └── TaskTerminalError        a retry cannot succeed
    ├── GuardrailViolation           a guard found the workspace wrong
    │   ├── PreGuardrailViolation
    │   └── PostGuardrailViolation
    ├── AttemptError                 one attempt ends; says how, and whether a retry can help
    │   ├── TerminalAttemptError     a retry cannot help
    │   ├── RetryableAttemptError    a retry may help
    │   ├── AttemptAbandoned         the attempt no longer owns its task: report nothing
    │   └── AttemptReleased          the worker stops: give the task back, unharmed
    └── AdapterError                 a server said no, or said nothing
        ├── QueueError
        │   ├── QueueUnavailable     nothing was learnt: try again
        │   └── QueueRefused         the server understood and refuses: do not repeat
        └── StoreError
            ├── StoreUnavailable     nothing was learnt: try again
            ├── StoreRefused         the store understood and refuses: do not repeat
            ├── NotFound             repository, branch, commit or object does not exist
            ├── NothingToCommit      the stage holds what its base holds
            ├── HeadMoved            the branch is not where the publication expects it
            └── PublishUnknown       a merge was sent and its effect is not known

Whether something may be retried is a fact of the class, never of the message. The message is for
people: what happened, to what, and what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class PeragoError(Exception):
    """Root of the tree; catch it to catch everything this package raises on purpose."""


# --- the operator ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConfigProblem:
    """One thing wrong with a configuration.

    Attributes:
        where: `file:line`, the name of an environment variable, or the file alone.
        key: Dotted path of the key, such as `queue.url`; empty for the file as a whole.
        message: What is wrong and what to write instead.
    """

    where: str
    key: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.key, self.message) if part)


class ConfigError(PeragoError):
    """The configuration cannot be used; `problems` holds every reason, not only the first."""

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


# --- the author -----------------------------------------------------------------------------------


class TaskDefinitionError(PeragoError, ValueError):
    """A task, or a model it is declared with, breaks the contract for task authors.

    It is a `ValueError` as well, so that one raised in a pydantic validator is reported as a
    validation error of the field it is about.
    """


class TaskExecutionError(PeragoError, RuntimeError):
    """What a body raises to say how its attempt ends.

    Args:
        reason: One line for the person who reads the workflow. Reported as the task's reason.

    Raises:
        TypeError: `reason` is not a string.
    """

    def __init__(self, reason: str) -> None:
        if not isinstance(reason, str):
            raise TypeError(f"reason must be a string, not {type(reason).__name__}")
        self.reason = reason
        super().__init__(reason)


class TaskFailed(TaskExecutionError):
    """End the attempt as FAILED: the same input may succeed later, so the task may be retried."""


class TaskTerminalError(TaskExecutionError):
    """End the attempt as FAILED_WITH_TERMINAL_ERROR: no retry of the same input can succeed."""


class GuardrailViolation(PeragoError, RuntimeError):
    """A guard found the workspace not as declared."""


class PreGuardrailViolation(GuardrailViolation):
    """The downloaded workspace is not what the task needs; a retry would find the same."""


class PostGuardrailViolation(GuardrailViolation):
    """The body left the workspace not as declared; a retry may do better."""


# --- the attempt ----------------------------------------------------------------------------------


class AttemptError(PeragoError):
    """One attempt ends here.

    Attributes:
        code: Stable word that the reported reason begins with and metrics count by.
        reason: One line for people; never holds a secret or a local path.
        logged: Longer text for the logs, such as a traceback; never reported as the reason.
    """

    def __init__(self, code: str, reason: str, *, logged: str = "") -> None:
        self.code = code
        self.reason = reason
        self.logged = logged
        super().__init__(f"{code}: {reason}")


class TerminalAttemptError(AttemptError):
    """The attempt fails and a retry of the same input cannot succeed."""


class RetryableAttemptError(AttemptError):
    """The attempt fails and a retry may succeed."""


class AttemptAbandoned(AttemptError):
    """The attempt no longer owns its task: it stages, publishes and reports nothing more."""


class AttemptReleased(AttemptError):
    """The worker stops before the attempt could finish: the task goes back to the queue."""


# --- the adapters ---------------------------------------------------------------------------------


class AdapterError(PeragoError):
    """A queue or store did not do what it was asked; the cause is chained."""


class QueueError(AdapterError):
    """The task queue did not do what it was asked."""


class QueueUnavailable(QueueError):
    """Nothing was learnt: no answer, or one that says to come back. It may have had effect."""


class QueueRefused(QueueError):
    """The queue understood and refuses; the same call will be refused again."""


class StoreError(AdapterError):
    """The workspace store did not do what it was asked."""


class StoreUnavailable(StoreError):
    """Nothing was learnt: no answer, or one that says to come back. It may have had effect."""


class StoreRefused(StoreError):
    """The store understood and refuses; the same call will be refused again."""


class NotFound(StoreError):
    """A repository, branch, commit or object does not exist.

    Attributes:
        what: `repository`, `branch`, `commit` or `object`.
        name: What was asked for.
    """

    def __init__(self, what: str, name: str) -> None:
        self.what = what
        self.name = name
        super().__init__(f"{what} {name!r} does not exist")


class NothingToCommit(StoreError):
    """A stage holds exactly what its base commit holds."""


class HeadMoved(StoreError):
    """A branch is not at the commit a publication expects; nothing was published.

    Attributes:
        expected: The commit the publication was made for.
        found: The commit the branch is at, where the store tells.
    """

    def __init__(self, branch: str, expected: str, found: str | None) -> None:
        self.branch = branch
        self.expected = expected
        self.found = found
        super().__init__(f"branch {branch!r} is at {found or 'another commit'}, not at {expected}")


class PublishUnknown(StoreError):
    """A merge was sent and its answer was lost: it may or may not have taken effect."""
