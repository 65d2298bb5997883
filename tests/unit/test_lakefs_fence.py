"""The fence without a server: its text, where it is found, and how commands tell of it.

The embedded store stands for a repository; what a server makes of the fence is an integration test.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from perago_worker.adapters.lakefs.fence import ACTION, ACTION_PATH, MARKER
from perago_worker.adapters.lakefs.fence_install import MAX_SHOWN_BYTES, Found, look
from perago_worker.adapters.lakefs.fence_level import FenceLevels, holds_action, probe_name
from perago_worker.adapters.lakefs.store import STAGE_PREFIX
from perago_worker.adapters.local.store import LocalStore
from perago_worker.attempt.stage_name import StageName
from perago_worker.cli import app
from perago_worker.cli.exits import Exit
from perago_worker.cli.fence import NOT_NEEDED, difference
from perago_worker.errors import NotFound
from perago_worker.models.probe_name import ProbeName
from perago_worker.models.publication import EXPECTED_HEAD

LAKEFS = """\
[worker]
modules = ["tasks"]
[queue]
kind = "local"
[store]
kind = "lakefs"
endpoint = "http://127.0.0.1:9"
access_key_id_file = "secret"
secret_access_key_file = "secret"
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with closing(LocalStore(tmp_path)) as store:
        store.create_repository("repo")
        yield store


def commit(store: LocalStore, content: bytes, *, key: str = ACTION_PATH) -> str:
    """Commit one object on top of the head of main, and return the commit's id."""
    stage = store.stage("repo", store.head("repo", "main").id, probe_name())
    stage.write(key, io.BytesIO(content), len(content))
    made = stage.commit("Change", {}).id
    store.drop_stage("repo", stage.name)
    return made


def test_the_action_refuses_with_the_marker_and_compares_what_publications_record() -> None:
    assert f'action.commit.metadata["{EXPECTED_HEAD}"]' in ACTION
    assert f'error("{MARKER} ' in ACTION
    assert ACTION.isascii()


def test_probes_are_named_as_stages_are() -> None:
    """A store drops nothing else, and whoever lists stages finds a probe that was left behind."""
    names = {probe_name() for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith(STAGE_PREFIX) for name in names)


def test_a_probe_tells_when_it_was_made() -> None:
    before = int(time.time())
    probe = ProbeName.parse(probe_name())
    assert probe is not None
    assert before <= probe.created_at <= time.time()
    assert StageName.parse(str(probe)) is None


@pytest.mark.parametrize(
    "name",
    [
        "perago-fence-0123456789ab",
        "perago-fence-01-0123456789ab",
        "perago-fence-1-0123456789abc",
        "perago-fence-1-0123456789ab\n",
        "perago-fence-\u0661-0123456789ab",
        f"perago-{'0' * 20}-r0-1-task-00000000",
    ],
)
def test_other_names_are_no_probes(name: str) -> None:
    assert ProbeName.parse(name) is None


@pytest.mark.parametrize(
    ("content", "key", "found"),
    [
        (ACTION.encode(), ACTION_PATH, Found("installed", ACTION, len(ACTION))),
        (ACTION.encode(), "_lakefs_actions/perago-fence.yml", Found("absent")),
        (ACTION.encode(), f"{ACTION_PATH}.bak", Found("absent")),
        (ACTION.encode(), f"ws/{ACTION_PATH}", Found("absent")),
        (b"name: older\n", ACTION_PATH, Found("other", "name: older\n", 12)),
        (b"", ACTION_PATH, Found("other", "", 0)),
        (b"\xff\x00", ACTION_PATH, Found("other", "\ufffd\0", 2)),
    ],
)
def test_the_action_is_its_exact_bytes_at_its_exact_place(
    store: LocalStore, content: bytes, key: str, found: Found
) -> None:
    made = commit(store, content, key=key)
    assert look(store, "repo", made) == found
    assert holds_action(store, "repo", made) == (found.state == "installed")


def test_a_file_of_the_same_size_is_not_the_action(store: LocalStore) -> None:
    made = commit(store, ACTION.replace("~=", "==").encode())
    assert look(store, "repo", made).state == "other"
    assert not holds_action(store, "repo", made)


def test_a_large_file_is_not_read(store: LocalStore) -> None:
    made = commit(store, b"x" * (MAX_SHOWN_BYTES + 1))
    assert look(store, "repo", made) == Found("other", "", MAX_SHOWN_BYTES + 1)


def test_publications_without_the_action_are_verified_and_nothing_is_tried(
    store: LocalStore,
) -> None:
    levels = FenceLevels(store, timeout_s=30)
    made = commit(store, b"name: older\n")
    assert levels.level("repo", made) == "verify"
    assert store.stages("repo") == []


def test_what_a_commit_holds_is_asked_once_and_errors_are_asked_again(
    store: LocalStore, tmp_path: Path
) -> None:
    levels = FenceLevels(store, timeout_s=30)
    made = commit(store, b"name: older\n")
    assert levels.level("repo", made) == "verify"
    (tmp_path / "repo.git").rename(tmp_path / "away.git")
    assert levels.level("repo", made) == "verify"
    head = "f" * len(made)
    for _ in range(2):
        with pytest.raises(NotFound):
            levels.level("repo", head)


# --- commands -------------------------------------------------------------------------------------


def test_a_difference_is_shown_line_by_line() -> None:
    older = ACTION.replace("description", "summary").replace("perago-fence", "perago\x1b[2J")
    lines = difference(Found("other", older, len(older))).splitlines()
    assert lines[:3] == ["  --- there now", "  +++ the fence", "  @@ -1,5 +1,5 @@"]
    assert "  -name: perago\\x1b[2J" in lines
    assert "  +name: perago-fence" in lines


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Found("other", "", 70_000), "  a file of 70000 bytes, not shown"),
        (Found("other", "", 0), "  a file of 0 bytes, not shown"),
        (
            Found("other", ACTION.replace("\n", "\r\n"), 500),
            "  the same lines, with other line breaks",
        ),
    ],
)
def test_a_difference_that_no_line_shows_is_named(found: Found, text: str) -> None:
    assert difference(found) == text


@pytest.mark.parametrize("command", ["install", "status", "selftest"])
def test_the_local_store_needs_no_fence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    text = '[worker]\nmodules = ["tasks"]\n[queue]\nkind = "local"\n[store]\nkind = "local"\n'
    Path("worker.toml").write_text(text)
    ran = CliRunner().invoke(app, ["fence", command, "repo"])
    assert (ran.exit_code, ran.stdout) == (Exit.DONE, f"{NOT_NEEDED}\n")
    assert not Path("var").exists()


@pytest.mark.parametrize("command", ["install", "status", "selftest"])
def test_a_lakefs_that_does_not_answer_is_unreachable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("worker.toml").write_text(LAKEFS)
    Path("secret").touch(mode=0o600)
    Path("secret").write_text("x")
    ran = CliRunner().invoke(app, ["fence", command, "repo"])
    assert ran.exit_code == Exit.UNREACHABLE
    assert "cannot connect to lakeFS" in ran.stderr
