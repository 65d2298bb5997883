"""Guards: what they accept as paths, and what they find in a workspace."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from perago_worker.errors import (
    GuardrailViolation,
    PostGuardrailViolation,
    PreGuardrailViolation,
    TaskDefinitionError,
)
from perago_worker.guards import (
    check_guardrails,
    forbid_glob,
    require_dir,
    require_file,
    require_glob,
)
from perago_worker.models import WorkspaceGuardrail

Make = Callable[[Any], WorkspaceGuardrail]
MAKERS: list[Make] = [require_file, require_dir, require_glob, forbid_glob]

# --- making guards --------------------------------------------------------------------------------


@pytest.mark.parametrize("make", MAKERS)
def test_a_guard_says_how_it_was_written(make: Make) -> None:
    guard = make("raw/input.csv")
    assert guard.kind == getattr(make, "__name__", "")
    assert guard.path == "raw/input.csv"
    assert guard.label() == f"{guard.kind}('raw/input.csv')"


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("written", "path"),
    [
        (Path("a/b"), "a/b"),
        (PurePosixPath("a/./b"), "a/b"),
        (PureWindowsPath("a\\b"), "a/b"),
        ("a b/ç", "a b/ç"),
        (".hidden", ".hidden"),
        ("...", "..."),
    ],
)
def test_paths_become_canonical(make: Make, written: Any, path: str) -> None:
    assert make(written).path == path


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "written",
    [
        "",
        " ",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "./a",
        "a/../b",
        "a\\b",
        "a\0b",
        "C:a",
        "c:/a",
        Path(),
        Path("/a"),
        Path("a/../b"),
        PurePosixPath("a\\b"),
        PureWindowsPath("C:\\a"),
        PureWindowsPath("C:a"),
        PureWindowsPath("\\a"),
        b"a",
        3,
        None,
    ],
)
def test_paths_are_refused(make: Make, written: Any) -> None:
    with pytest.raises(TaskDefinitionError, match="guard path"):
        make(written)


def test_a_refused_path_is_shown() -> None:
    with pytest.raises(TaskDefinitionError, match=r"'a/\.\./b' has '\.\.' as a part"):
        require_file("a/../b")


@given(st.text())
def test_a_path_is_refused_or_kept(written: str) -> None:
    """Whatever passes stays as it is and cannot leave the workspace."""
    try:
        path = require_file(written).path
    except TaskDefinitionError:
        return
    assert path == written
    assert os.path.normpath(path) == path
    assert not path.startswith(("/", "../"))


@pytest.mark.parametrize("pattern", ["a**", "**.csv", "x/a**b/y"])
@pytest.mark.parametrize("make", [require_glob, forbid_glob])
def test_two_stars_are_a_part_of_their_own(make: Make, pattern: str) -> None:
    with pytest.raises(ValidationError, match=r"\*\*"):
        make(pattern)


def test_two_stars_in_a_plain_path_are_a_name() -> None:
    assert require_file("a**b").path == "a**b"


def test_counts_default_to_one_and_no_bound() -> None:
    guard = require_glob("*.csv")
    assert (guard.min_count, guard.max_count) == (1, None)


@pytest.mark.parametrize("make", [require_file, require_dir, forbid_glob])
def test_other_guards_count_nothing(make: Make) -> None:
    guard = make("a")
    assert (guard.min_count, guard.max_count) == (None, None)


@pytest.mark.parametrize("kind", ["require_file", "require_dir", "forbid_glob"])
@pytest.mark.parametrize("bound", ["min_count", "max_count"])
def test_other_guards_take_no_counts(kind: str, bound: str) -> None:
    with pytest.raises(ValidationError, match=rf"{kind} takes no min_count or max_count"):
        WorkspaceGuardrail.model_validate({"kind": kind, "path": "a", bound: 2})


@pytest.mark.parametrize(
    ("counts", "named"),
    [
        ({"min_count": -1}, "min_count"),
        ({"max_count": -1}, "max_count"),
        ({"min_count": 3, "max_count": 2}, "min_count 3 is greater than max_count 2"),
        ({"max_count": 0}, "min_count 1 is greater than max_count 0"),
        ({"min_count": 1.5}, "min_count"),
    ],
)
def test_counts_are_refused(counts: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        require_glob("*", **counts)


def test_a_guard_is_frozen_and_closed() -> None:
    guard = require_file("a")
    with pytest.raises(ValidationError, match="frozen"):
        guard.path = "b"  # type: ignore[misc]  # that is the test
    with pytest.raises(ValidationError, match="size"):
        WorkspaceGuardrail.model_validate({"kind": "require_file", "path": "a", "size": 3})
    with pytest.raises(ValidationError, match="kind"):
        WorkspaceGuardrail.model_validate({"kind": "require", "path": "a"})


# --- checking guards ------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a workspace with some of everything, and files beside it that it must not reach."""
    workspace = tmp_path / "workspace"
    outside = tmp_path / "outside"
    for path in (
        workspace / "raw/a.csv",
        workspace / "raw/b.csv",
        workspace / "raw/deep/er/c.csv",
        workspace / "raw/.hidden.csv",
        workspace / "out/result.bin",
        workspace / "full.dir/x",
        outside / "secret.csv",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (workspace / "empty").mkdir()
    (workspace / "nested/empty").mkdir(parents=True)
    (workspace / "link.csv").symlink_to(workspace / "raw/a.csv")
    (workspace / "away").symlink_to(outside)
    (workspace / "away.csv").symlink_to(outside / "secret.csv")
    (workspace / "dangling").symlink_to(outside / "nothing")
    os.mkfifo(workspace / "pipe")
    return workspace


def violation(root: Path, *guards: WorkspaceGuardrail, phase: str = "pre") -> str:
    with pytest.raises(GuardrailViolation) as caught:
        check_guardrails(root, list(guards), phase)
    return str(caught.value)


@pytest.mark.parametrize(
    "guard",
    [
        require_file("raw/a.csv"),
        require_file("raw/deep/er/c.csv"),
        require_dir("raw"),
        require_dir("raw/deep"),
        require_dir("empty"),
        require_glob("raw/*.csv", min_count=3, max_count=3),
        require_glob("raw/[ab].csv", min_count=2, max_count=2),
        require_glob("raw/[!a].csv", min_count=1, max_count=1),
        require_glob("raw/?.csv", min_count=2, max_count=2),
        require_glob("raw/**/*.csv", min_count=4, max_count=4),
        require_glob("raw/**", min_count=4, max_count=4),
        require_glob("**/c.csv", max_count=1),
        require_glob("**/er/**/c.csv", max_count=1),
        require_glob("**/**/c.csv", max_count=1),
        require_glob("*/deep/*/c.csv", max_count=1),
        require_glob("out/result.bin", max_count=1),
        require_glob("none/*", min_count=0, max_count=0),
        require_glob("raw/a.csv/x", min_count=0, max_count=0),
        require_glob("*", min_count=0, max_count=0),
        forbid_glob("*.tmp"),
        forbid_glob("**/*.tmp"),
        forbid_glob("raw/*.CSV"),
        forbid_glob("raw/*.parquet"),
        forbid_glob("empty"),
        forbid_glob("empty/**"),
        forbid_glob("nested"),
        forbid_glob("nested/**"),
        forbid_glob("none/**"),
    ],
    ids=lambda guard: guard.label(),
)
def test_guards_that_hold(root: Path, guard: WorkspaceGuardrail) -> None:
    check_guardrails(root, [guard], "pre")


@pytest.mark.parametrize(
    ("guard", "said"),
    [
        (require_file("raw/none.csv"), "found no such file"),
        (require_file("raw/a.csv/below"), "found no such file"),
        (require_file("raw"), "found something that is not a file"),
        (require_file("pipe"), "found something that is not a file"),
        (require_file("raw/*.csv"), "found no such file"),
        (require_dir("none"), "found no such directory"),
        (require_dir("raw/a.csv"), "found something that is not a directory"),
        (require_glob("raw/*.csv", min_count=4), "matched 3 files, fewer than min_count=4"),
        (require_glob("raw/*.csv", max_count=2), "matched 3 files, more than max_count=2"),
        (require_glob("raw/deep/*"), "matched 0 files, fewer than min_count=1"),
        (require_glob("pipe"), "matched 0 files"),
        (forbid_glob("raw/a.csv"), "matched 1: 'raw/a.csv'"),
        (forbid_glob("raw/**"), "matched 4: 'raw/.hidden.csv', 'raw/a.csv', 'raw/b.csv', ..."),
        (forbid_glob("full.dir"), "matched 1: 'full.dir'"),
        (forbid_glob("*.dir"), "matched 1: 'full.dir'"),
        (forbid_glob("pipe"), "matched 1: 'pipe'"),
    ],
    ids=lambda value: value.label() if isinstance(value, WorkspaceGuardrail) else "",
)
def test_guards_that_do_not_hold(root: Path, guard: WorkspaceGuardrail, said: str) -> None:
    assert violation(root, guard).startswith(f"pre guardrail {guard.label()} {said}")


@pytest.mark.parametrize(
    "guard",
    [
        require_file("link.csv"),
        require_file("away.csv"),
        require_file("away/secret.csv"),
        require_dir("away"),
        require_file("dangling"),
    ],
    ids=lambda guard: guard.label(),
)
def test_links_are_named_and_not_followed(root: Path, guard: WorkspaceGuardrail) -> None:
    assert "symbolic link" in violation(root, guard)


@pytest.mark.parametrize("pattern", ["away/*", "away/**", "*.csv", "away.csv", "**/secret.csv"])
def test_links_satisfy_no_pattern(root: Path, pattern: str) -> None:
    assert "matched 0 files" in violation(root, require_glob(pattern))


@pytest.mark.parametrize("name", ["link.csv", "away", "dangling"])
def test_links_are_found_by_what_forbids(root: Path, name: str) -> None:
    assert f"'{name}'" in violation(root, forbid_glob(name))


def test_what_is_behind_a_link_is_not_found_by_what_forbids(root: Path) -> None:
    check_guardrails(root, [forbid_glob("away/*")], "post")


def test_the_workspace_itself_may_be_reached_through_a_link(root: Path) -> None:
    link = root.with_name("link")
    link.symlink_to(root)
    check_guardrails(link, [require_file("raw/a.csv"), require_glob("raw/*.csv")], "pre")


@pytest.mark.parametrize(
    ("phase", "kind"),
    [
        ("pre", PreGuardrailViolation),
        ("post", PostGuardrailViolation),
        ("rehearsal", GuardrailViolation),
    ],
)
def test_the_phase_decides_the_error(
    root: Path, phase: str, kind: type[GuardrailViolation]
) -> None:
    with pytest.raises(GuardrailViolation, match=f"^{phase} guardrail") as caught:
        check_guardrails(root, [require_file("none")], phase)
    assert type(caught.value) is kind


def test_all_that_does_not_hold_is_reported(root: Path) -> None:
    message = violation(
        root, require_file("none"), require_file("raw/a.csv"), forbid_glob("out/*"), phase="post"
    )
    assert "require_file('none')" in message
    assert "forbid_glob('out/*')" in message
    assert "raw/a.csv" not in message


def test_no_guards_need_no_workspace(tmp_path: Path) -> None:
    check_guardrails(tmp_path / "none", [], "pre")


def test_a_missing_workspace_satisfies_nothing(tmp_path: Path) -> None:
    """Not even a guard that forbids: there is nothing to publish."""
    message = violation(tmp_path / "none", forbid_glob("*"))
    assert "workspace directory does not exist" in message
    assert str(tmp_path) not in message


names = st.text("ab.", min_size=1, max_size=3).filter(lambda name: name not in {".", ".."})


@given(path=st.lists(names, min_size=1, max_size=3).map("/".join))
def test_a_path_without_wildcards_matches_itself(
    path: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As pattern, as file, below `**`, and from anywhere by `**/`."""
    root = tmp_path_factory.mktemp("workspace")
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text("x")
    last = path.rpartition("/")[2]
    check_guardrails(
        root,
        [
            require_file(path),
            require_glob(path, max_count=1),
            require_glob("**", max_count=1),
            require_glob(f"**/{last}", max_count=1),
            require_glob("/".join("*" for _ in path.split("/")), max_count=1),
        ],
        "pre",
    )
    assert violation(root, forbid_glob(path))
