"""The status page as people see it: in a browser, wide and narrow, with and without scripts.

Real workers on the embedded pair; pictures of every page are left in the test's folder.
"""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.deploy.browser import Browser, Page, started_browser
from tests.e2e.worker import Worker, started_worker, submit, write_local_config
from tests.integration.platform import wait_for

WIDTHS = (1280, 390)
OTHER_WIDTHS = (1920, 1160, 1150, 768, 320)
MODULE = "tests.tasks.shown"
SUMMARY, DEW_POINT = "weather.daily_summary_of_all_stations", "weather.dew_point"
HOSTILE = '<script>console.error("ran")</script><img src="/nowhere" onerror="alert(1)">'
LONG = "https://example.com/" + "stations/" * 20
CACHED = "had 2 of 3 objects (66 %)"
SHOWN = (HOSTILE, LONG, SUMMARY, "repo@main", "terminal", "completed", "3/12", CACHED)

SECTIONS = ["Tasks", "Attempts now", "Last attempts", "Content cache", "Servers", "Parts"]

OUTSIDE = """
[...document.body.querySelectorAll("*")]
  .filter(each => { const box = each.getBoundingClientRect();
                    return box.right > innerWidth + 0.5 || box.left < -0.5; })
  .map(each => each.outerHTML.slice(0, 80))
"""
"""Elements that are cut off at a side, or make the page scroll sideways."""

HIDDEN = """
[...document.body.querySelectorAll("h1, h2, p, li, td, a")]
  .filter(each => each.textContent.trim() && !each.checkVisibility(
    {checkOpacity: true, checkVisibilityCSS: true}) || each.textContent && !each.offsetHeight)
  .map(each => each.outerHTML.slice(0, 80))
"""
"""Elements with a text that nobody sees."""

