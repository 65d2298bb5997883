"""What all commands share: which configuration they are about, and how they open what is in it.

`perago_worker.bootstrap` brings with it all that a worker is made of, so commands import its parts
where they need them: `--help` stays quick.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perago_worker.adapters.system import SystemClock
from perago_worker.cli.exits import ServiceRefusedError, UsageError
from perago_worker.config import WorkerConfig, load_config, nearest
from perago_worker.errors import ConfigError, ConfigProblem, QueueRefused, StoreRefused
from perago_worker.events import Listener
from perago_worker.ports import TaskQueue
from perago_worker.task import TaskDefinition

if TYPE_CHECKING:
    from perago_worker.adapters.local.queue import LocalQueue

DEFAULT_CONFIG = Path("worker.toml")

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="The configuration.  [default: $PERAGO_CONFIG, else worker.toml]",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class Invocation:
    """What was said before the name of a command.

    Attributes:
        config: The configuration file; None when none was named.
        log_level: Replaces `logging.level`; None when it was not given.
    """

    config: Path | None = None
    log_level: str | None = None

    @property
    def debug(self) -> bool:
        """Whether errors come with their traceback."""
        return self.log_level == "debug"


def config_path(ctx: typer.Context, own: Path | None) -> Path:
    """Return the file to use: named after the command, before it, or the default."""
    invocation: Invocation = ctx.obj
    return own or invocation.config or DEFAULT_CONFIG


def open_config(ctx: typer.Context, own: Path | None) -> WorkerConfig:
    """Load the configuration a command is about.

    Raises:
        ConfigError: It cannot be used.
    """
    return load_config(config_path(ctx, own))


def find_tasks(config: WorkerConfig, names: Sequence[str] = ()) -> list[TaskDefinition]:
    """Load the tasks of a configuration: all, or those of the given names, in their order.

    Raises:
        TaskDefinitionError: A module cannot be loaded, or a task in it breaks the contract.
        UsageError: There is no task of a name.
    """
    from perago_worker.bootstrap.tasks import load_tasks

    with warnings_on_stderr():
        tasks = {task.name: task for task in load_tasks(config)}
    if not names:
        return list(tasks.values())
    for name in names:
        if name not in tasks:
            raise UsageError(_no_such_task(name, sorted(tasks)))
    return [tasks[name] for name in names]


def _no_such_task(name: str, known: list[str]) -> str:
    match = nearest(name, known)
    hint = f"did you mean {match!r}?" if match else f"the tasks are {', '.join(known)}"
    return f"there is no task {name!r}; {hint}"


@contextmanager
def opened_queue(config: WorkerConfig, *, listener: Listener | None = None) -> Iterator[TaskQueue]:
    """Open the configured queue, make sure that it lets us in, and close it afterwards.

    Raises:
        QueueUnavailable: It does not answer.
        ServiceRefusedError: It answers and refuses.
        ConfigError: It is embedded, and its file cannot be used.
    """
    from perago_worker.bootstrap.adapters import open_queue

    with refusals_of(config, "queue"):
        queue = open_queue(
            config, worker_id="perago-worker-cli", clock=SystemClock(), listener=listener
        )
    with closing(queue):
        with refusals_of(config, "queue"):
            queue.ping()
        yield queue


@contextmanager
def opened_local_queue(config: WorkerConfig) -> Iterator[LocalQueue]:
    """Open the embedded queue, and close it afterwards.

    Raises:
        ConfigError: Another queue is configured, or its file cannot be used.
    """
    from perago_worker.bootstrap.adapters import open_local_queue

    with refusals_of(config, "queue"):
        queue = open_local_queue(config)
    with closing(queue):
        yield queue


@contextmanager
def refusals_of(config: WorkerConfig, section: str) -> Iterator[None]:
    """Tell the operator what it means when a queue or store refuses to be used at all.

    Raises:
        ServiceRefusedError: A server refuses.
        ConfigError: The file or folder of an embedded one cannot be used.
    """
    try:
        yield
    except (QueueRefused, StoreRefused) as error:
        if getattr(config, section).kind != "local":
            raise ServiceRefusedError(str(error)) from error
        problem = ConfigProblem(str(config.source), f"{section}.path", str(error))
        raise ConfigError([problem]) from error


@contextmanager
def warnings_on_stderr() -> Iterator[None]:
    """Show warnings of task modules as lines for people."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            yield
        finally:
            for message in dict.fromkeys(str(warning.message) for warning in caught):
                typer.echo(f"warning: {message}", err=True)


def embedded_only(config: WorkerConfig, key: str, *, instead: str) -> None:
    """Refuse a command that needs an embedded queue or store.

    Args:
        config: What is configured.
        key: `queue` or `store`.
        instead: What to use with the kind that is configured.

    Raises:
        ConfigError: The kind is another.
    """
    kind = getattr(config, key).kind
    if kind != "local":
        message = f'is "{kind}", and this command works on "local" only; {instead}'
        raise ConfigError([ConfigProblem(str(config.source), f"{key}.kind", message)])
