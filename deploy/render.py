#!/usr/bin/env python3
"""Render the chart and the kustomizations; fetch the two tools for it by name of their Go modules.

    python deploy/render.py tools              # build helm and kustomize into the cache, once
    python deploy/render.py copies             # renew what chart and kustomize hold of the alerts

Helm is built in a minute and a half on two cores, kustomize in half a minute; both are kept in
deploy/.cache, or where PERAGO_DEPLOY_CACHE says. Needs Go.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import indent

if __name__ == "__main__":
    # Run as a file, this is part of no package: let it find the modules beside it by their names.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from deploy.servers.install import download
from deploy.servers.tools import ServersError, find_go, say

HERE = Path(__file__).resolve().parent
CHART = HERE / "helm/perago-worker"
KUSTOMIZE = HERE / "kustomize"
RULES = HERE / "alerts/perago-worker.rules.yaml"
DASHBOARD = HERE / "dashboards/perago-worker.json"

MODULES = {
    "helm": "helm.sh/helm/v3/cmd/helm@v3.18.4",
    "kustomize": "sigs.k8s.io/kustomize/kustomize/v5@v5.7.1",
}


PROMETHEUS_RULE = """\
# Made from deploy/alerts by `python deploy/render.py copies`.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: perago-worker
spec:
"""


class RenderError(Exception):
    """A chart or kustomization cannot be rendered; the message is the tool's."""


def tool(name: str) -> Path:
    """Return the path of helm or kustomize, building it first where it is not in the cache yet.

    Raises:
        ServersError: There is no Go, or the module could not be fetched or built.
    """
    cache = Path(os.environ.get("PERAGO_DEPLOY_CACHE") or HERE / ".cache").absolute()
    module, _, version = MODULES[name].rpartition("@")
    binary = cache / version / name
    if not binary.exists():
        say(f"Building {name} {version} ...")
        binary.parent.mkdir(parents=True, exist_ok=True)
        go = ["env", f"GOBIN={binary.parent}", "GOFLAGS=-trimpath", str(find_go())]
        download([*go, "install", "-ldflags", "-s -w", f"{module}@{version}"], cwd=binary.parent)
    return binary


def helm(*values: Path, sets: dict[str, str] | None = None, kubernetes: str = "1.36") -> str:
    """Return the chart as a release named `shop` in the namespace `perago`.

    Raises:
        RenderError: The chart refuses the values.
    """
    options = [option for file in values for option in ("--values", str(file))]
    for key, value in (sets or {}).items():
        options += ["--set", f"{key}={value}"]
    where = ["--namespace", "perago", "--kube-version", kubernetes]
    return _run(tool("helm"), "template", "shop", str(CHART), *where, *options)


def lint(*values: Path) -> str:
    """Return what helm has to say about the chart with these values.

    Raises:
        RenderError: It finds an error, or something to warn about.
    """
    options = [option for file in values for option in ("--values", str(file))]
    return _run(tool("helm"), "lint", "--strict", str(CHART), *options)


def kustomize(folder: Path) -> str:
    """Return a kustomization, rendered.

    Raises:
        RenderError: It cannot be.
    """
    return _run(tool("kustomize"), "build", str(folder))


def _run(*command: str | Path) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)  # noqa: S603 -- our own tools
    if result.returncode:
        raise RenderError(result.stderr or result.stdout)
    return result.stdout


def copies() -> dict[Path, str]:
    """Return what the chart and kustomize hold of alerts and dashboard: neither reads outside."""
    rules, dashboard = RULES.read_text(encoding="utf-8"), DASHBOARD.read_text(encoding="utf-8")
    resource = PROMETHEUS_RULE + indent(rules[rules.index("groups:") :], "  ")
    return {
        CHART / "files" / RULES.name: rules,
        CHART / "files" / DASHBOARD.name: dashboard,
        KUSTOMIZE / "components/monitoring" / DASHBOARD.name: dashboard,
        KUSTOMIZE / "components/monitoring/prometheusrule.yaml": resource,
    }


def main(arguments: list[str]) -> int:
    """Do what the one argument names."""
    match arguments:
        case ["tools"]:
            try:
                for name in MODULES:
                    print(tool(name))  # noqa: T201 -- a command
            except ServersError as error:
                say(str(error))
                return 1
        case ["copies"]:
            for path, text in copies().items():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
        case _:
            say(__doc__ or "")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
