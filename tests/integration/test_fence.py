"""The fence on a real lakeFS: how it gets there, and what is known of it before it is relied on."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import typer
from structlog.testing import capture_logs
from typer.testing import CliRunner

from deploy.servers.servers import LakeFSAccess, LakeFSServer
from perago_worker.adapters.lakefs import LakeFSStore
from perago_worker.adapters.lakefs.fence import ACTION, ACTION_PATH
from perago_worker.adapters.lakefs.fence_level import FenceLevels, self_test
from perago_worker.cli import app
from perago_worker.cli.exits import Exit
from perago_worker.cli.fence import carry_out, look_at
from perago_worker.errors import NotFound, StoreUnavailable
from tests.contract.lakefs_harness import LakeFSHarness, open_harness, settings_for

pytestmark = pytest.mark.servers

CONFIG = """\
[worker]
modules = ["tasks"]
[queue]
kind = "local"
[store]
kind = "lakefs"
endpoint = "{endpoint}"
access_key_id_file = "id"
secret_access_key_file = "key"
"""

OTHER = """\
name: prices
on:
  pre-merge:
    branches: []
hooks:
  - id: column
    type: lua
    properties:
      script: error("no column named price")
"""

OLDER = ACTION.replace("description: ", "description: Older. ")

PASSED = "self-test: passed: a merge on a head that has moved is refused"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def harness(lakefs: LakeFSAccess) -> Iterator[LakeFSHarness]:
    with open_harness(lakefs) as harness:
        yield harness


@pytest.fixture
def store(lakefs: LakeFSAccess) -> Iterator[LakeFSStore]:
    """A store that remembers nothing of other tests."""
    with closing(LakeFSStore.open(settings_for(lakefs))) as store:
        yield store


@pytest.fixture
def repository(harness: LakeFSHarness) -> str:
    return harness.repository()


@pytest.fixture
def folder(lakefs: LakeFSAccess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a configuration for the shared lakeFS."""
    write_config(tmp_path, lakefs)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fence(folder: Path) -> Run:
    """Run `perago-worker fence`; return its exit code and what it printed."""
    return run_fence


# --- installing -----------------------------------------------------------------------------------


def test_installs_by_a_merge_and_tests_what_it_installed(
    harness: LakeFSHarness, repository: str, fence: Run
) -> None:
    """The new repository is empty."""
    before = harness.store.head(repository, "main")
    code, out, err = fence("install", repository, "--yes")
    head = harness.store.head(repository, "main")
    assert (code, err) == (Exit.DONE, "")
    assert out.splitlines() == [
        f"{repository}@main: will get {ACTION_PATH}, by a merge of that file alone",
        f"{repository}@main: has the fence from commit {head.id}",
        PASSED,
    ]
    assert head.parents[0] == before.id
    assert objects(harness, repository) == {ACTION_PATH: ACTION.encode()}
    assert branches(harness, repository) == ["main"]
    assert harness.store.fence_level(repository, head.id) == "hook"


def test_installing_again_does_nothing(harness: LakeFSHarness, repository: str, fence: Run) -> None:
    fence("install", repository, "--yes")
    before = harness.store.head(repository, "main")
    told = f"{repository}@main: has the fence already; nothing to do\n"
    for arguments in (("--yes",), ()):
        assert fence("install", repository, *arguments) == (Exit.DONE, told, "")
    assert harness.store.head(repository, "main") == before


def test_installs_beside_files_on_the_branches_that_are_named(
    harness: LakeFSHarness, repository: str, fence: Run
) -> None:
    harness.foreign_commit(repository, "main", write={"ws/a": b"1"}, message="A")
    before = harness.store.head(repository, "main")
    for name in ("dev", "old"):
        harness.add_branch(repository, name, before.id)
    code, out, _ = fence("install", repository, "dev", "main", "dev", "--yes")
    assert code == Exit.DONE
    assert out.count("has the fence from commit") == 2
    for branch in ("dev", "main"):
        assert objects(harness, repository, branch) == {
            "ws/a": b"1",
            ACTION_PATH: ACTION.encode(),
        }
    assert harness.store.head(repository, "old") == before


