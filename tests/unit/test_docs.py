"""The documentation against the code: what a page names exists, and what exists is on its page.

No prose is judged here. Links and anchors lead somewhere; code blocks can be used as they stand;
commands take the options they are shown with; tests that are named can be run; and the lists of
codes, metrics, log events and configuration keys are those of the code.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from prometheus_client import CollectorRegistry
from typer.main import get_command

from perago_worker.attempt.codes import Code
from perago_worker.attempt.pipeline import STEP_NAMES
from perago_worker.cli import app
from perago_worker.config import load_config
from perago_worker.task import load_module_tasks
from perago_worker.telemetry.cache_metrics import CacheMetrics
from perago_worker.telemetry.client_metrics import ClientMetrics
from perago_worker.telemetry.metrics import Metrics
from perago_worker.telemetry.request_metrics import RequestMetrics
from tests.unit import render_configuration

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "perago_worker"
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

FENCED = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#+ (?P<title>.+)$", re.MULTILINE)
FIRST_CELL = re.compile(r"^\| `(?P<cell>[^`]+)`", re.MULTILINE)
EVENT = re.compile(r'"([a-z]+\.[a-z_]+)"')
NAMED_TEST = re.compile(r"[` ](?P<file>tests/[\w/]+\.py)(?:::(?P<name>[\w:]+))?`")
REPEATED = re.compile(
    r"^\d+\. `(?P<variables>(?:\w+=\S+ )*)\.venv/bin/python -m pytest ", re.MULTILINE
)
LOGGED = re.compile(r"\.(?:debug|info|warning|error)\(\s*" + EVENT.pattern)

POLICY = "Keys and certificates"
BASE_CONFIG = {
    "worker": '[worker]\nmodules = ["shop"]\n',
    "queue": '[queue]\nkind = "local"\n',
    "store": '[store]\nkind = "local"\n',
}
"""What a configuration cannot do without; added to blocks that show another part of one."""


class Block(NamedTuple):
    """A fenced block of code, and where it is."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    return [
        Block(page, text.count("\n", 0, match.start()) + 1, match["language"], match["text"])
        for page in PAGES
        for text in [page.read_text(encoding="utf-8")]
        for match in FENCED.finditer(text)
        if match["language"] in languages
    ]


def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    titles = (match["title"] for match in HEADING.finditer(prose(page)))
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


# --- links ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for match in LINK.finditer(prose(page)):
        target, _, anchor = match["target"].partition("#")
        if target.startswith(("http://", "https://")):
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{match['target']} leads nowhere"
        assert file.is_relative_to(ROOT), f"{match['target']} leads out of the project"
        assert not anchor or anchor in anchors(file), f"{match['target']} has no such heading"


def test_every_page_is_linked_to() -> None:
    linked = {
        (page.parent / match["target"].partition("#")[0]).resolve()
        for page in PAGES
        for match in LINK.finditer(prose(page))
    }
    assert not set(PAGES[1:]) - linked


