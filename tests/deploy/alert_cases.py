"""What happens to workers, and which alert fires at it."""

from __future__ import annotations

from typing import NamedTuple

WORKER = {"job": "workers", "instance": "w-1"}
TASK = {"job": "workers", "task": "shop.sum"}
BOTH = {**WORKER, "task": "shop.sum"}
IDLE = "+Inf +Inf +Inf +Inf +Inf"
"""Five minutes of a lease when nothing runs: promtool repeats no infinity."""


class Case(NamedTuple):
    """What happened, sampled every minute, and the labels of the alert that fires, if one does.

    Values are in promtool's notation: `0+2x30` is 0, 2, 4 ... 60, `0x30` is thirty-one zeros.
    """

    alert: str
    story: str
    series: dict[str, str]
    minutes: int
    fires: dict[str, str] | None


def worker(name: str, **labels: str) -> str:
    """Return a series of the worker itself."""
    return _series(name, {**WORKER, **labels})


def task(name: str, **labels: str) -> str:
    """Return a series of one task type."""
    return _series(name, {**BOTH, **labels})


def _series(name: str, labels: dict[str, str]) -> str:
    full = name if name.startswith("process_") else f"perago_worker_{name}"
    return full + braced(labels)


def braced(labels: dict[str, str]) -> str:
    """Return labels as they stand behind the name of a series."""
    return "{" + ", ".join(f'{key}="{value}"' for key, value in labels.items()) + "}"


def polling(*, last: str, busy: str, running: str = "1x40") -> dict[str, str]:
    """Return what tells whether a worker polls: time of the last poll, busy slots of two, state."""
    return {
        task("last_successful_poll_timestamp_seconds"): last,
        task("slots_busy"): busy,
        task("slots"): "2x40",
        worker("state", state="running"): running,
    }


def attempts(**outcomes: str) -> dict[str, str]:
    """Return how attempts ended."""
    return {
        task("attempts_total", outcome=outcome, reason="x"): values
        for outcome, values in outcomes.items()
    }


def histogram(name: str, *, below: dict[str, str]) -> dict[str, str]:
    """Return a histogram's buckets."""
    return {task(f"{name}_bucket", le=bound): values for bound, values in below.items()}


