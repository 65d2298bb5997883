"""The status page: what `/status.json` says, for people.

Plain HTML with one style sheet in it, no script and nothing from elsewhere, so that it works in a
text browser and under the strictest policy. Every value is escaped where it is put in.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from perago_worker.telemetry.cache_board import cache_line
from perago_worker.telemetry.text import visible

REFRESH_S = 5
OLD_S = 3 * REFRESH_S
"""From then on the page says that it is old: a browser goes on showing it while a worker that is
paused takes the request for a new one and does not answer."""

SKEW_TOLD_S = 5.0
SKEW_BAD_S = 300.0
"""From where on signed addresses and tokens are refused; the former is what may be imprecision."""

STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#666;--bad:#c62828;--good:#2e7d32;--warn:#8f5300}
@media(prefers-color-scheme:dark){:root{--soft:#aaa;--bad:#ff8a80;--good:#a5d6a7;--warn:#ffcc80}}
body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;max-width:76rem;padding:.8rem 1rem 3rem;
overflow-wrap:anywhere}
h1{font-size:1.35rem;margin:.3rem 0}h2{font-size:1.05rem;margin:1.6rem 0 .3rem}
p{margin:.2rem 0}.soft{color:var(--soft)}.bad{color:var(--bad);font-weight:600}
.good{color:var(--good);font-weight:600}.warn{color:var(--warn);font-weight:600}
table{border-collapse:collapse;width:100%}
th{text-align:left;font-weight:600;color:var(--soft);font-size:.85rem}
th,td{padding:.3rem .7rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top;
overflow-wrap:break-word}
.id{font-family:ui-monospace,monospace;font-size:.85rem}
.name,.ids,.says{display:block;overflow-wrap:anywhere}
.name{min-width:12rem}.ids{width:20rem}.ids .soft{display:block}
.says{min-width:10rem;max-width:26rem}
.now::after{content:" Not renewed for OLD_S s: the worker does not answer.";color:var(--bad);
font-weight:600;font-size:0;animation:old 1ms OLD_Ss forwards}@keyframes old{to{font-size:1rem}}
ul{margin:.2rem 0;padding-left:1.2rem}footer{margin-top:1.6rem}
@media(max-width:72rem){
table,tbody,tr,td{display:block}thead{display:none}
tr{border:1px solid var(--line);border-radius:.4rem;margin:.5rem 0;padding:.3rem .6rem}
td{border:0;padding:.1rem 0;display:flex;gap:.6rem;overflow-wrap:anywhere}td:empty{display:none}
td::before{content:attr(data-label);color:var(--soft);flex:0 0 6.5rem;font-size:.85rem}
.name,.ids,.says{min-width:0;width:auto;max-width:none}.ids .soft{display:inline}
}
""".replace("OLD_S", str(OLD_S))
STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

