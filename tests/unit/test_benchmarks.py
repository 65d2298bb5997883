"""The benchmark's own arithmetic: what it makes of measurements, without taking any."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
import tempfile
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from rich.console import Console

from benchmarks import report
from benchmarks.bench import QUICK
from benchmarks.contenders import step_times
from benchmarks.folders import temporary_files_apart
from benchmarks.processes import Watch
from benchmarks.relay import relayed
from benchmarks.results import Goal, Metric, Results, Row, Sample
from benchmarks.rows import MEASUREMENTS
from benchmarks.stats import Summary, percentile, rate_after_warm_up, ratio

SECONDS = Metric("seconds", "s")
ROW = Row("row", "a row", (SECONDS,), (Goal(0, "half of perago", lambda m: m["perago"] / 2),))
CURVE = Row("curve", "a curve", (SECONDS,), x="files")


def sample(contender: str, seconds: float, **more: float) -> Sample:
    return Sample("row", contender, {"seconds": seconds, **more})


def results() -> Results:
    return Results([
        sample("worker", 3.0), sample("perago", 10.0), sample("limit", 2.0),
        sample("worker", 9.0), sample("perago", 30.0), sample("limit", 2.0),
        sample("worker", 4.0),
    ])  # fmt: skip


# --- arithmetic -----------------------------------------------------------------------------------


def test_a_summary_has_the_middle_and_the_ends() -> None:
    assert Summary.of([5, 1, 3]) == Summary(3, 1, 5, 3)
    assert Summary.of([1, 2]) == Summary(1.5, 1, 2, 2)
    assert Summary.of([7]) == Summary(7, 7, 7, 1)


@pytest.mark.parametrize(("percent", "expected"), [(1, 1), (50, 50), (99, 99), (100, 100)])
def test_a_percentile_is_one_of_the_values(percent: float, expected: float) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == expected


def test_a_high_percentile_of_few_values_is_the_largest() -> None:
    assert percentile([3, 1, 2], 99) == 3
    assert Summary.of([3, 1, 2], percent=99) == Summary(3, 1, 3, 3)


def test_a_ratio_needs_something_to_divide_by() -> None:
    assert ratio(3, 2) == 1.5
    assert ratio(3, 0) is None
    assert ratio(3, None) is None


def test_a_rate_counts_from_the_last_that_is_dropped() -> None:
    assert rate_after_warm_up([10.0, 0.0, 11.0, 12.0], dropped=2) == 1.0
    assert rate_after_warm_up([1.0, 1.0], dropped=1) == math.inf


@pytest.mark.parametrize("dropped", [0, 2, 3])
def test_a_rate_needs_something_dropped_and_something_left(dropped: int) -> None:
    with pytest.raises(ValueError, match="leave no rate"):
        rate_after_warm_up([1.0, 2.0], dropped=dropped)


def test_processor_time_is_read_between_samples() -> None:
    watch = Watch([], memory=False, interval_s=1)
    watch.cpu = [(10.0, 1.0), (12.0, 2.0), (14.0, 6.0)]
    assert watch.cpu_between(11.0, 13.0) == pytest.approx(2.5)
    assert watch.cpu_between(0.0, 99.0) == pytest.approx(5.0)


# --- results --------------------------------------------------------------------------------------


def test_a_row_keeps_its_contenders_apart() -> None:
    assert results().contenders("row") == ["worker", "perago", "limit"]
    assert results().medians("row", SECONDS) == {"worker": 4.0, "perago": 20.0, "limit": 2.0}
    assert results().medians("another", SECONDS) == {}


def test_a_curve_keeps_its_places_apart() -> None:
    found = Results([
        Sample("curve", "worker", {"seconds": 5.0}, x=10),
        Sample("curve", "worker", {"seconds": 1.0}, x=1),
    ])  # fmt: skip
    assert found.places("curve") == [1, 10]
    assert found.places("row") == [None]
    assert found.summary("curve", SECONDS, "worker", 10) == Summary(5, 5, 5, 1)
    assert found.summary("curve", SECONDS, "worker") is None


def test_a_goal_is_held_against_the_others() -> None:
    goal = ROW.goals[0]
    assert goal.met({"worker": 5.0, "perago": 10.0}) is True
    assert goal.met({"worker": 5.1, "perago": 10.0}) is False
    assert goal.met({"worker": 5.0}) is None
    assert Goal(0, "", lambda m: 0.9 * m["limit"], at_least=True).met({"worker": 9, "limit": 10})


def test_steps_are_the_middle_of_their_attempts() -> None:
    found = Results(
        Sample("row", "worker", {}, steps)
        for steps in ({"download": 1.0}, {"download": 3.0, "stage": 5.0}, {"download": 2.0})
    )
    assert found.steps("row") == {"download": 2.0, "stage": 5.0}


def test_steps_are_read_from_the_metrics() -> None:
    page = """
