"""Every alert fires when it should, is quiet when it should be, and leads to its runbook."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.deploy.alert_cases import CASES, Case, braced
from tests.deploy.metric_names import asked_for, labels_asked_for, registered
from tests.deploy.promtool import ROOT, RULES, alerts, promtool


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}: {case.story}")
def test_alert_fires_when_it_should(case: Case, tmp_path: Path) -> None:
    file = tmp_path / "case.yaml"
    file.write_text(yaml.safe_dump(as_promtool_test(case)), encoding="utf-8")
    result = promtool("test", "rules", str(file))
    assert result.returncode == 0, result.stdout + result.stderr


def as_promtool_test(case: Case) -> dict[str, object]:
    """Return a file of promtool's: asks for the series that Prometheus makes of firing alerts."""
    firing = {"alertname": case.alert, "alertstate": "firing"}
    severity = alerts()[case.alert]["labels"]["severity"]
    labels = {**firing, "severity": severity, **(case.fires or {})}
    expected = [{"labels": braced(labels), "value": 1}] if case.fires else []
    # Only some labels are compared: filters let all those of the series through.
    question = {"expr": f"max by ({', '.join(labels)}) (ALERTS{braced(firing)})"}
    series = [{"series": name, "values": values} for name, values in case.series.items()]
    return {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": series,
                "promql_expr_test": [
                    {**question, "eval_time": f"{case.minutes}m", "exp_samples": expected}
                ],
            }
        ],
    }


def test_every_alert_has_both_kinds_of_case() -> None:
    assert {case.alert for case in CASES if case.fires} == set(alerts())
    assert {case.alert for case in CASES if not case.fires} == set(alerts())


def test_rules_are_well_formed() -> None:
    result = promtool("check", "rules", str(RULES))
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_leads_to_its_section_of_the_runbooks() -> None:
    page = (ROOT / "docs/runbooks.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (PeragoWorker\w+)$", page, re.MULTILINE) == list(alerts())
    for name, rule in alerts().items():
        assert rule["annotations"]["runbook"] == f"docs/runbooks.md#{name.lower()}"
        section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert "**Look at**" in section
        assert "**Do**" in section


def test_metrics_and_labels_in_alerts_exist() -> None:
    exist = registered()
    for name, rule in alerts().items():
        own = {each for each in asked_for(rule["expr"]) if each.startswith("perago_worker_")}
        assert own, f"{name} looks at nothing"
        assert own <= set(exist), f"{name} asks for what no worker has"
        for metric, label in labels_asked_for(rule["expr"]):
            assert label in exist[metric], f"{name}: {metric} has no label {label}"
