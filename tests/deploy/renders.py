"""What the tests look at: the chart with two sets of values, and three kustomizations.

`python -m tests.deploy.renders` renews the golden files after a change that was meant.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from deploy import render

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"
VALUES = HERE / "values"

NAMES = (
    "helm-default",
    "helm-everything",
    "kustomize-base",
    "kustomize-overlays-dev",
    "kustomize-overlays-production",
)


@cache
def rendered(name: str) -> str:
    """Return a render by its name."""
    kind, _, rest = name.partition("-")
    if kind == "helm":
        return render.helm(VALUES / f"{rest}.yaml")
    return render.kustomize(render.KUSTOMIZE / rest.replace("-", "/"))


def documents(name: str) -> list[dict[str, Any]]:
    """Return the resources of a render."""
    return [each for each in yaml.safe_load_all(rendered(name)) if each]


def one(name: str, kind: str) -> dict[str, Any]:
    """Return the resource of a kind; the first one where there are several."""
    return next(each for each in documents(name) if each["kind"] == kind)


def worker_toml(name: str) -> str:
    """Return the configuration that a render's pods read."""
    texts = [
        each["data"]["worker.toml"]
        for each in documents(name)
        if "worker.toml" in each.get("data", {})
    ]
    assert len(texts) == 1
    return str(texts[0])


def golden(name: str) -> str:
    """Return a render for comparison: one order, and without the text of dashboard and alerts."""
    resources = documents(name)
    for each in resources:
        if "perago-worker.json" in each.get("data", {}):
            title = json.loads(each["data"]["perago-worker.json"])["title"]
            each["data"]["perago-worker.json"] = f"(the dashboard {title})"
        if each["kind"] == "PrometheusRule":
            for group in each["spec"]["groups"]:
                group["rules"] = [rule["alert"] for rule in group["rules"]]
    return "---\n".join(yaml.safe_dump(each) for each in resources)


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for each in NAMES:
        (GOLDEN / f"{each}.yaml").write_text(golden(each), encoding="utf-8")