POLICY = (
    f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of the page: its own style, an empty icon, and nothing else."""

_OUTCOMES = {"completed": "good", "failed": "bad", "terminal": "bad", "superseded": "warn"}
_STATES = {"running": "good", "draining": "warn", "starting": "warn", "stopped": "bad"}


class Html(str):
    """Text that is markup already, and is not escaped again."""

    __slots__ = ()


def page(status: Mapping[str, Any]) -> str:
    """Return the page for a status, as `/status.json` has it."""
    worker = status["worker"]
    parts = [
        _header(worker, status),
        _table("Tasks", _TASKS, (_task(each) for each in status["tasks"]), "none"),
        _table(
            "Attempts now",
            _ATTEMPTS,
            (_attempt(each) for each in status["attempts"]),
            "Nothing runs.",
        ),
        _table(
            "Last attempts",
            _RECENT,
            (_finished(each) for each in status["recent"]),
            "None has finished since the start.",
        ),
        f"<h2>Content cache</h2>\n<p>{_text(_sentence(cache_line(status['cache'])))}</p>",
        _table("Servers", _SERVERS, (_server(s) for s in status["servers"]), _no_server(worker)),
        _table("Parts", _SERVICES, (_service(s) for s in _worth_a_row(status)), "none"),
    ]
    title = f"{_state(status)} - {worker.get('name', '')} - perago-worker"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="refresh" content="{REFRESH_S}">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{_text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + '\n<footer class="soft">Read-only. The same as data: '
        '<a href="/status.json">/status.json</a>; '
        '<a href="/metrics">/metrics</a>, <a href="/livez">/livez</a>, '
        f'<a href="/readyz">/readyz</a>, <a href="/startupz">/startupz</a>, '
        f'<a href="/stacks">/stacks</a> (on the machine itself). '
        f"Renewed every {REFRESH_S} s.</footer>\n</body>\n</html>\n"
    )


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _wrong(status: Mapping[str, Any]) -> str:
    return "not alive" if status["not_alive"] else "not ready" if status["not_ready"] else ""


def _state(status: Mapping[str, Any]) -> str:
    return ", ".join(word for word in (status["worker"]["state"], _wrong(status)) if word)


def _header(worker: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    style = "bad" if _wrong(status) else _STATES.get(worker["state"], "soft")
    state = f'<span class="{style}">{_text(_state(status))}</span>'
    facts = ", ".join(
        _text(fact)
        for fact in (
            f"up {duration(worker['uptime_s'])}",
            f"version {worker['version']}",
            f"Python {worker['python']}",
            *(f"{key} {worker[key]}" for key in ("queue", "store", "config") if key in worker),
        )
    )
    reasons = [
        *(("not alive", reason) for reason in status["not_alive"]),
        *(("not ready", reason) for reason in status["not_ready"]),
    ]
    trouble = "".join(
        f'<li><span class="bad">{_text(what)}:</span> {_text(why)}</li>' for what, why in reasons
    )
    return (
        f"<h1>{_text(worker.get('name', 'perago-worker'))}: {state}</h1>\n<p>{facts}</p>\n"
        f'<p class="soft now">{_text(worker["now"])}, id <span class="id">'
        f"{_text(worker.get('id', ''))}</span></p>"
        + (f"\n<ul>{trouble}</ul>" if trouble else "\n<p>Alive and ready.</p>")
    )


# --- tables: headings, and a row of cells for each thing ------------------------------------------

_TASKS = ("Task", "Busy", "Waiting", "Last poll", "Polls", "Outcomes", "p50,\u00a0p95")
_ATTEMPTS = ("Task", "Id", "Step", "Age", "Lease left", "Branch", "Progress")
_RECENT = ("Ended", "Task", "Id", "Outcome", "Took", "Commit", "Reason")
_SERVERS = ("Server", "Answered", "Failed", "In a row", "Clock")
_SERVICES = ("Part", "Last progress", "Failure")


def _task(task: Mapping[str, Any]) -> Sequence[object]:
    polls = task["polls"]
    counts = _counts(
        {"with\u00a0tasks": polls["tasks"], "empty": polls["empty"], "failed": polls["error"]}
    )
    outcomes = _counts(task["outcomes"])
    polled = "not yet" if task["polled_ago_s"] is None else f"{_time(task['polled_ago_s'])} ago"
    if task["error"]:
        polled = Html(f'{_text(polled)} <span class="says bad">{_text(task["error"])}</span>')
    return (
        _name(task["name"]),
        f"{task['busy']} of {task['slots']}".replace(" ", "\u00a0"),
        "unknown" if task["waiting"] is None else task["waiting"],
        polled,
        counts,
        outcomes or "none",
        _times(task["p50_s"], task["p95_s"]),
    )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count}\u00a0{what}" for what, count in counts.items())


def _times(p50: float | None, p95: float | None) -> str:
    return "" if p50 is None or p95 is None else f"{_time(p50)}, {_time(p95)}"


def _attempt(attempt: Mapping[str, Any]) -> Sequence[object]:
    return (
        _name(attempt["task"]),
        _id(attempt),
        f"{attempt['step']}, for {_time(attempt['step_s'])}",
        _time(attempt["age_s"]),
        _lease(attempt),
        "@".join(part for part in (attempt["repository"], attempt["branch"]) if part),
        _says(attempt["progress"]),
    )


def _lease(attempt: Mapping[str, Any]) -> str:
    left = attempt["lease_left_s"]
    if left is None:
        return "unknown"
    share = left / attempt["lease_s"] if attempt["lease_s"] else 1.0
    style = "bad" if left <= 0 else "warn" if share < 1 / 3 else ""
    text = _text(_time(left) if left > 0 else "lost")
    return Html(f'<span class="{style}">{text}</span>' if style else text)


def _finished(attempt: Mapping[str, Any]) -> Sequence[object]:
    unreported = attempt["outcome"] in {"completed", "failed", "terminal"}
    note = " (not reported)" if unreported and not attempt["reported"] else ""
    return (
        attempt["ended_at"].partition("T")[2].removesuffix("+00:00"),
        _name(attempt["task"]),
        _id(attempt),
        Html(f"{_mark(attempt['outcome'], _OUTCOMES)} {_text(attempt['code'] + note)}"),
        _time(attempt["seconds"]),
        Html(f'<span class="id">{_text(attempt["commit"][:12])}</span>')
        if attempt["commit"]
        else "",
        _says(attempt["reason"]),
    )


def _server(server: Mapping[str, Any]) -> Sequence[object]:
    failing = server["failures"]
    return (
        server["name"],
        _ago(server["answered_ago_s"]),
        _ago(server["failed_ago_s"]),
        Html(f'<span class="bad">{failing} failed</span>') if failing else "0 failed",
        _skew(server["clock_skew_s"]),
    )


def _no_server(worker: Mapping[str, Any]) -> str:
    embedded = worker.get("queue") == worker.get("store") == "local"
    return "None: queue and store are embedded." if embedded else "None was asked yet."


def _skew(skew_s: float | None) -> str:
    """Say how far a server's clock is from ours, which its answers tell to about a second."""
    if skew_s is None:
        return ""
    if abs(skew_s) < SKEW_TOLD_S:
        return "as ours"
    text = f"{_time(abs(skew_s))} {'ahead' if skew_s > 0 else 'behind'}"
    return Html(f'<span class="{"bad" if abs(skew_s) >= SKEW_BAD_S else "warn"}">{text}</span>')


def _worth_a_row(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Leave out slots, which there may be hundreds of, unless something is wrong with one."""
    return [s for s in status["services"] if s["failure"] or not s["name"].startswith("slot ")]


def _service(service: Mapping[str, Any]) -> Sequence[object]:
    failure = service["failure"]
    return (
        _name(service["name"]),
        _ago(service["silent_s"]) if service["silent_s"] else "",
        Html(f'<span class="says bad">{_text(failure)}</span>') if failure else "",
    )


def _id(attempt: Mapping[str, Any]) -> str:
    tries = f", retry {attempt['retry']}" if attempt["retry"] else ""
    return Html(
        f'<span class="ids"><span class="id">{_text(attempt["task_id"])}</span> '
        f'<span class="soft">in <span class="id">{_text(attempt["workflow_id"])}</span>'
        f"{_text(tries)}</span></span>"
    )


def _name(name: str) -> str:
    return Html(f'<span class="name">{_text(name)}</span>')


def _says(text: str) -> str:
    """Return a text from elsewhere, which may be long and without a blank."""
    return Html(f'<span class="says">{_text(text)}</span>') if text else ""


# --------------------------------------------------------------------------------------------------


def _table(
    title: str, headings: Sequence[str], rows: Iterable[Sequence[object]], nothing: str
) -> str:
    lines = [
        "<tr>"
        + "".join(
            f'<td data-label="{_text(heading)}">{_cell(cell)}</td>'
            for heading, cell in zip(headings, row, strict=True)
        )
        + "</tr>"
        for row in rows
    ]
    if not lines:
        return f'<h2>{_text(title)}</h2>\n<p class="soft">{_text(nothing)}</p>'
    head = "".join(f"<th>{_text(heading)}</th>" for heading in headings)
    body = "\n".join(lines)
    return (
        f"<h2>{_text(title)}</h2>\n<table>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody>\n</table>"
    )


def _cell(value: object) -> str:
    """Return a cell's markup; in a flex row of a narrow screen it must be one element."""
    text = value if isinstance(value, Html) else _text(value)
    return f"<span>{text}</span>" if text else ""


def _text(value: object) -> str:
    return escape(visible(str(value)))


def _mark(word: str, styles: Mapping[str, str]) -> str:
    return f'<span class="{styles.get(word, "soft")}">{_text(word)}</span>'


def _ago(seconds: float | None) -> str:
    return "never" if seconds is None else f"{_time(seconds)}\u00a0ago"


def _time(seconds: float) -> str:
    return duration(seconds).replace(" ", "\u00a0")


def duration(seconds: float) -> str:
    """Return seconds as people say them: `0.25 s`, `42 s`, `5 min 3 s`, `3 h 20 min`, `2 d 4 h`."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = int(seconds)
    for unit, size, smaller, part in (
        ("d", 86_400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"