CASES = [
    Case(
        "PeragoWorkerNotPolling",
        "the last poll stays where it was, slots are free",
        polling(last="60x40", busy="0x40"),
        20,
        BOTH,
    ),
    Case("PeragoWorkerNotPolling", "it polls", polling(last="0+60x40", busy="0x40"), 20, None),
    Case(
        "PeragoWorkerNotPolling",
        "every slot is busy with a long body",
        polling(last="60x40", busy="2x40"),
        20,
        None,
    ),
    Case(
        "PeragoWorkerNotPolling",
        "it drains",
        polling(last="60x40", busy="0x40", running="0x40"),
        20,
        None,
    ),
    Case(
        "PeragoWorkerNotAnswering",
        "it was scraped, and is no more",
        {
            f"up{braced(WORKER)}": "1x9 0x20",
            worker("build_info", version="1.0.0"): "1x9",
        },
        20,
        WORKER,
    ),
    Case(
        "PeragoWorkerNotAnswering",
        "a scrape fails, and the next ones do not",
        {
            f"up{braced(WORKER)}": "1x9 0x2 1x20",
            worker("build_info", version="1.0.0"): "1x9 stale stale stale 1x20",
        },
        20,
        None,
    ),
    Case(
        "PeragoWorkerNotAnswering",
        "something else of the job is down",
        {f"up{braced(WORKER)}": "0x30"},
        20,
        None,
    ),
    Case(
        "PeragoWorkerPollErrors",
        "one poll of two fails",
        {
            task("polls_total", outcome="error"): "0+1x40",
            task("polls_total", outcome="empty"): "0+1x40",
        },
        30,
        TASK,
    ),
    Case(
        "PeragoWorkerPollErrors",
        "one poll of twenty fails",
        {
            task("polls_total", outcome="error"): "0+1x40",
            task("polls_total", outcome="empty"): "0+19x40",
        },
        30,
        None,
    ),
    Case(
        "PeragoWorkerAttemptsFail",
        "one attempt of three fails",
        attempts(failed="0+1x60", completed="0+2x60"),
        50,
        TASK,
    ),
    Case(
        "PeragoWorkerAttemptsFail",
        "one attempt of a hundred fails",
        attempts(terminal="0+1x60", completed="0+99x60"),
        50,
        None,
    ),
    Case(
        "PeragoWorkerAttemptsFail",
        "the only attempt of a quiet hour fails",
        attempts(failed="0x20 1x40", completed="0x60"),
        40,
        None,
    ),
    Case("PeragoWorkerLeasesLost", "a lease is lost", attempts(superseded="0x10 1x30"), 15, TASK),
    Case(
        "PeragoWorkerLeasesLost",
        "attempts complete",
        attempts(superseded="0x40", completed="0+5x40"),
        15,
        None,
    ),
    Case(
        "PeragoWorkerLostRace",
        "a commit arrived within the merge",
        {task("publications_total", outcome="lost_race"): "0x10 1x30"},
        15,
        TASK,
    ),
    Case(
        "PeragoWorkerLostRace",
        "a publication is refused, which is no harm",
        {
            task("publications_total", outcome="lost_race"): "0x40",
            task("publications_total", outcome="refused"): "0+1x40",
        },
        15,
        None,
    ),
    Case(
        "PeragoWorkerPublishBudgetBurns",
        "half of the merges take nearly all of it",
        histogram(
            "publish_budget_used_ratio",
            below={"0.5": "0+1x90", "0.9": "0+1x90", "1": "0+2x90", "+Inf": "0+2x90"},
        ),
        90,
        TASK,
    ),
    Case(
        "PeragoWorkerPublishBudgetBurns",
        "merges take a tenth of it",
        histogram(
            "publish_budget_used_ratio", below={"0.1": "0+2x90", "1": "0+2x90", "+Inf": "0+2x90"}
        ),
        90,
        None,
    ),
    Case(
        "PeragoWorkerHeartbeatsLate",
        "one heartbeat of ten is late by more than five seconds",
        histogram(
            "heartbeat_delay_seconds", below={"5": "0+9x40", "10": "0+10x40", "+Inf": "0+10x40"}
        ),
        30,
        WORKER,
    ),
    Case(
        "PeragoWorkerHeartbeatsLate",
        "heartbeats are on time",
        histogram(
            "heartbeat_delay_seconds",
            below={"0.01": "0+9x40", "0.05": "0+10x40", "+Inf": "0+10x40"},
        ),
        30,
        None,
    ),
    Case(
        "PeragoWorkerHeartbeatErrors",
        "none is answered",
        {
            worker("heartbeats_total", outcome="error"): "0+6x40",
            worker("heartbeats_total", outcome="held"): "10x40",
        },
        20,
        WORKER,
    ),
    Case(
        "PeragoWorkerHeartbeatErrors",
        "one of seven is not answered",
        {
            worker("heartbeats_total", outcome="error"): "0+1x40",
            worker("heartbeats_total", outcome="held"): "0+6x40",
        },
        20,
        None,
    ),
    Case(
        "PeragoWorkerBodiesCrash",
        "a child ends every minute",
        {worker("child_restarts_total", cause="ended"): "0+1x40"},
        20,
        WORKER,
    ),
    Case(
        "PeragoWorkerBodiesCrash",
        "children are recycled, and one has crashed",
        {
            worker("child_restarts_total", cause="recycled"): "0+3x40",
            worker("child_restarts_total", cause="ended"): "0x15 1x25",
        },
        20,
        None,
    ),
    Case(
        "PeragoWorkerServiceFailed",
        "a part failed once",
        {worker("service_failures_total", service="janitor"): "0x10 1x30"},
        15,
        {**WORKER, "service": "janitor"},
    ),
    Case(
        "PeragoWorkerServiceFailed",
        "none has failed since long ago",
        {worker("service_failures_total", service="janitor"): "3x90"},
        80,
        None,
    ),
    Case(
        "PeragoWorkerTasksNotGivenBack",
        "the queue does not take one",
        {task("tasks_given_back_total", outcome="error"): "0x10 1x30"},
        15,
        TASK,
    ),
    Case(
        "PeragoWorkerTasksNotGivenBack",
        "the queue takes them",
        {
            task("tasks_given_back_total", outcome="error"): "0x40",
            task("tasks_given_back_total", outcome="ok"): "0+2x40",
        },
        15,
        None,
    ),
    Case(
        "PeragoWorkerSlotsFull",
        "both are busy for an hour",
        {task("slots_busy"): "2x70", task("slots"): "2x70", task("queue_depth"): "5x70"},
        60,
        TASK,
    ),
    Case(
        "PeragoWorkerSlotsFull",
        "one of them is free every ten minutes",
        {task("slots_busy"): "2x9 1 2x9 1 2x9 1 2x9 1 2x9 1 2x9", task("slots"): "2x70"},
        58,
        None,
    ),
    Case(
        "PeragoWorkerSlotsFull",
        "both are busy for an hour, and nothing waits",
        {task("slots_busy"): "2x70", task("slots"): "2x70", task("queue_depth"): "0x70"},
        60,
        None,
    ),
    Case(
        "PeragoWorkerStalled",
        "a poller is stuck",
        {worker("watchdog_stalls_total", service="poller"): "0x10 1x30"},
        15,
        {**WORKER, "service": "poller"},
    ),
    Case(
        "PeragoWorkerStalled",
        "nothing is stuck",
        {worker("watchdog_stalls_total", service="poller"): "0x40"},
        15,
        None,
    ),
    Case(
        "PeragoWorkerDiskLow",
        "half a gibibyte is left",
        {worker("workspace_disk_free_bytes"): "536870912x20"},
        15,
        WORKER,
    ),
    Case(
        "PeragoWorkerDiskLow",
        "it was low for a minute",
        {worker("workspace_disk_free_bytes"): "5368709120x9 536870912 5368709120x20"},
        15,
        None,
    ),
    Case(
        "PeragoWorkerRestarts",
        "it starts every five minutes",
        {
            worker("process_start_time_seconds"): "0x4 300x4 600x4 900x4 1200x4 1500x4 1800x4",
            worker("build_info", version="1.0.0"): "1x40",
        },
        30,
        WORKER,
    ),
    Case(
        "PeragoWorkerRestarts",
        "it was started once",
        {
            worker("process_start_time_seconds"): "0x10 600x30",
            worker("build_info", version="1.0.0"): "1x40",
        },
        30,
        None,
    ),
    Case(
        "PeragoWorkerVersionSkew",
        "two versions for two hours",
        {
            worker("build_info", version="1.0.0"): "1x120",
            _series("build_info", {**WORKER, "instance": "w-2", "version": "1.1.0"}): "1x120",
        },
        100,
        {"job": "workers"},
    ),
    Case(
        "PeragoWorkerVersionSkew",
        "two versions while a rollout takes its ten minutes",
        {
            worker("build_info", version="1.0.0"): "1x9 stale",
            _series("build_info", {**WORKER, "instance": "w-2", "version": "1.1.0"}): "1x120",
        },
        100,
        None,
    ),
    Case(
        "PeragoWorkerLeaseAlmostLost",
        "heartbeats stop being answered: of 120 s, 50 are left",
        {task("lease_remaining_seconds"): f"{IDLE} 100 110 90 100 110 50"},
        10,
        BOTH,
    ),
    Case(
        "PeragoWorkerLeaseAlmostLost",
        "heartbeats renew it, attempts end and others begin",
        {task("lease_remaining_seconds"): f"100 110 80 {IDLE} 120 85 100 {IDLE}"},
        9,
        None,
    ),
    Case(
        "PeragoWorkerLeaseAlmostLost",
        "nothing runs",
        {task("lease_remaining_seconds"): f"100 50 {IDLE} {IDLE} {IDLE}"},
        10,
        None,
    ),
    Case(
        "PeragoWorkerOrphanBranches",
        "two workers have left thirty",
        {
            worker("orphan_staging_branches"): "20x60",
            _series("orphan_staging_branches", {**WORKER, "instance": "w-2"}): "10x60",
        },
        45,
        {"job": "workers"},
    ),
    Case(
        "PeragoWorkerOrphanBranches",
        "some were left during an outage and are swept",
        {worker("orphan_staging_branches"): "0x5 25x20 0x40"},
        45,
        None,
    ),
]