UNREADABLE = """
(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const light = colour => {
    canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const parts = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map(each => each / 255)
      .map(each => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const ground = document.createElement("div");
  ground.style.color = "Canvas";
  ground.innerHTML = ["soft", "good", "warn", "bad"].map(each => `<b class=${each}>x</b>`).join("");
  document.body.append(ground);
  const behind = light(getComputedStyle(ground).color);
  ground.style.color = "CanvasText";
  const texts = [...document.body.querySelectorAll("*")].filter(each => each.innerText);
  const found = texts.map(each => {
    const style = getComputedStyle(each), front = light(style.color);
    const contrast = (Math.max(front, behind) + 0.05) / (Math.min(front, behind) + 0.05);
    return [each.outerHTML.slice(0, 80), style.color, contrast, parseFloat(style.fontSize)];
  }).filter(([, , contrast, size]) => contrast < 4.5 || size < 12);
  ground.remove();
  return found;
})()
"""
"""Texts with less contrast than WCAG 2 asks for (1.4.3, level AA), or smaller than 12 pixels."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with started_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@contextmanager
def busy_worker(folder: Path) -> Iterator[str]:
    """Start a worker some of whose attempts have ended in every way while one runs."""
    config = write_local_config(folder, extra='[workspace]\ncache_max = "64MiB"\nwarm = 0\n')
    config.write_text(config.read_text().replace("tests.tasks.probe", MODULE))
    files = folder / "files"
    (files / "data").mkdir(parents=True)
    (files / "data/in.txt").write_text("12.5\n" * 100)
    with started_worker(config) as worker:

        def order(task: str, how: str, says: str) -> None:
            place = files if task == SUMMARY else None
            submit(config, task, {"how": how, "says": says}, files=place, module=MODULE)

        order(SUMMARY, "return", "written")
        order(DEW_POINT, "return", "fast")
        order(DEW_POINT, "fail", f"no such station: {HOSTILE}")
        order(DEW_POINT, "give_up", f"{LONG} has no measurements of 2026-11-24")
        worker.wait_event("attempt.finished", count=4)
        order(SUMMARY, "go_on", f"station Zürich/Fluntern {HOSTILE}")
        worker.wait_event("body.output", stream="progress", count=5)
        yield address_of(worker)


@contextmanager
def worker_without_its_queue(folder: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    config = write_local_config(folder)
    kind = f'kind = "conductor"\nurl = "http://127.0.0.1:{port}"'
    config.write_text(config.read_text().replace('kind = "local"', kind, 1))
    with started_worker(config) as worker:
        worker.wait_event("poll.finished", count=8, outcome="error")
        yield address_of(worker)


def address_of(worker: Worker) -> str:
    return f"http://{worker.wait_event('http.listening')['address']}"


def settled(text: str) -> str:
    """Return a text without what may be another at every look: numbers, and how long ago."""
    text = re.sub(r"[\d.]+\s(s|min)\sago|\bunknown\b|\d[\d.:T+-]*", "", text)
    return " ".join(text.split())


def look(page: Page, picture: Path) -> str:
    """Assert that a page can be read, take a picture of it, and return its text."""
    page.screenshot(picture)
    width, inner = page.evaluate("[document.scrollingElement.scrollWidth, innerWidth]")
    assert width <= inner
    assert page.evaluate(OUTSIDE) == []
    assert page.evaluate(HIDDEN) == []
    assert page.evaluate(UNREADABLE) == []
    text: str = page.evaluate("document.body.innerText")
    return text


def test_the_page_of_a_busy_worker(browser: Browser, tmp_path: Path) -> None:
    """Nothing is cut off, nothing fails, nothing is asked of elsewhere; scripts do nothing to it.

    What bodies say comes as text, whatever it is.
    """
    with busy_worker(tmp_path) as address:
        for width in WIDTHS:
            texts = {}
            for scripts, dark in ((True, False), (False, False), (False, True)):
                page = Page(browser, width=width, scripts=scripts, dark=dark)
                page.open(f"{address}/")
                name = f"busy-{width}-{'dark' if dark else 'light'}-{scripts}.png"
                texts[scripts, dark] = look(page, tmp_path / name)
                assert page.complaints == []
                assert page.evaluate(headings()) == SECTIONS
                assert {each for each in page.requests if each != f"{address}/"} <= {"data:,"}
            assert len(set(map(settled, texts.values()))) == 1
            text = texts[True, False]
            for part in SHOWN:
                assert part in text, part
        for width in OTHER_WIDTHS:
            page = Page(browser, width=width, scripts=False, dark=False)
            page.open(f"{address}/")
            look(page, tmp_path / f"busy-{width}.png")


def headings() -> str:
    return '[...document.querySelectorAll("h2")].map(each => each.innerText)'


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_of_a_worker_without_its_queue(
    width: int, browser: Browser, tmp_path: Path
) -> None:
    """It says first what is wrong, in red as well."""
    with worker_without_its_queue(tmp_path) as address:
        for dark in (False, True):
            page = Page(browser, width=width, scripts=False, dark=dark)
            page.open(f"{address}/")
            name = f"without-queue-{width}-{'dark' if dark else 'light'}.png"
            text = look(page, tmp_path / name)
            assert page.complaints == []
            assert text.count("not ready: probe.") == 4
            assert text.startswith(f"{socket.gethostname()}: running, not ready\n")
            assert page.evaluate("document.title").startswith("running, not ready - ")


def test_it_renews_itself_without_scripts(browser: Browser, tmp_path: Path) -> None:
    config = write_local_config(tmp_path)
    with started_worker(config) as worker:
        address = address_of(worker)
        page = Page(browser, width=1280, scripts=False, dark=False)
        page.open(f"{address}/")
        now = 'document.querySelector("p.soft").innerText'
        before = page.evaluate(now)
        page.wait_loaded()
        assert page.evaluate(now) != before
        assert page.requests.count(f"{address}/") == 2
        assert page.complaints == []


def test_it_says_that_it_is_old_while_the_worker_is_paused(
    browser: Browser, tmp_path: Path
) -> None:
    """Time goes a hundred times as fast for what moves on the page."""
    told = 'getComputedStyle(document.querySelector(".now"), "::after")'
    config = write_local_config(tmp_path)
    with started_worker(config) as worker:
        address = address_of(worker)
        page = Page(browser, width=390, scripts=False, dark=False)
        page.open(f"{address}/")
        assert page.evaluate(f"{told}.fontSize") == "0px"
        worker.signal(signal.SIGSTOP)
        try:
            page.ask("Animation.enable")
            page.ask("Animation.setPlaybackRate", playbackRate=100)
            wait_for(lambda: page.evaluate(f"{told}.fontSize") == "16px", "the page to be old")
            look(page, tmp_path / "paused-390.png")
        finally:
            worker.signal(signal.SIGCONT)
        page.ask("Animation.setPlaybackRate", playbackRate=1)
        page.wait_loaded()
        assert page.evaluate(f"{told}.fontSize") == "0px"
        assert page.complaints == []


def test_what_it_links_to_is_there(browser: Browser, tmp_path: Path) -> None:
    config = write_local_config(tmp_path)
    with started_worker(config) as worker:
        address = address_of(worker)
        worker.wait_event("worker.state_changed", state="running")
        worker.wait_event("poll.finished", count=8)
        page = Page(browser, width=1280, scripts=True, dark=False)
        page.open(f"{address}/")
        links: list[str] = page.evaluate("[...document.links].map(each => each.href)")
        assert len(links) == 6
        for link in links:
            page.open(link)
            assert page.evaluate("document.body.innerText").strip()
        assert page.complaints == []


@pytest.mark.parametrize("scripts", [True, False])
def test_the_browser_would_complain(scripts: bool, browser: Browser, tmp_path: Path) -> None:
    """What the tests above look for is found where it is."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        '<p style="color:#999;width:3000px">pale and wide</p><p hidden>hidden</p>'
        '<p style="font-size:8px">small</p><img src="nowhere.png"><script>nothing()</script>'
    )
    page = Page(browser, width=390, scripts=scripts, dark=False)
    page.open(bad.as_uri())

    told = str(page.complaints)
    assert ("nothing is not defined" in told) is scripts
    assert "ERR_FILE_NOT_FOUND" in told
    assert "wide" in str(page.evaluate(OUTSIDE))
    assert "hidden" in str(page.evaluate(HIDDEN))
    assert {each[0].partition(">")[2][:4] for each in page.evaluate(UNREADABLE)} == {"pale", "smal"}


def test_a_text_browser_shows_it(tmp_path: Path) -> None:
    with busy_worker(tmp_path) as address:
        text = in_text_browser(f"{address}/")
    lines = [line.split() for line in text.splitlines()]
    for section in SECTIONS:
        assert section.split() in lines
    for part in (SUMMARY, DEW_POINT, "completed", "failed", "terminal", "Read-only", "3/12"):
        assert part in text, part


def in_text_browser(address: str) -> str:
    command = shutil.which("w3m")
    if command is None:
        pytest.fail("w3m is missing; Debian has it in its package of that name")
    arguments = [command, "-dump", "-cols", "132", "-no-proxy", address]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout
