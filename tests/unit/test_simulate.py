"""What a fleet asks for, worked out, is what comes about when it is played through."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.simulate import Demand, Fleet, Simulation, all_busy, demand, main, mean_poll_s

IDLE = Fleet(workers=50)
FLEETS = {
    "idle": IDLE,
    "idle, several types": Fleet(workers=20, types=5),
    "short tasks": Fleet(workers=20, rate=20.0, duration_s=0.1),
    "long tasks": Fleet(workers=200, rate=1.0, duration_s=100.0),
    "several slots": Fleet(workers=20, slots=8, rate=4.0, duration_s=30.0),
    "nearly full": Fleet(workers=10, slots=4, rate=3.0, duration_s=10.0),
    "quick heartbeats": Fleet(workers=40, slots=2, rate=1.0, duration_s=45.0, heartbeat_s=2.0),
    "with a store": Fleet(workers=40, rate=1.0, duration_s=10.0, store_calls=12, store_mib=3.0),
}


@pytest.mark.parametrize("fleet", FLEETS.values(), ids=FLEETS)
def test_the_arithmetic_is_what_happens(fleet: Fleet) -> None:
    played = Simulation(fleet).run(seconds=1500, after_s=150)
    expected = demand(fleet)
    for name in Demand.__dataclass_fields__:
        assert getattr(played, name) == pytest.approx(getattr(expected, name), rel=0.1), name
    assert played.conductor == pytest.approx(expected.conductor, rel=0.05)


def test_an_idle_fleet_only_polls() -> None:
    asked = demand(IDLE)
    assert asked.polls == 50 / 5.0
    assert asked.pops == pytest.approx(500)
    assert (asked.beats, asked.reports, asked.running) == (0, 0, 0)


def test_busy_pollers_do_not_poll() -> None:
    """With every slot busy almost always, few polls are open."""
    quiet = demand(Fleet(workers=100, rate=1.0, duration_s=1.0))
    busy = demand(Fleet(workers=100, rate=1.0, duration_s=99.0))
    assert busy.pops < quiet.pops / 50


@pytest.mark.parametrize(("duration_s", "expected"), [(1, 0), (20, 0), (21, 2), (61, 6)])
def test_an_attempt_beats_after_each_interval_it_outlives(duration_s: float, expected: int) -> None:
    fleet = Fleet(workers=100, rate=1.0, duration_s=duration_s, heartbeat_s=20.0)
    assert demand(fleet).beats == expected


def test_a_fleet_that_cannot_keep_up_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="need more than 10"):
        demand(Fleet(workers=10, rate=1.0, duration_s=10.0))
    assert main(["--workers", "10", "--rate", "1", "--duration-s", "10"]) == 2
    assert "need more than 10" in capsys.readouterr().err


def test_one_slot_is_busy_as_much_as_it_works() -> None:
    assert all_busy(0.25, 1) == pytest.approx(0.25)
    assert all_busy(0.0, 4) == pytest.approx(0.0)
    assert all_busy(3.9, 4) > 0.9


def test_a_poll_is_open_until_a_task_or_the_wait_ends_it() -> None:
    assert mean_poll_s(0.0, 5.0) == 5.0
    assert mean_poll_s(1000.0, 5.0) == pytest.approx(0.001)


def test_the_page_holds_what_is_worked_out() -> None:
    page = (Path(__file__).parents[2] / "docs/scale.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d,]+ \| \d.*) \|$", page, re.MULTILINE)
    assert len(rows) > 5
    for row in rows:
        cells = [float(cell.replace(",", "")) for cell in row.split(" | ")]
        workers, types, slots, rate, duration_s, *written = cells
        fleet = Fleet(int(workers), int(types), int(slots), rate, duration_s)
        asked = demand(fleet)
        expected = [asked.polls, asked.pops, asked.beats, asked.conductor]
        assert written == pytest.approx(expected, rel=0.01), row


def test_the_command_shows_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--workers", "10", "--rate", "0.5", "--duration-s", "5", "--seconds", "50"]) == 0
    shown = capsys.readouterr().out
    assert "worked out" in shown
    assert "requests to Conductor" in shown