def test_uncommitted_changes_stand_in_the_way_and_stay_as_they_are(
    harness: LakeFSHarness, repository: str, fence: Run
) -> None:
    before = harness.store.head(repository, "main")
    harness.upload(repository, "main", "theirs", b"half-done")
    code, _, err = fence("install", repository, "--yes")
    assert code == Exit.UNEXPECTED
    assert "branch 'main' of" in err
    assert "has uncommitted changes" in err
    assert f"lakectl commit lakefs://{repository}/main" in err
    assert f"lakectl branch reset lakefs://{repository}/main" in err
    path = ("repositories", repository, "branches", "main", "diff")
    assert [each["path"] for each in harness.call("GET", *path)["results"]] == ["theirs"]
    assert harness.store.head(repository, "main") == before
    assert branches(harness, repository) == ["main"]
    harness.commit(repository, "main", message="Done")
    assert fence("install", repository, "--yes")[0] == Exit.DONE
    assert objects(harness, repository)["theirs"] == b"half-done"


def test_protected_branches_can_be_fenced(
    harness: LakeFSHarness, repository: str, fence: Run
) -> None:
    path = ("repositories", repository, "settings", "branch_protection")
    harness.call("PUT", *path, send=[{"pattern": "main"}])
    assert fence("install", repository, "--yes")[0] == Exit.DONE
    assert objects(harness, repository) == {ACTION_PATH: ACTION.encode()}


def test_another_file_is_shown_and_replaced(
    harness: LakeFSHarness, repository: str, fence: Run
) -> None:
    commit(harness, repository, {ACTION_PATH: OLDER})
    code, out, _ = fence("install", repository, "--yes")
    assert code == Exit.DONE
    assert f"{repository}@main: has another {ACTION_PATH}, which will be replaced:" in out
    assert "  -description: Older. Refuse" in out
    assert "  +description: Refuse" in out
    assert objects(harness, repository) == {ACTION_PATH: ACTION.encode()}


def test_somebody_else_who_installs_it_meanwhile_is_welcome(
    harness: LakeFSHarness, store: LakeFSStore, repository: str
) -> None:
    (stale,) = look_at(store, repository, ["main"])
    theirs = commit(harness, repository, {ACTION_PATH: ACTION})
    assert carry_out(store, stale, timeout_s=30).parents[0] == theirs
    assert objects(harness, repository) == {ACTION_PATH: ACTION.encode()}


