"""Prometheus's own tool, for rules and expressions."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/alerts/perago-worker.rules.yaml"


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run promtool; `output` of the result holds what it said."""
    command = shutil.which("promtool")
    if command is None:
        pytest.fail("promtool is missing; Debian has it in its package prometheus")
    return subprocess.run(
        [command, *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def alerts() -> dict[str, dict[str, Any]]:
    """Return every alert of the rules by its name."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}
