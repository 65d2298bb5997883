"""Defaults, bounds and messages of what an author asks of the queue."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from perago_worker import models
from perago_worker.models import (
    ExecutionLimits,
    PublishBudget,
    RetryPolicy,
    TaskControls,
    TimeoutPolicy,
)

BUDGET = {
    "observed_merge_p99_seconds": 20,
    "safety_margin_seconds": 10,
    "lakefs_merge_timeout_seconds": 45,
    "conductor_completion_timeout_seconds": 15,
    "worker_shutdown_grace_seconds": 30,
    "heartbeat_interval_seconds": 10,
}


def errors_of(model: type[BaseModel], **fields: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        model(**fields)
    return str(caught.value)


def test_constants() -> None:
    """The names and values are part of the contract for authors."""
    names = [name for name in models.__all__ if name.startswith(("DEFAULT_", "MAX_RETRY_"))]
    values = {name: getattr(models, name) for name in names}
    assert values == {
        "DEFAULT_RETRY_COUNT": 3,
        "MAX_RETRY_COUNT": 10,
        "DEFAULT_RETRY_LOGIC": "FIXED",
        "DEFAULT_RETRY_DELAY_SECONDS": 60,
        "DEFAULT_RETRY_MAX_DELAY_SECONDS": 0,
        "DEFAULT_RETRY_JITTER_MS": 0,
        "DEFAULT_TIMEOUT_POLICY": "TIME_OUT_WF",
        "DEFAULT_TIMEOUT_SECONDS": 0,
        "DEFAULT_TIMEOUT_RESPONSE_SECONDS": 600,
        "DEFAULT_TIMEOUT_POLL_SECONDS": 0,
        "DEFAULT_TIMEOUT_TOTAL_SECONDS": 0,
    }


@pytest.mark.parametrize(
    ("model", "defaults"),
    [
        (
            RetryPolicy,
            {
                "count": 3,
                "logic": "FIXED",
                "delay_seconds": 60,
                "max_delay_seconds": 0,
                "jitter_ms": 0,
            },
        ),
        (
            TimeoutPolicy,
            {
                "policy": "TIME_OUT_WF",
                "seconds": 0,
                "response_seconds": 600,
                "poll_seconds": 0,
                "total_seconds": 0,
            },
        ),
        (
            ExecutionLimits,
            {
                "concurrent_exec_limit": None,
                "rate_limit_frequency_in_seconds": None,
                "rate_limit_per_frequency": None,
            },
        ),
    ],
)
def test_defaults(model: type[BaseModel], defaults: dict[str, Any]) -> None:
    assert model().model_dump() == defaults


def test_controls_default_to_the_defaults_of_their_parts() -> None:
    controls = TaskControls()
    assert controls.retry == RetryPolicy()
    assert controls.timeout == TimeoutPolicy()
    assert controls.limits == ExecutionLimits()
    assert controls.publish_budget is None


def test_controls_do_not_share_their_parts() -> None:
    """Policies may be changed in place, which must not reach into other tasks."""
    first, second = TaskControls(), TaskControls()
    first.retry.count = 9
    assert second.retry.count == 3


@pytest.mark.parametrize(
    ("model", "field", "least", "most"),
    [
        (RetryPolicy, "count", 0, 10),
        (RetryPolicy, "delay_seconds", 0, None),
        (RetryPolicy, "max_delay_seconds", 0, None),
        (RetryPolicy, "jitter_ms", 0, None),
        (TimeoutPolicy, "seconds", 0, None),
        (TimeoutPolicy, "response_seconds", 0, None),
        (TimeoutPolicy, "poll_seconds", 0, None),
        (TimeoutPolicy, "total_seconds", 0, None),
        (ExecutionLimits, "concurrent_exec_limit", 0, None),
    ],
)
def test_bounds(model: type[BaseModel], field: str, least: int, most: int | None) -> None:
    assert getattr(model(**{field: least}), field) == least
    assert field in errors_of(model, **{field: least - 1})
    if most is None:
        assert getattr(model(**{field: 10**9}), field) == 10**9
    else:
        assert getattr(model(**{field: most}), field) == most
        assert field in errors_of(model, **{field: most + 1})
    assert field in errors_of(model, **{field: 1.5})


@pytest.mark.parametrize("logic", ["FIXED", "EXPONENTIAL_BACKOFF", "LINEAR_BACKOFF"])
def test_retry_logics(logic: Any) -> None:
    assert RetryPolicy(logic=logic).logic == logic


@pytest.mark.parametrize("policy", ["RETRY", "TIME_OUT_WF", "ALERT_ONLY"])
def test_timeout_policies(policy: Any) -> None:
    assert TimeoutPolicy(policy=policy).policy == policy


def test_unknown_words_are_refused_and_shown() -> None:
    assert "'fixed'" in errors_of(RetryPolicy, logic="fixed")
    assert "'NEVER'" in errors_of(TimeoutPolicy, policy="NEVER")


@pytest.mark.parametrize(
    "model", [RetryPolicy, TimeoutPolicy, ExecutionLimits, PublishBudget, TaskControls]
)
def test_unknown_fields_are_refused_by_name(model: type[BaseModel]) -> None:
    known = BUDGET if model is PublishBudget else {}
    assert "retries" in errors_of(model, **known, retries=1)


@pytest.mark.parametrize("model", [RetryPolicy, TimeoutPolicy, ExecutionLimits, TaskControls])
def test_policies_may_be_changed(model: type[BaseModel]) -> None:
    assert not model.model_config.get("frozen")


def test_rate_limit_is_set_whole() -> None:
    limits = ExecutionLimits(rate_limit_frequency_in_seconds=5, rate_limit_per_frequency=2)
    assert (limits.rate_limit_frequency_in_seconds, limits.rate_limit_per_frequency) == (5, 2)


@pytest.mark.parametrize("given", ["rate_limit_frequency_in_seconds", "rate_limit_per_frequency"])
def test_half_a_rate_limit_is_refused(given: str) -> None:
    """The message names both fields and what they were."""
    message = errors_of(ExecutionLimits, **{given: 7})
    assert f"{given} is 7" in message
    assert "is None" in message


def test_half_a_rate_limit_is_refused_when_zero() -> None:
    """Zero is a value; only None is none."""
    errors_of(ExecutionLimits, rate_limit_per_frequency=0)


def test_budget_sums_up() -> None:
    assert PublishBudget(**BUDGET).response_timeout_seconds == 45 + 15 + 30 + 10


@pytest.mark.parametrize("field", BUDGET)
def test_every_field_of_a_budget_is_needed(field: str) -> None:
    rest = {name: value for name, value in BUDGET.items() if name != field}
    assert field in errors_of(PublishBudget, **rest)


@pytest.mark.parametrize(
    ("field", "least"),
    [(name, 0 if "observed" in name or "margin" in name else 1) for name in BUDGET],
)
def test_bounds_of_a_budget(field: str, least: int) -> None:
    fitting = {"observed_merge_p99_seconds": 0, "safety_margin_seconds": 0}
    assert getattr(PublishBudget(**{**BUDGET, **fitting, field: least}), field) == least
    assert field in errors_of(PublishBudget, **{**BUDGET, **fitting, field: least - 1})


def test_merge_timeout_covers_the_observation_exactly() -> None:
    budget = PublishBudget(**{**BUDGET, "lakefs_merge_timeout_seconds": 30})
    assert budget.lakefs_merge_timeout_seconds == 30


def test_merge_timeout_below_the_observation_is_refused() -> None:
    """The message names the three fields, their values and what would do."""
    message = errors_of(PublishBudget, **{**BUDGET, "lakefs_merge_timeout_seconds": 29})
    assert "lakefs_merge_timeout_seconds is 29" in message
    assert "observed_merge_p99_seconds (20)" in message
    assert "safety_margin_seconds (10)" in message
    assert "at least 30" in message


def test_budget_is_frozen() -> None:
    budget = PublishBudget(**BUDGET)
    with pytest.raises(ValidationError, match="frozen"):
        budget.safety_margin_seconds = 1  # type: ignore[misc]  # that is the test


def test_budget_does_not_change_the_response_timeout() -> None:
    controls = TaskControls(
        timeout=TimeoutPolicy(response_seconds=7), publish_budget=PublishBudget(**BUDGET)
    )
    assert controls.response_timeout_seconds == 7
