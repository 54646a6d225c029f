"""A real browser on the dashboard over a seeded service, for tests. Chromium is Debian's."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from nas.client import Client
from nas.schemas.candidates import FrontSchema
from tests.support.paths import ROOT

CHROMIUM = next((p for p in ("/usr/bin/chromium", "/usr/bin/chromium-browser") if Path(p).exists()), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 30_000
MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium at /usr/bin/chromium"),
]


@dataclass(frozen=True)
class ServedDashboard:
    """A seeded service with the dashboard: its address, and a token of ada's that may read, if it requires one."""

    url: str
    token: str | None

    def search_id(self, name: str) -> str:
        """The id of a search by its name."""
        with Client(self.url, token=self.token) as nas:
            return next(search.id for search in nas.searches(limit=100).items if search.spec.name == name)

    def front(self, name: str) -> FrontSchema:
        """The front of a search."""
        with Client(self.url, token=self.token) as nas:
            return nas.front(self.search_id(name))


@contextmanager
def served(contents: str) -> Iterator[ServedDashboard]:
    """A seeded service with the dashboard on it, in a process of its own: NiceGUI keeps its pages per process."""
    with socket.create_server(("127.0.0.1", 0)) as listener:  # waits for the server, so nobody need poll for it
        port = listener.getsockname()[1]
        command = [sys.executable, "-m", "tests.support.seeded_dashboard", str(listener.fileno()), contents]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        pipe = subprocess.PIPE
        server = subprocess.Popen(command, cwd=ROOT, env=env, pass_fds=[listener.fileno()], stdout=pipe, text=True)
        try:
            assert server.stdout is not None
            with server.stdout:
                token = server.stdout.readline().strip()  # once the store is seeded
            yield ServedDashboard(f"http://127.0.0.1:{port}", token if contents == "reader" else None)
        finally:
            server.terminate()
            server.wait(timeout=15)


@contextmanager
def browsing() -> Iterator[Any]:
    """One browser profile, so that scripts are fetched once."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    sync_api.expect.set_options(timeout=PATIENCE_MS)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = browser.new_context(viewport={"width": 1280, "height": 1000}, color_scheme="light")
        context.set_default_timeout(PATIENCE_MS)
        yield context
        browser.close()


@dataclass
class WatchedPage:
    """A page whose console and requests are watched."""

    page: Any
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def console(self, message: Any) -> None:
        # Chromium reports the page's own 404 status, which the not-found pages mean to have.
        if message.type in ("error", "warning") and "404 (Not Found)" not in message.text:
            self.errors.append(message.text)

    def request(self, request: Any) -> None:
        if request.url.startswith(("http", "ws")) and urlsplit(request.url).hostname != "127.0.0.1":
            self.outside.append(request.url)


@contextmanager
def watched(context: Any) -> Iterator[Any]:
    """A fresh page; whatever a test does, no error may reach the console and no request may leave the machine."""
    context.clear_cookies()
    watch = WatchedPage(context.new_page())
    watch.page.on("console", watch.console)
    watch.page.on("pageerror", lambda error: watch.errors.append(str(error)))
    watch.page.on("request", watch.request)
    yield watch.page
    watch.page.close()
    assert watch.errors == [], watch.errors
    assert watch.outside == []


def serious_findings(page: Any) -> list[str]:
    """What axe finds on a page that keeps people from using it, in the theme that it has; but for Quasar's bar that
    runs along the top while a request does."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    return [
        f"{f['id']}: {f['nodes'][0]['html'][:160]} ({len(f['nodes'])})"
        for f in axe.Axe().run(page, context={"exclude": [[".q-loading-bar"]]}).response["violations"]
        if f["impact"] in ("serious", "critical")
    ]


def require_accessible(page: Any) -> None:
    """No width makes a page scroll sideways, and axe has no serious findings in either theme."""
    for width in (1600, 1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function(f"document.documentElement.scrollWidth <= {width}")  # charts follow a moment later
    page.set_viewport_size({"width": 1280, "height": 1000})
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.wait_for_function(f"document.body.classList.contains('body--dark') == {str(scheme == 'dark').lower()}")
        if findings := serious_findings(page):
            pytest.fail(f"in the {scheme} theme: {'; '.join(findings)}")
