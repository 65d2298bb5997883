"""Declarations of and references to workspaces."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from perago_worker.guards import forbid_glob, require_file
from perago_worker.models import WorkspaceInput, WorkspaceOutput, WorkspaceRef, WorkspaceSpec

REF = {"repository": "songs", "branch": "main", "ref_type": "commit", "ref": "589f8770"}

# --- WorkspaceSpec --------------------------------------------------------------------------------


def test_spec_defaults() -> None:
    spec = WorkspaceSpec()
    assert spec.model_dump() == {"prefix": "/", "pre": [], "post": [], "read_only": False}


@pytest.mark.parametrize(
    ("written", "prefix"),
    [
        ("/", "/"),
        (" / ", "/"),
        ("features", "features"),
        ("/features", "features"),
        ("//features", "features"),
        ("  features/daily ", "features/daily"),
        ("a/...", "a/..."),
        (".hidden/x", ".hidden/x"),
        ("with space/x", "with space/x"),
        ("ümlaut/日", "ümlaut/日"),
    ],
)
def test_prefix_is_normalised(written: str, prefix: str) -> None:
    assert WorkspaceSpec(prefix=written).prefix == prefix


@pytest.mark.parametrize(
    "written",
    ["", " ", "//", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "/..", "a\\b", "\\", "/a/"],
)
def test_prefix_is_refused(written: str) -> None:
    """The message names the field and shows the value."""
    with pytest.raises(ValidationError) as caught:
        WorkspaceSpec(prefix=written)
    assert f"prefix {written!r}" in str(caught.value)


@given(st.text())
@example("/ daily")
def test_prefix_is_refused_or_stable_and_inside(written: str) -> None:
    """Whatever passes is `/` or a plain relative path, and passes again unchanged.

    Behind a slash: blanks around a prefix are dropped, one that a slash goes before is its own.
    """
    try:
        prefix = WorkspaceSpec(prefix=written).prefix
    except ValidationError:
        return
    if prefix != "/":
        assert WorkspaceSpec(prefix=f"/{prefix}").prefix == prefix
        assert "\\" not in prefix
        assert not {"", ".", ".."} & set(prefix.split("/"))


part = st.text(
    st.characters(exclude_characters="/\\", exclude_categories=["Cs", "Z", "C"]), min_size=1
)


@given(st.lists(part.filter(lambda name: name not in {".", ".."}), min_size=1))
def test_plain_prefixes_pass_as_they_are(parts: list[str]) -> None:
    prefix = "/".join(parts)
    assert WorkspaceSpec(prefix=prefix).prefix == prefix
    assert WorkspaceSpec(prefix=f"/{prefix}").prefix == prefix


def test_spec_takes_guards_only() -> None:
    guard = require_file("raw/a.csv")
    spec = WorkspaceSpec(pre=[guard], post=[forbid_glob("tmp/**")])
    assert spec.pre == [guard]
    with pytest.raises(ValidationError, match="post"):
        WorkspaceSpec.model_validate({"post": ["raw/a.csv"]})


def test_spec_is_frozen_and_closed() -> None:
    spec = WorkspaceSpec()
    with pytest.raises(ValidationError, match="frozen"):
        spec.prefix = "x"  # type: ignore[misc]  # that is the test
    with pytest.raises(ValidationError, match="readonly"):
        WorkspaceSpec(readonly=True)  # type: ignore[call-arg]  # that is the test


# --- references -----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [WorkspaceRef, WorkspaceInput, WorkspaceOutput])
def test_reference_round_trip(model: type[WorkspaceRef]) -> None:
    assert model.model_validate(REF).model_dump(mode="json") == REF


@pytest.mark.parametrize("field", REF)
def test_every_field_of_a_reference_is_needed(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        WorkspaceInput.model_validate({k: v for k, v in REF.items() if k != field})


@pytest.mark.parametrize("field", ["repository", "branch", "ref"])
@pytest.mark.parametrize("value", ["", " ", "\t\n", None, 3])
def test_blank_references_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=field):
        WorkspaceInput.model_validate({**REF, field: value})


def test_blank_reference_is_shown() -> None:
    with pytest.raises(ValidationError, match=r"branch '  ' is blank"):
        WorkspaceInput.model_validate({**REF, "branch": "  "})


def test_only_commits_are_references() -> None:
    with pytest.raises(ValidationError, match=r"ref_type[\s\S]*'branch'"):
        WorkspaceInput.model_validate({**REF, "ref_type": "branch"})


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError, match="prefix"):
        WorkspaceInput.model_validate({**REF, "prefix": "a"})


def other_spelling() -> dict[str, str]:
    return {("refType" if key == "ref_type" else key): value for key, value in REF.items()}


def test_other_spelling_is_read() -> None:
    given = other_spelling()
    assert WorkspaceInput.model_validate(given) == WorkspaceInput.model_validate(REF)
    assert "refType" in given, "the input is left as it was"


def test_both_spellings_at_once_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"ref_type \('commit'\) and refType \('x'\)"):
        WorkspaceInput.model_validate({**REF, "refType": "x"})


@pytest.mark.parametrize("raw", [None, [], "ref", 3])
def test_what_is_no_object_is_refused(raw: Any) -> None:
    with pytest.raises(ValidationError):
        WorkspaceInput.model_validate(raw)


def test_published_output_differs_in_its_commit_alone() -> None:
    output = WorkspaceInput.model_validate(REF).published_output("9c6f")
    assert isinstance(output, WorkspaceOutput)
    assert output.model_dump() == {**REF, "ref": "9c6f"}


def test_published_output_needs_a_commit() -> None:
    with pytest.raises(ValidationError, match="ref"):
        WorkspaceInput.model_validate(REF).published_output(" ")


def test_output_answers_in_the_spelling_of_the_input() -> None:
    output = WorkspaceOutput.model_validate(REF)
    assert output.spelled_like(REF) == REF
    assert output.spelled_like(other_spelling()) == other_spelling()
    assert output.spelled_like(None) == REF
