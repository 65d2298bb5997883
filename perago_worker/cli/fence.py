"""`perago-worker fence`: let lakeFS refuse a publication whose branch has moved."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from perago_worker.adapters.lakefs.fence import ACTION, ACTION_PATH
from perago_worker.adapters.lakefs.fence_install import Found, look
from perago_worker.adapters.lakefs.fence_install import install as merge_fence
from perago_worker.adapters.lakefs.fence_level import self_test
from perago_worker.cli.exits import Exit, UsageError
from perago_worker.cli.options import ConfigOption, open_config, refusals_of
from perago_worker.config import WorkerConfig
from perago_worker.errors import HeadMoved, NotFound
from perago_worker.models import CommitInfo
from perago_worker.telemetry.text import visible

if TYPE_CHECKING:
    from perago_worker.adapters.lakefs.store import LakeFSStore

fence_app = typer.Typer(
    help="Let lakeFS refuse a publication whose branch has moved.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

DEFAULT_BRANCH = "main"
NOT_NEEDED = "the local store compares and swaps by itself; it needs no fence"

Repository = Annotated[
    str, typer.Argument(metavar="REPOSITORY", help="A lakeFS repository.", show_default=False)
]
Branches = Annotated[
    list[str] | None,
    typer.Argument(metavar="BRANCH", help="Branches; main unless given.", show_default=False),
]


@dataclass(frozen=True)
class Place:
    """One branch, its head, and what that holds at the place of the action."""

    repository: str
    branch: str
    head: CommitInfo
    found: Found

    def __str__(self) -> str:
        return f"{self.repository}@{self.branch}"


@fence_app.command()
def install(
    ctx: typer.Context,
    repository: Repository,
    branches: Branches = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigOption = None,
) -> None:
    """Put the fence on branches, after showing what that changes, and test it.

    It is committed on a hidden branch and merged. Uncommitted changes of others are not touched,
    but lakeFS merges into no branch that has any. Attempts are fenced whose input commit holds the
    fence: those that start from the merge or later.
    """
    loaded = open_config(ctx, config)
    with _opened_lakefs(loaded) as store:
        if store is None:
            return
        places = look_at(store, repository, branches)
        open_places = [place for place in places if place.found.state != "installed"]
        for place in places:
            _show_plan(place)
        if not open_places:
            return
        if not yes:
            _confirm(open_places)
        for place in open_places:
            merge = carry_out(store, place, timeout_s=loaded.publish.merge_timeout)
        _test(store, repository, merge, timeout_s=loaded.publish.merge_timeout)


@fence_app.command()
def status(
    ctx: typer.Context,
    repository: Repository,
    branches: Branches = None,
    config: ConfigOption = None,
) -> None:
    """Tell which branches have the fence; exit code 1 unless all have."""
    with _opened_lakefs(open_config(ctx, config)) as store:
        if store is None:
            return
        places = look_at(store, repository, branches)
    for place in places:
        typer.echo(_status(place))
    if any(place.found.state != "installed" for place in places):
        raise typer.Exit(Exit.UNEXPECTED)


@fence_app.command()
def selftest(
    ctx: typer.Context,
    repository: Repository,
    branch: Annotated[
        str, typer.Argument(metavar="BRANCH", help="A branch that has the fence.")
    ] = DEFAULT_BRANCH,
    config: ConfigOption = None,
) -> None:
    """Try a merge that the fence has to refuse; exit code 1 when it does not.

    The merge is tried on a hidden branch that is removed again.
    """
    loaded = open_config(ctx, config)
    with _opened_lakefs(loaded) as store:
        if store is None:
            return
        (place,) = look_at(store, repository, [branch])
        if place.found.state != "installed":
            typer.echo(_status(place), err=True)
            raise typer.Exit(Exit.UNEXPECTED)
        _test(store, repository, place.head, timeout_s=loaded.publish.merge_timeout)


@contextmanager
def _opened_lakefs(config: WorkerConfig) -> Iterator[LakeFSStore | None]:
    """Open the configured store and make sure that it lets us in; say so when it is no lakeFS."""
    from perago_worker.adapters.lakefs.store import LakeFSStore
    from perago_worker.bootstrap.adapters import open_store

    if config.store.kind == "local":
        typer.echo(NOT_NEEDED)
        yield None
        return
    store = open_store(config)
    assert isinstance(store, LakeFSStore)  # noqa: S101 -- there are two kinds
    with closing(store):
        with refusals_of(config, "store"):
            store.ping()
        yield store


def look_at(store: LakeFSStore, repository: str, branches: list[str] | None) -> list[Place]:
    """Return what branches hold, each once; main unless any are given.

    Raises:
        UsageError: The repository or a branch does not exist.
    """
    return [
        _look(store, repository, branch) for branch in dict.fromkeys(branches or [DEFAULT_BRANCH])
    ]


def _look(store: LakeFSStore, repository: str, branch: str) -> Place:
    try:
        head = store.head(repository, branch)
    except NotFound as error:
        raise UsageError(str(error)) from None
    return Place(repository, branch, head, look(store, repository, head.id))


def _show_plan(place: Place) -> None:
    match place.found.state:
        case "installed":
            typer.echo(f"{place}: has the fence already; nothing to do")
        case "absent":
            typer.echo(f"{place}: will get {ACTION_PATH}, by a merge of that file alone")
        case "other":
            typer.echo(f"{place}: has another {ACTION_PATH}, which will be replaced:")
            typer.echo(difference(place.found))


def difference(found: Found) -> str:
    """Return what replacing a file changes, for people."""
    if not found.content:
        return f"  a file of {found.size} bytes, not shown"
    lines = difflib.unified_diff(
        found.content.splitlines(), ACTION.splitlines(), "there now", "the fence", lineterm=""
    )
    # A line break more at the end of a file is a difference that no line shows.
    text = "\n".join(f"  {visible(line)}" for line in lines)
    return text or "  the same lines, with other line breaks"


def _confirm(places: list[Place]) -> None:
    if not sys.stdin.isatty():
        raise UsageError("there is nobody to ask here; give --yes to install without asking")
    if not typer.confirm(f"Merge the fence into {', '.join(map(str, places))}?"):
        typer.echo("Nothing was changed.", err=True)
        raise typer.Exit(Exit.UNEXPECTED)


def carry_out(store: LakeFSStore, place: Place, *, timeout_s: float) -> CommitInfo:
    """Install on a branch as it was looked at; return the commit that has the fence.

    Raises:
        typer.Exit: Somebody changed the same file meanwhile.
    """
    try:
        merge = merge_fence(
            store,
            store.api,
            place.repository,
            place.branch,
            head=place.head,
            timeout_s=timeout_s,
        )
    except HeadMoved:
        typer.echo(
            f"{place}: somebody changed {ACTION_PATH} meanwhile; look again with "
            f"perago-worker fence install {place.repository} {place.branch}",
            err=True,
        )
        raise typer.Exit(Exit.UNEXPECTED) from None
    typer.echo(f"{place}: has the fence from commit {merge.id}")
    return merge


def _status(place: Place) -> str:
    match place.found.state:
        case "installed":
            return f"{place}: has the fence, at commit {place.head.id}"
        case "absent":
            return (
                f"{place}: has no fence; install it with: perago-worker fence install "
                f"{place.repository} {place.branch}"
            )
        case "other":
            return (
                f"{place}: has another {ACTION_PATH}, an older version or somebody's own; see the "
                f"difference with: perago-worker fence install {place.repository} {place.branch}"
            )


def _test(store: LakeFSStore, repository: str, commit: CommitInfo, *, timeout_s: float) -> None:
    found = self_test(store, repository, commit, timeout_s)
    typer.echo(f"self-test: {'passed' if found.passed else 'failed'}: {found.detail}")
    if not found.passed:
        raise typer.Exit(Exit.UNEXPECTED)
