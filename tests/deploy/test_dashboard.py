"""The dashboard asks only for what workers have, in expressions that Prometheus understands."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.metric_names import asked_for, labels_asked_for, registered
from tests.deploy.promtool import ROOT, promtool

DASHBOARD = ROOT / "deploy/dashboards/perago-worker.json"
VARIABLES = {"$job": ".+", "$task": ".+", "$__rate_interval": "5m"}
"""What Grafana puts in place of its variables."""


def dashboard() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return content


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[str]:
    """Yield every expression as Prometheus gets it."""
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            yield expression


def test_every_expression_is_understood_by_prometheus(tmp_path: Path) -> None:
    """Promtool checks expressions only within rules."""
    rules = [
        {"record": f"panel:{number}", "expr": expression}
        for number, expression in enumerate(expressions())
    ]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    result = promtool("check", "rules", str(file))
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{len(rules)} rules found" in result.stdout


@pytest.mark.parametrize("expression", list(expressions()))
def test_metrics_and_labels_exist(expression: str) -> None:
    exist = registered()
    assert "$" not in expression
    assert asked_for(expression)
    assert asked_for(expression) <= set(exist)
    for metric, label in labels_asked_for(expression):
        assert label in exist[metric] | {"job", "instance"}, f"{metric} has no label {label}"


def test_every_metric_is_shown() -> None:
    """What is worth counting is worth a look, in one of its series at least."""
    shown = {name for expression in expressions() for name in asked_for(expression)}
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in registered()}
    seen = {re.sub(r"_(bucket|count|sum)$", "", name) for name in shown}
    assert {name for name in families - seen if name.startswith("perago_worker_")} == set()


def test_panels_do_not_overlap_and_fill_the_width() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(dashboard()["panels"])
    assert taken == {(x, y) for x in range(24) for y in range(max(y for _, y in taken) + 1)}
