"""`perago-worker status` and `stacks`: what a running worker is doing, asked over its own port."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping
from contextlib import closing
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from perago_worker.cli.exits import Exit, UsageError
from perago_worker.cli.options import ConfigOption, open_config
from perago_worker.telemetry.cache_board import cache_line
from perago_worker.telemetry.page import duration
from perago_worker.telemetry.text import aligned, visible

TIMEOUT_S = 10.0
WATCH_INTERVAL_S = 2.0
CLEAR = "\x1b[2J\x1b[H"

UrlOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Where the worker serves it, such as http://127.0.0.1:9464; taken from http.listen "
        "unless given.",
        show_default=False,
    ),
]


def status(
    ctx: typer.Context,
    *,
    url: UrlOption = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again every two seconds.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
    config: ConfigOption = None,
) -> None:
    """Show what a running worker is doing.

    The exit code is 0 while it is alive and ready, 1 when it is not, 3 when it does not answer.
    """
    base = url or address_of(ctx, config)
    while True:
        found = json.loads(ask(base, "/status.json"))
        text = json.dumps(found, indent=2) if as_json else as_text(found)
        typer.echo(f"{CLEAR}{text}" if watch and not as_json else text)
        if not watch:
            break
        time.sleep(WATCH_INTERVAL_S)
    if found["not_alive"] or found["not_ready"]:
        raise typer.Exit(Exit.UNEXPECTED)


def stacks(ctx: typer.Context, *, url: UrlOption = None, config: ConfigOption = None) -> None:
    """Show what every thread of a worker on this machine is doing."""
    typer.echo(visible(ask(url or address_of(ctx, config), "/stacks"), keep_lines=True))


def address_of(ctx: typer.Context, config: Any) -> str:
    """Return where the worker of a configuration serves its status, seen from this machine.

    Raises:
        UsageError: The configuration does not tell.
    """
    address = open_config(ctx, config).http.address
    if address is None or address[1] == 0:
        raise UsageError("http.listen names no port to ask at; give --url, which the log tells")
    host, port = address
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- asked, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def ask(base: str, path: str) -> str:
    """Return what a worker answers.

    Raises:
        UsageError: The address makes no sense, or something else answers there.
        typer.Exit: Nothing answers.
    """
    parts = urlsplit(base)
    if parts.scheme != "http" or not parts.hostname:
        raise UsageError(f"{base} is no address of a worker; expected http://HOST:PORT")
    try:
        with closing(
            http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=TIMEOUT_S)
        ) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        typer.echo(f"no worker answers at {base}: {error}", err=True)
        raise typer.Exit(Exit.UNREACHABLE) from None
    if answer.status != http.client.OK or answer.headers.get("Server") != "perago-worker":
        raise UsageError(f"{base}{path}: answered {answer.status}: {visible(body.strip()[:200])}")
    return body


def as_text(status: Mapping[str, Any]) -> str:
    """Return a status as lines for a terminal."""
    worker = status["worker"]
    lines = [
        ", ".join(
            (
                f"{worker['name']}: {worker['state']}",
                f"up {duration(worker['uptime_s'])}",
                f"version {worker['version']}",
                f"queue {worker['queue']}",
                f"store {worker['store']}",
            )
        ),
        *(f"not alive: {reason}" for reason in status["not_alive"]),
        *(f"not ready: {reason}" for reason in status["not_ready"]),
        f"content cache: {cache_line(status['cache'])}",
        "",
    ]
    tables = [
        [("TASK", "BUSY", "WAITING", "LAST POLL", "OUTCOMES"), *map(_task, status["tasks"])],
        [
            ("RUNNING", "TASK ID", "STEP", "AGE", "LEASE LEFT", "BRANCH", "PROGRESS"),
            *map(_attempt, status["attempts"]),
        ],
        [
            ("ENDED", "TASK ID", "OUTCOME", "CODE", "SECONDS", "COMMIT", "REASON"),
            *map(_finished, status["recent"][:10]),
        ],
    ]
    shown = [aligned([[visible(cell) for cell in row] for row in t]) for t in tables if len(t) > 1]
    return "\n".join([*map(visible, lines), "\n".join(shown)])


def _task(task: Mapping[str, Any]) -> tuple[str, ...]:
    polled = task["polled_ago_s"]
    return (
        task["name"],
        f"{task['busy']} of {task['slots']}",
        "-" if task["waiting"] is None else str(task["waiting"]),
        task["error"] or ("-" if polled is None else f"{duration(polled)} ago"),
        ", ".join(f"{count} {kind}" for kind, count in task["outcomes"].items()) or "-",
    )


def _attempt(attempt: Mapping[str, Any]) -> tuple[str, ...]:
    left = attempt["lease_left_s"]
    return (
        attempt["task"],
        attempt["task_id"],
        f"{attempt['step']} {duration(attempt['step_s'])}",
        duration(attempt["age_s"]),
        "-" if left is None else duration(left) if left > 0 else "lost",
        "@".join(part for part in (attempt["repository"], attempt["branch"]) if part) or "-",
        attempt["progress"] or "-",
    )


def _finished(attempt: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        attempt["task"],
        attempt["task_id"],
        attempt["outcome"],
        attempt["code"],
        f"{attempt['seconds']:.2f}",
        attempt["commit"][:12] or "-",
        attempt["reason"] or "-",
    )
