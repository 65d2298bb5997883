"""The examination over both real servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from perago_worker.cli.diagnosis import Level
from perago_worker.cli.doctor import examine
from perago_worker.cli.exits import Exit
from tests.integration.platform import Platform

pytestmark = pytest.mark.servers


def test_a_platform_that_is_well(platform: Platform, tmp_path: Path) -> None:
    """Every step on the way is told; a hidden branch is made and dropped; no fence is a warning."""
    repository, _ = platform.repository({"data/in.txt": b"input"})
    config = platform.write_config(tmp_path)

    diagnosis = examine(config, [repository, f"{repository}@nowhere"], write=True)

    told = {line.what: line.level for line in diagnosis.lines}
    for server in ("conductor", "lakefs"):
        for step in ("name", "port", "clock"):
            assert told[f"{server} {step}"] is Level.OK
    assert (told["queue"], told["store"], told["definitions"]) == (Level.OK,) * 3
    assert (told[f"{repository} read"], told[f"{repository} write"]) == (Level.OK,) * 2
    assert told[f"{repository} fence"] is Level.WARN
    assert told[f"{repository}@nowhere"] is Level.FAIL
    assert diagnosis.code is Exit.UNEXPECTED
    assert platform.lakefs.store.stages(repository) == []


def test_keys_that_are_refused(platform: Platform, tmp_path: Path) -> None:
    config = platform.write_config(tmp_path)
    (tmp_path / "key").write_text("another")

    diagnosis = examine(config, [], write=False)

    (store,) = (line for line in diagnosis.lines if line.what == "store")
    assert store.level is Level.FAIL
    assert "store.secret_access_key_file" in store.todo
    assert diagnosis.code is Exit.UNAUTHORISED
