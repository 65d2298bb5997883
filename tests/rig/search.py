"""Every state that the model can reach, breadth first, and what must hold in each of them."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from tests.rig.model import Model
from tests.rig.model_state import INPUT, Commit, Delivery, State

Promise = Callable[[State], str]
"""Returns what is wrong with a state; empty when nothing is."""


@dataclass
class Found:
    """What a search found.

    Attributes:
        states: Different states that were reached.
        transitions: Steps between them.
        ends: States in which nothing can happen any more.
        late_after_no_op: States in which a completed task changed nothing, and the branch shows a
            publication that its own superseded attempt had sent before, and that landed after the
            completion: the one thing that no compare-and-swap can tell.
        violations: What was broken, each by the shortest way there.
    """

    states: int = 0
    transitions: int = 0
    ends: int = 0
    late_after_no_op: int = 0
    violations: dict[str, list[str]] = field(default_factory=dict)


def search(model: Model, *, faults: int, stop_at_first: bool = False) -> Found:
    """Visit every state that is reached with at most so many faults."""
    start = State(faults=faults)
    came_from: dict[State, tuple[State, str] | None] = {start: None}
    found = Found()
    waiting = deque([start])
    while waiting:
        state = waiting.popleft()
        if wrong := wrong_with(state):
            found.violations.setdefault(wrong, _way(came_from, state))
            if stop_at_first:
                break
            continue  # what follows is no better
        moves = list(model.moves(state))
        found.transitions += len(moves)
        found.late_after_no_op += _late_after_no_op(state)
        if all(after == state for _, after in moves):
            found.ends += 1
            if state.record.status not in {"completed", "failed"}:
                found.violations.setdefault("the task never ends", _way(came_from, state))
        for move, after in moves:
            if after not in came_from:
                came_from[after] = (state, move)
                waiting.append(after)
    found.states = len(came_from)
    return found


def wrong_with(state: State) -> str:
    """Return which promise a state breaks; empty when none."""
    for promise in PROMISES:
        if wrong := promise(state):
            return wrong
    return ""


def _at_most_one_visible(state: State) -> str:
    runs = [mark for mark in state.shown if mark.startswith("r")]
    return "the head shows two publications of one task" if len(runs) > 1 else ""


def _nothing_foreign_lost(state: State) -> str:
    foreign = {f"f{commit.id}" for commit in state.branch if commit.by is None}
    return "" if foreign <= state.shown else "somebody else's commit was undone"


def _older_after_newer(state: State) -> str:
    ours = [_age(commit.by) for commit in state.branch if commit.by is not None]
    grows = all(one < other for one, other in pairwise(ours))
    return "" if grows else "an older delivery published after a newer one"


def _published_once(state: State) -> str:
    uuids = [commit.uuid for commit in state.branch if commit.by is not None]
    return "" if len(uuids) == len(set(uuids)) else "one publication is on the branch twice"


def _completed_is_published(state: State) -> str:
    record = state.record
    if record.status != "completed":
        return ""
    shown = [c.content for c in _commits(state) if c.id == record.output]
    if not shown:
        return "a task completed with a commit that is not on the branch"
    return "" if shown == [record.shows] else "a task completed with what its body did not make"


def _decided_over_others(state: State) -> str:
    """Look at merges that were decided on this very head and have not been sent."""
    for merge in (each.merge for each in state.attempts if each and each.merge):
        if merge.expected != state.head:
            continue
        if any(commit.by is None for commit in state.branch):
            return "an attempt decided to publish over somebody else's commit"
        if any(c.by is not None and _age(c.by) >= _age(merge.by) for c in state.branch):
            return "an attempt decided to replace a newer delivery's publication"
    return ""


def _age(by: Delivery) -> tuple[int, int, int]:
    # Compared here and not as the product's tokens are: their order is part of what is checked.
    return by.start, by.retry, by.poll


PROMISES: tuple[Promise, ...] = (
    _at_most_one_visible,
    _nothing_foreign_lost,
    _older_after_newer,
    _published_once,
    _completed_is_published,
    _decided_over_others,
)


def _commits(state: State) -> tuple[Commit, ...]:
    return (Commit(INPUT, None, -1, frozenset()), *state.branch)


def _late_after_no_op(state: State) -> bool:
    record = state.record
    nothing = record.status == "completed" and not record.shows and record.output == INPUT
    return nothing and any(mark.startswith("r") for mark in state.shown)


def _way(came_from: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    way = []
    while (step := came_from[state]) is not None:
        state, move = step
        way.append(move)
    return way[::-1]


def main() -> None:
    """Print what is found with up to as many faults as the first argument says."""
    for faults in range(int(sys.argv[1]) + 1):
        started_at = time.monotonic()
        found = search(Model(), faults=faults)
        sys.stdout.write(
            f"{faults} faults: {found.states} states, {found.transitions} transitions, "
            f"{found.ends} ends, {found.late_after_no_op} with a late merge after a no-op, "
            f"{len(found.violations)} violations, {time.monotonic() - started_at:.1f} s\n"
        )
        for wrong, way in found.violations.items():
            sys.stdout.write(f"  {wrong}: {', '.join(way)}\n")


if __name__ == "__main__":
    main()