perago_worker_phase_duration_seconds_bucket{le="0.1",phase="download",task="a"} 1.0
perago_worker_phase_duration_seconds_count{phase="download",task="a"} 1.0
perago_worker_phase_duration_seconds_sum{phase="download",task="a"} 0.25
perago_worker_phase_duration_seconds_count{phase="download",task="b"} 2.0
perago_worker_phase_duration_seconds_sum{phase="download",task="b"} 0.5
perago_worker_slots{task="a"} 1.0
"""
    assert step_times(page) == {"download": (0.75, 3.0)}


# --- report ---------------------------------------------------------------------------------------


def test_the_table_shows_middle_spread_and_ratio() -> None:
    out = io.StringIO()
    report.show(results(), [ROW, CURVE], Console(file=out, width=120))
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert ["worker", "4.00", "(3.00-9.00)", "2.00x"] in lines
    assert ["limit", "2.00", "(2.00-2.00)"] in lines
    assert ["row", "half", "of", "perago", "4.00", "10.0", "yes"] in lines
    assert "a curve" not in out.getvalue()


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0"), (0.1234, "0.123"), (1.234, "1.23"), (12.34, "12.3"), (4028.4, "4,028")],
)
def test_numbers_have_three_digits_that_mean_something(value: float, expected: str) -> None:
    assert report.number(value) == expected


def test_json_tells_what_was_measured_and_not_where() -> None:
    rows = results().to_json([ROW, CURVE])
    assert [row["row"] for row in rows] == ["row"]
    assert rows[0]["goals"] == [{"goal": "half of perago", "met": True}]
    assert {"contender": "worker", "metric": "s", "value": 4.0, "low": 3.0, "high": 9.0,
            "count": 3} in rows[0]["summaries"]  # fmt: skip
    assert len(rows[0]["samples"]) == 7
    assert json.dumps(rows)
    assert set(report.circumstances()) == {"date", "processors", "versions"}


def test_figures_go_between_the_marks_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "speed.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    for _ in range(2):
        report.renew(page, report.markdown(results(), [ROW]))
    text = page.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n\n")
    assert text.endswith(f"\n{report.END}\nafter\n")
    assert "old" not in text
    assert text.count("| worker | 4.00 (3.00-9.00) 2.00x |") == 1


def test_temporary_folders_are_in_one_for_the_time_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    said = [sys.executable, "-c", "import tempfile; print(tempfile.gettempdir())"]
    with temporary_files_apart() as folder:
        inside = Path(tempfile.mkdtemp())
        child = subprocess.run(said, capture_output=True, text=True, check=True).stdout.strip()
        command = ["lsattr", "-d", str(folder)]
        flags = subprocess.run(command, capture_output=True, text=True, check=False)
    assert flags.returncode != 0 or "T" in flags.stdout.split()[0]  # not every file system has it
    assert folder.parent == tmp_path
    assert (inside.parent, child) == (folder, str(folder))
    assert not folder.exists()
    assert tempfile.gettempdir() == str(tmp_path)


def test_every_row_has_a_name_of_its_own() -> None:
    keys = [row.key for measurement in MEASUREMENTS.values() for row in measurement.rows]
    assert len(keys) == len(set(keys))
    for measurement in MEASUREMENTS.values():
        for row in measurement.rows:
            assert all(goal.metric < len(row.metrics) for goal in row.goals)
    assert QUICK.rounds == 1


# --- relay ----------------------------------------------------------------------------------------


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


def test_the_relay_counts_requests_and_passes_everything_on() -> None:
    """A body that quotes a request line without its end is none."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    Thread(target=server.serve_forever, daemon=True).start()
    body = b"GET /quoted HTTP/1.1" + bytes(200_000)
    with relayed(f"http://127.0.0.1:{server.server_port}/api") as (address, traffic):
        assert address.endswith("/api")
        for path in ("tasks/poll?count=1", "tasks"):
            request = urllib.request.Request(f"{address}/{path}", data=body)  # noqa: S310
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                assert answer.read() == body
    server.shutdown()
    server.server_close()
    assert [path for _, _, path in traffic.requests] == ["/api/tasks/poll", "/api/tasks"]
    assert traffic.count("/poll") == 1
    assert traffic.bytes_up > 2 * len(body)
    assert traffic.bytes_down > 2 * len(body)
