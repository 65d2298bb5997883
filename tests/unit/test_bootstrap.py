"""The wiring: what the configuration and the tasks' definitions make of a worker."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from perago_worker import ExecutionLimits
from perago_worker.bootstrap.watching import config_hash, slot_count
from perago_worker.config import load_config
from perago_worker.task import TaskDefinition
from tests.tasks.probe import plain

CONFIG = """
[worker]
modules = ["tests.tasks.probe"]
concurrency = 3
[queue]
kind = "local"
[store]
kind = "local"
"""


@pytest.mark.parametrize(("limit", "slots"), [(None, 3), (0, 3), (2, 2), (3, 3), (5, 3)])
def test_there_are_no_more_slots_than_attempts_that_may_run(
    tmp_path: Path, limit: int | None, slots: int
) -> None:
    """What is polled beyond the limit of a task, Conductor holds back for a minute."""
    file = tmp_path / "worker.toml"
    file.write_text(CONFIG)
    definition = TaskDefinition.of(plain)
    limits = ExecutionLimits(concurrent_exec_limit=limit)
    controls = definition.controls.model_copy(update={"limits": limits})

    count = slot_count(load_config(file, environ={}), replace(definition, controls=controls))

    assert count == slots


def test_the_hash_of_a_configuration_follows_its_settings(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_text(CONFIG)
    first = config_hash(load_config(file, environ={}))
    file.write_text(f"# the same\n{CONFIG}")
    same = config_hash(load_config(file, environ={"PERAGO_WORKER__CONCURRENCY": "3"}))
    other = config_hash(load_config(file, environ={"PERAGO_WORKER__CONCURRENCY": "4"}))

    assert first == same != other
    assert len(first) == 12