# --- code -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_works(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block with `@task` in it is the module `shop` of its page; tests in other blocks pass."""
    module = next(b for b in blocks("python") if b.page == block.page and "@task" in b.text)
    (tmp_path / "shop.py").write_text(module.text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    try:
        if "@task" in block.text:
            assert load_module_tasks("shop")
            return
        names: dict[str, Any] = {}
        exec(compile(block.text, str(block), "exec"), names)  # noqa: S102 -- our own pages
        for number, test in enumerate(v for n, v in names.items() if n.startswith("test_")):
            (tmp_path / str(number)).mkdir()
            test(tmp_path / str(number))
    finally:
        sys.modules.pop("shop", None)


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_toml_is_a_configuration(block: Block, tmp_path: Path) -> None:
    """Parts of one are completed with what they leave out; the secret files they name exist."""
    content = tomllib.loads(block.text)
    for section, text in BASE_CONFIG.items():
        block = block._replace(text=block.text if section in content else block.text + text)
    for table in content.values():
        for key, value in table.items():
            if key.endswith("_file"):
                file = tmp_path / value
                file.parent.mkdir(exist_ok=True)
                file.write_text("secret")
                file.chmod(0o600)
    path = tmp_path / "worker.toml"
    path.write_text(block.text, encoding="utf-8")
    assert not load_config(path, environ={}).warnings


# --- commands -------------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield where a command stands and its arguments, from blocks and from within the text."""
    for block in blocks("sh"):
        for line in block.text.replace("\\\n", " ").splitlines():
            if line.startswith("perago-worker "):
                words = shlex.split(line, comments=True)
                yield f"{block}: {line}", list(takewhile(_is_argument, words[1:]))
    for page in PAGES:
        text = prose(page).partition(render_configuration.BEGIN)[0]
        for match in re.finditer(r"`perago-worker ([^`]+)`", text):
            yield f"{page.relative_to(ROOT)}: {match[0]}", shlex.split(match[1])


def _is_argument(word: str) -> bool:
    return word not in {"|", "||", "&&", ">", "&", ";"}


@pytest.mark.parametrize(("where", "arguments"), list(commands()))
def test_command_takes_what_it_is_shown_with(where: str, arguments: Sequence[str]) -> None:
    command: Any = get_command(app)
    rest = list(arguments)
    while True:
        context = typer.Context(command, info_name="perago-worker")
        _, rest, _ = command.make_parser(context).parse_args(rest)
        if not rest or not hasattr(command, "commands"):
            break
        assert rest[0] in command.commands, f"{where}: there is no command {rest[0]}"
        command, rest = command.commands[rest[0]], rest[1:]


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    pattern = re.compile(r"(?:`|^|\()make ([a-z][a-z-]*)", re.MULTILINE)
    named = {name for page in PAGES for name in pattern.findall(page.read_text(encoding="utf-8"))}
    assert named
    assert named <= targets


# --- reference ------------------------------------------------------------------------------------


def section(page: str, heading: str) -> str:
    """Return the text below one heading of a page."""
    _, _, after = (DOCS / page).read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    assert after, f"{page} has no section {heading}"
    return after.partition("\n## ")[0]


def test_configuration_is_that_of_the_models() -> None:
    written = render_configuration.PAGE.read_text(encoding="utf-8")
    assert written == render_configuration.page(), (
        "renew it: python -m tests.unit.render_configuration"
    )


def test_every_code_is_explained() -> None:
    explained = FIRST_CELL.findall((DOCS / "outcomes.md").read_text(encoding="utf-8"))
    assert sorted(explained) == sorted(Code)


def test_every_step_is_explained() -> None:
    explained = FIRST_CELL.findall(section("attempt.md", "The steps"))
    assert explained == list(STEP_NAMES)


def test_every_metric_is_listed_with_its_labels() -> None:
    registry = CollectorRegistry()
    Metrics(registry, slots={"t": 1}, steps=["s"], services=["p"])
    CacheMetrics(registry, tasks=["t"])
    RequestMetrics(registry, services={"queue": "conductor", "store": "lakefs"})
    expected = {}
    for family in registry.collect():
        if family.name.startswith("perago_worker_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            expected[name.removeprefix("perago_worker_")] = labels
    rows = re.findall(
        r"^\| `([a-z_]+)` \| \w+ \| (.*?) \|", section("operations.md", "Metrics"), re.MULTILINE
    )
    assert {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows} == expected


def test_every_metric_of_conductors_clients_is_listed_with_its_labels() -> None:
    registry = CollectorRegistry()
    ClientMetrics(registry, tasks=["t"])
    expected = {}
    for family in registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        expected[name] = labels or {"method", "uri", "status"}  # it has no series at rest
    rows = re.findall(
        r"^\| `([a-z_]+)` \| (`\w+`(?:, `\w+`)*) \| [A-Z]",
        section("operations.md", "Metrics"),
        re.MULTILINE,
    )
    assert {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows} == expected


def test_metrics_in_alerts_exist() -> None:
    names = set(FIRST_CELL.findall(section("operations.md", "Metrics")))
    used = set(re.findall(r"\bperago_worker_([a-z_]+)", (DOCS / "operations.md").read_text()))
    assert {name.removesuffix("_bucket").removesuffix("_count") for name in used} <= names


def test_every_log_event_is_listed() -> None:
    events = set(EVENT.findall((PACKAGE / "telemetry/event_log.py").read_text(encoding="utf-8")))
    for file in PACKAGE.rglob("*.py"):
        events.update(LOGGED.findall(file.read_text(encoding="utf-8")))
    assert set(FIRST_CELL.findall(section("operations.md", "Logs"))) == events


def test_the_policy_has_what_the_calls_of_attempts_need() -> None:
    """The calls are those that the count of round trips finds; the policy names their actions."""
    from tests.integration import test_round_trips as counted

    rows = re.findall(
        r"^\| `[A-Z]+ /\S+` \| (.*?) \|", section("operations.md", POLICY), re.MULTILINE
    )
    (policy,) = (json.loads(b.text) for b in blocks("json") if '"statement"' in b.text)
    allowed = {action for each in policy["statement"] for action in each["action"]}
    made = {*counted.PUBLISHED, *counted.UNCHANGED, *counted.KEPT, *counted.DIFFERENCE}

    assert made - set(counted.documented()) == set()
    assert {a for row in rows for a in re.findall(r"`([a-z]+:\w+)`", row)} == allowed


# --- promises -------------------------------------------------------------------------------------


def names_of_tests(file: Path) -> set[str]:
    """Return the names of a file's tests, those of classes as `Class::name`."""
    names: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        outer = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        names.update(outer + each.name for each in members if isinstance(each, ast.FunctionDef))
    return {name for name in names if name.rpartition("::")[2].startswith("test_")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tests_that_are_named_exist(page: Path) -> None:
    for match in NAMED_TEST.finditer(prose(page)):
        file = ROOT / match["file"]
        assert file.is_file(), f"there is no {match['file']}"
        found = names_of_tests(file)
        assert found, f"{match['file']} has no tests"
        assert match["name"] is None or match["name"] in found, f"there is no {match[0]}"


def test_every_promise_names_its_proof() -> None:
    promises = section("promises.md", "The promises").split("\n### ")[1:]
    assert [text.partition(".")[0] for text in promises] == [f"P{n}" for n in range(1, 9)]
    for text in promises:
        _, _, proof = text.partition("**Proven by**")
        assert all(match["name"] for match in NAMED_TEST.finditer(proof))
        assert NAMED_TEST.search(proof), f"nothing proves {text.splitlines()[0]}"


def test_every_figure_has_a_command_that_repeats_it() -> None:
    page = (DOCS / "figures.md").read_text(encoding="utf-8")
    rows = re.findall(r"\[(\d+)\]\(#commands\) \|$", page, re.MULTILINE)
    commands = section("figures.md", "Commands").strip().splitlines()
    assert rows == [str(number) for number in range(1, len(commands) + 1)]
    for command in commands:
        repeated, named = REPEATED.match(command), NAMED_TEST.search(command)
        assert repeated, f"not a command: {command}"
        assert named, f"it runs no test: {command}"
        source = (ROOT / named["file"]).read_text(encoding="utf-8")
        for variable in re.findall(r"(\w+)=", repeated["variables"]):
            assert f'"{variable}"' in source, f"{named['file']} reads no {variable}"