def test_somebody_else_who_changes_the_file_meanwhile_is_not_overruled(
    harness: LakeFSHarness,
    store: LakeFSStore,
    repository: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (stale,) = look_at(store, repository, ["main"])
    commit(harness, repository, {ACTION_PATH: OLDER})
    with pytest.raises(typer.Exit) as ended:
        carry_out(store, stale, timeout_s=30)
    assert ended.value.exit_code == Exit.UNEXPECTED
    assert f"somebody changed {ACTION_PATH} meanwhile" in capsys.readouterr().err
    assert objects(harness, repository) == {ACTION_PATH: OLDER.encode()}
    assert branches(harness, repository) == ["main"]


def test_other_changes_meanwhile_are_kept(
    harness: LakeFSHarness, store: LakeFSStore, repository: str
) -> None:
    (stale,) = look_at(store, repository, ["main"])
    theirs = commit(harness, repository, {"ws/a": "1"})
    assert carry_out(store, stale, timeout_s=30).parents[0] == theirs
    assert objects(harness, repository) == {ACTION_PATH: ACTION.encode(), "ws/a": b"1"}


def test_without_a_terminal_nothing_is_done_unless_told_so(
    harness: LakeFSHarness, repository: str, fence: Run
) -> None:
    before = harness.store.head(repository, "main")
    code, _, err = fence("install", repository)
    assert (code, err) == (
        Exit.CONFIG,
        "there is nobody to ask here; give --yes to install without asking\n",
    )
    assert harness.store.head(repository, "main") == before


@pytest.mark.parametrize(("answer", "code", "there"), [(b"n\n", 1, False), (b"y\n", 0, True)])
def test_on_a_terminal_it_asks(
    harness: LakeFSHarness, repository: str, folder: Path, answer: bytes, code: int, *, there: bool
) -> None:
    commit(harness, repository, {ACTION_PATH: OLDER})
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer)
        ran = subprocess.run(
            [sys.executable, "-m", "perago_worker", "fence", "install", repository],
            stdin=theirs,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert ran.returncode == code, ran.stderr
    assert f"Merge the fence into {repository}@main? [y/N]" in ran.stdout
    assert ("Nothing was changed." in ran.stderr) is not there
    assert (objects(harness, repository)[ACTION_PATH] == ACTION.encode()) is there


def test_another_hook_may_refuse_the_merge(
    harness: LakeFSHarness, repository: str, fence: Run
) -> None:
    commit(harness, repository, {"_lakefs_actions/prices.yaml": OTHER})
    code, _, err = fence("install", repository, "--yes")
    assert code == Exit.UNEXPECTED
    assert "no column named price" in err
    assert ACTION_PATH not in objects(harness, repository)
    assert branches(harness, repository) == ["main"]


@pytest.mark.parametrize("command", ["install", "status", "selftest"])
def test_what_does_not_exist_is_named(repository: str, fence: Run, command: str) -> None:
    told = "repository 'no-such-repository' does not exist\n"
    assert fence(command, "no-such-repository") == (Exit.CONFIG, "", told)
    assert fence(command, repository, "dev") == (
        Exit.CONFIG,
        "",
        "branch 'dev' does not exist\n",
    )


def test_a_key_that_is_refused_is_not_authorised(folder: Path, repository: str, fence: Run) -> None:
    (folder / "key").write_text("x" * 40)
    code, _, err = fence("status", repository)
    assert code == Exit.UNAUTHORISED
    assert "access key was refused" in err


# --- looking and testing --------------------------------------------------------------------------


def test_status_tells_of_every_branch(harness: LakeFSHarness, repository: str, fence: Run) -> None:
    base = harness.store.head(repository, "main")
    for name in ("none", "older"):
        harness.add_branch(repository, name, base.id)
    commit(harness, repository, {ACTION_PATH: OLDER}, branch="older")
    fence("install", repository, "--yes")
    head = harness.store.head(repository, "main")
    has = f"{repository}@main: has the fence, at commit {head.id}\n"
    assert fence("status", repository) == (Exit.DONE, has, "")
    code, out, _ = fence("status", repository, "main", "none", "older")
    assert code == Exit.UNEXPECTED
    assert out == (
        f"{has}{repository}@none: has no fence; install it with: perago-worker fence install "
        f"{repository} none\n{repository}@older: has another {ACTION_PATH}, an older version or "
        "somebody's own; see the difference with: perago-worker fence install "
        f"{repository} older\n"
    )


def test_the_self_test_changes_nothing(harness: LakeFSHarness, repository: str, fence: Run) -> None:
    assert fence("selftest", repository)[0] == Exit.UNEXPECTED
    fence("install", repository, "--yes")
    head = harness.store.head(repository, "main")
    assert fence("selftest", repository) == (Exit.DONE, f"{PASSED}\n", "")
    assert harness.store.head(repository, "main") == head
    assert branches(harness, repository) == ["main"]


def test_a_merge_that_another_hook_refuses_proves_nothing(
    harness: LakeFSHarness, repository: str
) -> None:
    commit(harness, repository, {"_lakefs_actions/prices.yaml": OTHER})
    head = harness.store.head(repository, "main")
    found = self_test(harness.store, repository, head, 30)
    assert not found.passed
    assert "not by the fence" in found.detail
    assert "no column named price" in found.detail
    assert branches(harness, repository) == ["main"]


# --- the level ------------------------------------------------------------------------------------


def test_the_level_is_that_of_the_commit_a_publication_starts_from(
    harness: LakeFSHarness, store: LakeFSStore, repository: str
) -> None:
    base = harness.store.head(repository, "main").id
    older = commit(harness, repository, {ACTION_PATH: OLDER})
    fenced = commit(harness, repository, {ACTION_PATH: ACTION})
    harness.call(
        "DELETE",
        *("repositories", repository, "branches", "main", "objects"),
        query={"path": ACTION_PATH},
    )
    gone = harness.commit(repository, "main", message="Gone")
    levels = [store.fence_level(repository, each) for each in (base, older, fenced, gone)]
    assert levels == ["verify", "verify", "hook", "verify"]
    assert branches(harness, repository) == ["main"]


def test_the_server_is_tried_once_however_many_ask(
    harness: LakeFSHarness, store: LakeFSStore, repository: str
) -> None:
    first = commit(harness, repository, {ACTION_PATH: ACTION})
    second = commit(harness, repository, {"ws/a": "1"})
    together = threading.Barrier(8)

    def ask(commit: str) -> str:
        together.wait()
        return store.fence_level(repository, commit)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, [first, second] * 4)) == ["hook"] * 8
    assert store.fence_level(repository, second) == "hook"
    path = ("repositories", repository, "actions", "runs")
    runs = harness.call("GET", *path)["results"]
    assert [(each["event_type"], each["status"]) for each in runs] == [("pre-merge", "failed")]


def test_the_level_of_what_does_not_exist_is_not_known(store: LakeFSStore, repository: str) -> None:
    with pytest.raises(NotFound, match="commit 'ffff' does not exist"):
        store.fence_level(repository, "ffff")
    with pytest.raises(NotFound, match="repository 'no-such-repository' does not exist"):
        store.fence_level("no-such-repository", "ffff")


