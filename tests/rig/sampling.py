"""How many of the cases run: a bounded share every day, all of them, or one by name.

An environment variable says which: a number, `all`, or a pattern for names such as
`replace/store.publish.1/*`. The share is the same in every run, so that a red one repeats.
"""

from __future__ import annotations

import hashlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from time import monotonic
from typing import TypeVar

C = TypeVar("C")

ALL_DAY_S = 3600 * 4


def wanted(variable: str, default: int | str) -> str:
    """Return what the environment variable says, or the default."""
    return os.environ.get(variable, str(default))


def time_limit(variable: str, everyday_s: int) -> int:
    """Return a test's time limit: the everyday one, unless more cases than usual are asked for."""
    return ALL_DAY_S if variable in os.environ else everyday_s


def choose(cases: Sequence[C], how_many: str) -> list[C]:
    """Return the cases to run.

    Args:
        cases: Their `str` is their name.
        how_many: A number, `all`, or a pattern.
    """
    if how_many == "all":
        return list(cases)
    if how_many.isdigit():
        return sorted(cases, key=_draw)[: int(how_many)]
    return [case for case in cases if fnmatchcase(str(case), how_many)]


def tell(figures: str) -> None:
    """Say what was run; pytest shows it with `-rP` or `-s`."""
    sys.stdout.write(f"{figures}\n")


def _draw(case: object) -> str:
    return hashlib.sha256(str(case).encode()).hexdigest()


def run_all(
    cases: Sequence[C], run: Callable[[C], Sequence[str]], *, threads: int, repeat: str
) -> str:
    """Run cases; return how many ran and in what time.

    Args:
        run: Returns what is wrong with a case.
        repeat: The command that repeats one; `{}` stands for its name.

    Raises:
        AssertionError: Something is wrong with some of them; says what, and how to repeat it.
    """

    def safely(case: C) -> Sequence[str]:
        try:
            return run(case)
        except Exception:  # noqa: BLE001 -- the other cases have to run, too
            return traceback.format_exc().splitlines()

    began = monotonic()
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(safely, cases))
    wrong = [
        (case, complaints) for case, complaints in zip(cases, found, strict=True) if complaints
    ]
    summary = f"{len(cases)} cases, {len(wrong)} wrong, {monotonic() - began:.1f} s"
    report = [summary]
    for case, complaints in wrong:
        report += ["", f"{case}:", *(f"  {each}" for each in complaints)]
        report.append(f"  again: {repeat.format(case)}")
    assert not wrong, "\n".join(report)
    return summary
