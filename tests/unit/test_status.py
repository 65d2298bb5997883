"""The status board and its page: what is known of a worker, and that it is shown as text only."""

from __future__ import annotations

import re
from email.utils import formatdate
from html.parser import HTMLParser
from typing import Any

import pytest

from perago_worker.events import (
    AttemptFinished,
    AttemptStarted,
    BodyOutput,
    CacheFailed,
    CacheTrimmed,
    CacheUsed,
    HeartbeatSent,
    PollFinished,
    QueueSeen,
    RequestFinished,
    StateChanged,
    StepFinished,
    StepStarted,
    Transferred,
)
from perago_worker.models import Lease, Outcome
from perago_worker.telemetry.board import MAX_RECENT, MAX_TEXT, MAX_TIMES, Board
from perago_worker.telemetry.cache_board import cache_line, size
from perago_worker.telemetry.page import duration, page
from perago_worker.telemetry.skew import clock_skew_s
from tests.clocks import ManualClock
from tests.leases import make_lease

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&\x1b[31m\u202e"


def lease(task_id: str = "t-1", **fields: Any) -> Lease:
    given = {
        "workspace": {"repository": "shop", "branch": "main"},
        "params": {"password": "hunter2"},
    }
    return make_lease(**{"task_id": task_id, "input": given, **fields})


class Watched:
    """A board with a clock of its own."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        about = {"id": "host:1:a", "name": "host", "queue": "local", "store": "local"}
        self.board = Board(slots={"features.build": 2}, about=about, clock=self.clock)

    def see(self, *events: Any) -> None:
        for event in events:
            self.board.on_event(event)

    def snapshot(self, lease_left_s: float | None = 41.0) -> dict[str, Any]:
        return {
            **self.board.snapshot(lease_left_s=lambda _: lease_left_s),
            "not_alive": [],
            "not_ready": [],
            "services": [{"name": "heartbeats", "silent_s": 0.5, "failure": ""}],
        }


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_an_attempt_is_shown_with_its_step_age_lease_and_branch(watched: Watched) -> None:
    watched.see(
        AttemptStarted(lease()),
        StepStarted(lease(), "download"),
        StepFinished(lease(), "download", 2.0),
        Transferred(lease(), "download", 1, 1024, 2.0),
    )
    watched.clock.advance(5)
    watched.see(
        StepStarted(lease(), "body"),
        BodyOutput(lease(), "progress", "3/10 joined"),
        BodyOutput(lease(), "stdout", "not shown"),
        HeartbeatSent(lease(), "held", 0.1),
    )
    watched.clock.advance(7)

    (attempt,) = watched.snapshot()["attempts"]

    assert attempt == {
        "task": "features.build",
        "task_id": "t-1",
        "workflow_id": "w-1",
        "retry": 1,
        "poll": 2,
        "step": "body",
        "step_s": 7.0,
        "age_s": 12.0,
        "lease_left_s": 41.0,
        "lease_s": 60,
        "heartbeat": "held",
        "repository": "shop",
        "branch": "main",
        "bytes": {"download": 1024},
        "progress": "3/10 joined",
    }


def test_an_attempt_that_ended_is_remembered_with_its_steps(watched: Watched) -> None:
    outcome = Outcome(kind="failed", code="task_failed", reason="no readings", output={"x": 1})
    watched.see(
        AttemptStarted(lease()),
        StepFinished(lease(), "body", 2.0),
        AttemptFinished(lease(), outcome, 3.0, True, "Traceback of the body"),
    )

    status = watched.snapshot()

    assert status["attempts"] == []
    assert status["recent"][0]["steps"] == {"body": 2.0}
    assert status["recent"][0]["reason"] == "no readings"
    assert status["tasks"][0]["outcomes"] == {"failed": 1}
    assert "Traceback" not in str(status)


def test_only_the_latest_attempts_are_remembered(watched: Watched) -> None:
    done = Outcome(kind="completed", code="published")
    for number in range(MAX_RECENT + 5):
        watched.see(AttemptFinished(lease(f"t-{number}"), done, 1.0, True))

    recent = watched.snapshot()["recent"]

    assert [each["task_id"] for each in (recent[0], recent[-1])] == [f"t-{MAX_RECENT + 4}", "t-5"]


def test_a_task_is_shown_with_its_polls_and_what_waits(watched: Watched) -> None:
    watched.see(
        PollFinished("features.build", "empty"),
        PollFinished("features.build", "error", error="connection refused"),
        QueueSeen("features.build", 12),
        AttemptStarted(lease()),
        PollFinished("another", "empty"),
    )
    watched.clock.advance(3)

    (task,) = watched.snapshot()["tasks"]

    assert (task["busy"], task["slots"], task["waiting"]) == (1, 2, 12)
    assert task["polls"] == {"tasks": 0, "empty": 1, "error": 1}
    assert (task["polled_ago_s"], task["error"]) == (3.0, "connection refused")


def test_servers_are_shown_with_their_last_answers(watched: Watched) -> None:
    def answer(status: int) -> RequestFinished:
        return RequestFinished("conductor", "poll", "GET", "/x", status, 0.1)

    watched.see(answer(200), answer(503), answer(0))
    (server,) = watched.snapshot()["servers"]
    assert (server["name"], server["failures"]) == ("conductor", 2)

    watched.see(answer(404))
    assert watched.snapshot()["servers"][0]["failures"] == 0


@pytest.mark.parametrize(
    ("ahead_s", "shown"),
    [(0, "as ours"), (-90, "1\u00a0min\u00a029\u00a0s behind"), (600, "10\u00a0min ahead")],
)
def test_a_servers_clock_is_compared_with_ours(
    watched: Watched, ahead_s: float, shown: str
) -> None:
    """Dates are whole seconds, so that half of one is what is not known."""
    date = formatdate(watched.clock.time() + ahead_s, usegmt=True)
    now = watched.clock.time()
    watched.see(RequestFinished("lakefs", "read", "GET", "", 200, 0.1, date, at=now))
    watched.see(RequestFinished("conductor", "poll", "GET", "", 0, 0.1, at=now))

    first, second = watched.snapshot()["servers"]

    assert first["clock_skew_s"] is None
    assert abs(second["clock_skew_s"] - ahead_s) <= 1
    assert shown in page({**watched.snapshot(), "not_alive": [], "not_ready": [], "services": []})


@pytest.mark.parametrize("date", ["", "yesterday", "Thu, 99 Nov 9999 99:99:99 GMT"])
def test_a_date_that_is_none_is_no_clock(date: str) -> None:
    assert clock_skew_s(date, 0.0) is None


def test_times_of_attempts_are_told_by_quantiles(watched: Watched) -> None:
    done = Outcome(kind="completed", code="published")
    (task,) = watched.snapshot()["tasks"]
    assert (task["p50_s"], task["p95_s"]) == (None, None)
    for seconds in range(1, MAX_TIMES * 2 + 1):
        watched.see(AttemptFinished(lease(), done, float(seconds), True))

    (task,) = watched.snapshot()["tasks"]

    # of the latest ones
    assert (task["p50_s"], task["p95_s"]) == (MAX_TIMES * 1.5, MAX_TIMES * 1.95)


def test_neither_params_nor_results_are_shown(watched: Watched) -> None:
    done = Outcome(kind="completed", code="published", output={"result": {"key": "hunter3"}})
    watched.see(AttemptStarted(lease()))
    text = page(watched.snapshot())
    watched.see(AttemptFinished(lease(), done, 1.0, True))
    text += page(watched.snapshot()) + str(watched.snapshot())

    assert "hunter" not in text


def test_texts_from_elsewhere_are_cut_and_must_be_texts(watched: Watched) -> None:
    place = {"repository": ["shop"], "branch": "b" * 10_000}
    watched.see(AttemptStarted(lease(input={"workspace": place})))
    watched.see(AttemptStarted(lease("t-2", input={"workspace": "no table"})))

    first, second = watched.snapshot()["attempts"]

    assert (first["repository"], len(first["branch"])) == ("", MAX_TEXT)
    assert (second["repository"], second["branch"]) == ("", "")


class Tags(HTMLParser):
    """Collects the names of elements and attributes, and checks that elements are closed."""

    VOID = frozenset({"meta", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes.update(name for name, _ in attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_what_the_cache_was_good_for_is_added_up(watched: Watched) -> None:
    watched.see(
        CacheUsed(lease(), {"hit": 3, "miss": 1}, 3 << 20),
        CacheUsed(lease("t-2"), {"hit": 3000, "corrupted": 1}, 1 << 30),
        CacheTrimmed(2, 5 << 10),
        CacheFailed("first"),
        CacheFailed(HOSTILE),
    )
    cache = watched.board.snapshot(cache_held_bytes=700, cache_max_bytes=1 << 30)["cache"]

    assert cache == {
        "held_bytes": 700,
        "max_bytes": 1 << 30,
        "hit": 3003,
        "miss": 1,
        "corrupted": 1,
        "hit_bytes": (1 << 30) + (3 << 20),
        "evicted_bytes": 5 << 10,
        "failures": 2,
        "error": HOSTILE,
    }
    assert cache_line(cache) == (
        "holds 700 B of 1 GiB, had 3,003 of 3,005 objects (99 %), saved 1 GiB of reading, "
        "1 found damaged and removed, 5 KiB removed to make room, "
        f"began to fail 2 times, last: {HOSTILE}"
    )
    text = page({**watched.snapshot(), "cache": cache})
    assert "Holds 700 B of 1 GiB" in text
    assert "<script" not in text


@pytest.mark.parametrize(
    ("max_bytes", "line"),
    [(0, "off (workspace.cache_max)"), (1 << 20, "holds 0 B of 1 MiB, not asked yet")],
)
def test_a_cache_without_use_is_told(watched: Watched, max_bytes: int, line: str) -> None:
    snapshot = watched.board.snapshot(cache_max_bytes=max_bytes)

    assert cache_line(snapshot["cache"]) == line


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1,023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (1 << 30, "1 GiB"),
        (1 << 40, "1 TiB"),
        (5 << 50, "5,120 TiB"),
    ],
)
def test_sizes_are_said_as_people_do(count: int, text: str) -> None:
    assert size(count) == text


def test_whatever_comes_from_elsewhere_is_text_on_the_page(watched: Watched) -> None:
    hostile = lease(
        HOSTILE,
        task_type=HOSTILE,
        workflow_id=HOSTILE,
        input={"workspace": {"repository": HOSTILE, "branch": HOSTILE}},
    )
    board = Board(slots={HOSTILE: 1}, about={"name": HOSTILE, "id": HOSTILE}, clock=watched.clock)
    watched.board = board
    failed = Outcome(kind="failed", code=HOSTILE, reason=HOSTILE, output_ref=HOSTILE)
    watched.see(
        AttemptFinished(hostile, failed, 1.0, True),
        PollFinished(HOSTILE, "error", error=HOSTILE),
        AttemptStarted(hostile),
        StepStarted(hostile, HOSTILE),
        BodyOutput(hostile, "progress", HOSTILE),
    )
    status = {
        **watched.snapshot(),
        "not_alive": [HOSTILE],
        "not_ready": [HOSTILE],
        "services": [{"name": HOSTILE, "silent_s": 1.0, "failure": HOSTILE}],
    }

    text = page(status)
    tags = Tags(text)

    assert tags.open == []
    assert not tags.names & {"script", "img", "iframe", "form", "input", "button"}
    assert not [name for name in tags.attributes if name.startswith("on")]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert not re.search("[\x1b\u202e]", text)


def test_the_page_renews_itself_fits_a_phone_and_loads_nothing(watched: Watched) -> None:
    text = page(watched.snapshot())

    assert '<meta http-equiv="refresh" content="5">' in text
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    targets = re.findall(r'(?:href|src)="([^"]*)"', text)
    paths = ("/status.json", "/metrics", "/livez", "/readyz", "/startupz", "/stacks")
    assert set(targets) == {"data:,", *paths}


def test_the_page_leads_with_what_is_wrong(watched: Watched) -> None:
    watched.see(StateChanged("running"))
    assert "Alive and ready." in page(watched.snapshot())

    status = {**watched.snapshot(), "not_ready": ["features.build: cannot poll: refused"]}
    text = page(status)

    assert "Alive and ready." not in text
    assert text.index("cannot poll: refused") < text.index("<h2>Tasks</h2>")


@pytest.mark.parametrize(("left", "style"), [(50.0, ""), (10.0, "warn"), (-1.0, "bad")])
def test_a_lease_that_runs_out_stands_out(left: float, style: str, watched: Watched) -> None:
    watched.see(AttemptStarted(lease()))

    cell = re.search(r'data-label="Lease left">(.*?)</td>', page(watched.snapshot(left)))

    assert cell is not None
    assert (f'class="{style}"' in cell[1]) is bool(style)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.25, "0.25 s"), (42.7, "42 s"), (303, "5 min 3 s"), (12_000, "3 h 20 min"),
     (3600, "1 h"), (187_200, "2 d 4 h")],
)  # fmt: skip
def test_durations_are_told_as_people_do(seconds: float, text: str) -> None:
    assert duration(seconds) == text