def test_a_self_test_that_learns_nothing_is_made_again(
    harness: LakeFSHarness, repository: str
) -> None:
    """Without time for the merge nothing is learnt, and nothing is left behind."""
    fenced = commit(harness, repository, {ACTION_PATH: ACTION})
    levels = FenceLevels(harness.store, timeout_s=0)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="no time is left"):
            levels.level(repository, fenced)
    assert branches(harness, repository) == ["main"]


def test_a_level_is_known_while_the_server_is_away(private_lakefs: LakeFSServer) -> None:
    with open_harness(private_lakefs.access) as harness:
        first, second = (harness.repository() for _ in range(2))
        fenced = [commit(harness, each, {ACTION_PATH: ACTION}) for each in (first, second)]
        newer = commit(harness, first, {"ws/a": "1"})
        assert harness.store.fence_level(first, fenced[0]) == "hook"
        private_lakefs.kill()
        assert harness.store.fence_level(first, fenced[0]) == "hook"
        for unknown in ((first, newer), (second, fenced[1])):
            with pytest.raises(StoreUnavailable):
                harness.store.fence_level(*unknown)
        private_lakefs.start()
        for unknown in ((first, newer), (second, fenced[1])):
            assert harness.store.fence_level(*unknown) == "hook"


@pytest.fixture
def without_actions(installed: None, tmp_path: Path) -> Iterator[LakeFSServer]:
    """A lakeFS whose administrator has turned actions off."""
    server = LakeFSServer(tmp_path / "lakefs", settings={"LAKEFS_ACTIONS_ENABLED": "false"})
    try:
        server.start()
        yield server
    finally:
        server.stop()


def test_a_server_that_runs_no_actions_is_found_out(
    without_actions: LakeFSServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(tmp_path, without_actions.access)
    monkeypatch.chdir(tmp_path)
    with open_harness(without_actions.access) as harness:
        repository = harness.repository()
        code, out, _ = run_fence("install", repository, "--yes")
        assert code == Exit.UNEXPECTED
        assert "has the fence from commit" in out
        assert "self-test: failed: the server made a merge that the fence has to refuse" in out
        assert "actions.enabled" in out
        assert run_fence("status", repository)[0] == Exit.DONE
        code, out, _ = run_fence("selftest", repository)
        assert (code, out.partition(": the")[0]) == (Exit.UNEXPECTED, "self-test: failed")
        fenced = harness.store.head(repository, "main").id
        newer = commit(harness, repository, {"ws/a": "1"})
        with capture_logs() as logs:
            levels = [harness.store.fence_level(repository, each) for each in (fenced, newer)]
        assert levels == ["verify", "verify"]
        assert [(each["event"], each["repository"]) for each in logs] == [
            ("fence.not_working", repository)
        ]
        assert branches(harness, repository) == ["main"]


# --- what the tests are written with --------------------------------------------------------------


def write_config(folder: Path, access: LakeFSAccess) -> None:
    for name, secret in (("id", access.access_key_id), ("key", access.secret_access_key)):
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(secret)
    (folder / "worker.toml").write_text(CONFIG.format(endpoint=access.endpoint))


def run_fence(*arguments: str) -> tuple[int, str, str]:
    """Run `perago-worker fence` in the current folder; return exit code, output and errors."""
    result = CliRunner().invoke(app, ["fence", *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def commit(
    harness: LakeFSHarness, repository: str, write: dict[str, str], *, branch: str = "main"
) -> str:
    """Commit files directly on a branch, as somebody would who knows nothing of the worker."""
    for key, content in write.items():
        harness.upload(repository, branch, key, content.encode())
    return harness.commit(repository, branch, message="Change")


def objects(harness: LakeFSHarness, repository: str, branch: str = "main") -> dict[str, bytes]:
    path = ("repositories", repository, "refs", branch, "objects")
    listed: list[dict[str, Any]] = harness.call("GET", *path, "ls")["results"]
    return {each["path"]: content(harness, repository, branch, each["path"]) for each in listed}


def content(harness: LakeFSHarness, repository: str, branch: str, key: str) -> bytes:
    path = ("repositories", repository, "refs", branch, "objects")
    found = harness.call("GET", *path, query={"path": key})
    return str(found).encode()


def branches(harness: LakeFSHarness, repository: str) -> list[str]:
    """Return the names of all branches, hidden ones too."""
    path = ("repositories", repository, "branches")
    found = harness.call("GET", *path, query={"show_hidden": "true"})["results"]
    return [each["id"] for each in found]
