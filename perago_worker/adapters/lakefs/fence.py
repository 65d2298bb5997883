"""The hook that makes a merge into a branch a compare-and-swap.

lakeFS has no merge that names the head it expects, but it runs a pre-merge hook between reading a
branch and moving it, again whenever the branch moved meanwhile. A hook that compares the head named
in the merge's metadata with the head about to be replaced therefore decides on the very head that
the merge replaces. Merges whose metadata name no head pass: they are none of its business.

The server reads actions from the *source* of a merge. A stage starts as the content of the input
commit, so the fence holds for a publication exactly when its input commit holds the action.
"""

from __future__ import annotations

import re

from perago_worker.models.publication import EXPECTED_HEAD

MARKER = "FENCE"
"""First word of what the hook says when it refuses; no other hook says it."""

ACTION_PATH = "_lakefs_actions/perago-fence.yaml"
"""Key of the action; lakeFS reads actions from this folder at the root only."""

ACTION = f"""\
name: perago-fence
description: Refuse a publication whose expected head is not the head it would replace.
on:
  pre-merge:
    branches: []
hooks:
  - id: expected-head
    type: lua
    properties:
      script: |
        local expected = action.commit.metadata["{EXPECTED_HEAD}"]
        local head = action.commit.parents[1]
        if expected and expected ~= "" and expected ~= head then
          error("{MARKER} {EXPECTED_HEAD}=" .. expected .. " head=" .. head)
        end
"""
"""Content of the action. An empty list of branches is every branch."""

_REFUSAL = re.compile(rf"\b{MARKER} {EXPECTED_HEAD}=\S* head=(?P<head>[0-9a-f]+)")


def head_in_refusal(message: str) -> str | None:
    """Return the head a branch was at when our hook refused a merge; None when another hook did."""
    refusal = _REFUSAL.search(message)
    return refusal["head"] if refusal else None
