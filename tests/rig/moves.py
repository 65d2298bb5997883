"""How hypothesis chooses what happens next: one draw for the move, one for each thing it is given.

Rules of hypothesis would do, but choosing among so many of which few are possible takes it a dozen
draws a step, which was a third of the time, and it gives a schedule up when all rules that it left
out at random are the possible ones. Here every schedule goes on to its last step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from hypothesis import strategies as st
from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, HypothesisProvider


@dataclass(frozen=True)
class Move:
    """Something that can happen.

    Attributes:
        possible: Tells whether it can happen to a machine now.
        given: What it is given, each drawn by its strategy.
        weight: How often it is chosen, compared with others.
        spared: Whether no schedule does without it.
    """

    play: Callable[..., None]
    possible: Callable[[Any], object]
    given: Mapping[str, st.SearchStrategy[Any]]
    weight: int
    spared: bool


class Chosen:
    """A move and what it was given."""

    def __init__(self, move: Move, given: Mapping[str, Any]) -> None:
        self._move = move
        self._given = given

    def __repr__(self) -> str:
        """Return it as a call: this is what the report of a failure is made of."""
        given = ", ".join(f"{name}={value!r}" for name, value in self._given.items())
        return f"{self._move.play.__name__}({given})"

    def play(self, machine: object) -> None:
        """Let it happen to a machine."""
        self._move.play(machine, **self._given)


class Moves:
    """All that can happen to one kind of machine."""

    def __init__(self) -> None:
        self._all: list[Move] = []

    def add(
        self,
        possible: Callable[[Any], object],
        *,
        weight: int = 1,
        spared: bool = False,
        **given: st.SearchStrategy[Any],
    ) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Return a decorator that makes a method a move."""

        def added(play: Callable[..., None]) -> Callable[..., None]:
            self._all.append(Move(play, possible, given, weight, spared))
            return play

        return added

    def swarm(self) -> st.SearchStrategy[frozenset[int]]:
        """Draw the moves that a schedule does without; none of them, or up to nearly all.

        Schedules that leave something out go further where they do go: what ends every attempt, for
        one, keeps from happening what only happens after many of them.
        """
        size = len(self._all) + 1
        return st.binary(min_size=size, max_size=size).map(self._left_out)

    def choice(self) -> st.SearchStrategy[Chosen]:
        """Draw a move that is possible now."""
        return _choice(self._all)

    def _left_out(self, drawn: bytes) -> frozenset[int]:
        share, *scores = drawn  # zeros leave out none, so that failures shrink towards that
        chances = enumerate(zip(self._all, scores, strict=True))
        return frozenset(i for i, (m, score) in chances if score > 255 - share and not m.spared)


class Machine(Protocol):
    """What is steered by moves."""

    left_out: frozenset[int]


_machine = st.runner()


@st.composite
def _choice(draw: st.DrawFn, moves: Sequence[Move]) -> Chosen:
    machine: Machine = draw(_machine)
    possible = [
        index
        for index, move in enumerate(moves)
        for _ in range(move.weight if move.possible(machine) else 0)
    ]
    # When none is left, those that were to be left out are.
    tickets = [index for index in possible if index not in machine.left_out] or possible
    move = moves[tickets[draw(_below(len(tickets)))]]
    return Chosen(move, {name: draw(each) for name, each in move.given.items()})


@cache
def _below(limit: int) -> st.SearchStrategy[int]:
    return st.integers(0, limit - 1)


class Independent(HypothesisProvider):
    """Makes every example anew, from what the seed says alone; shrinking is as ever.

    Hypothesis by itself makes five of six examples by copying one part of an earlier one over
    another, which finds much in data and little in schedules, and keeps a tree of all of them.
    """

    def draw_integer(
        self, min_value: int | None = None, max_value: int | None = None, **more: Any
    ) -> int:
        """Draw evenly: no number is a special one among picks."""
        if min_value is None or max_value is None:
            return super().draw_integer(min_value, max_value, **more)
        assert self._random is not None
        return self._random.randint(min_value, max_value)


BACKEND = "independent"
AVAILABLE_PROVIDERS[BACKEND] = f"{__name__}.{Independent.__name__}"
