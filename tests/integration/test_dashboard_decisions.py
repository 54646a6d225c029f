"""What a reader does with finished searches, in a real browser: compare, explore, read the log; by keyboard, too."""

from __future__ import annotations

import re
from typing import Any

import pytest

from nas.client import Client
from tests.support.browsing import MARKS, ServedDashboard, require_accessible
from tests.support.seeded_dashboard import FINISHED, THREE

pytestmark = MARKS
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
expect = sync_api.expect


@pytest.fixture(scope="module")
def finished(dashboard: ServedDashboard) -> str:
    """The id of the search with a verified front."""
    return dashboard.search_id(FINISHED)


@pytest.mark.long
def test_searches_are_compared_from_the_list(page: Any, dashboard: ServedDashboard, finished: str) -> None:
    page.goto(dashboard.url)
    for name in (FINISHED, THREE):
        page.locator(".line", has_text=name).get_by_role("checkbox").click()
    page.get_by_role("button", name="Compare").click()
    page.wait_for_url("**/compare/searches?ids=*")
    expect(page.get_by_text("are projected on those that all have")).to_be_visible()
    expect(page.locator(".pareto")).to_contain_text("Measured latency (ms)")
    differences = page.locator(".card", has=page.get_by_role("heading", name="Specs, where they differ"))
    expect(differences).to_contain_text("accuracy, latency, macs")
    expect(differences).not_to_contain_text("data.name")
    page.goto(f"{dashboard.url}/compare/searches?ids={finished},{finished[::-1]}")
    expect(page.get_by_role("alert")).to_contain_text("no search")


@pytest.mark.long
def test_networks_are_compared(page: Any, dashboard: ServedDashboard, finished: str) -> None:
    first, second = dashboard.front(FINISHED).members[:2]
    page.goto(f"{dashboard.url}/searches/{finished}/candidates/{first.arch}")
    page.get_by_role("link", name="Compare with another").click()
    page.wait_for_url("**/compare/networks*")
    page.goto(f"{dashboard.url}/compare/networks?a={finished}/{first.arch}&b={finished}/{second.arch}")
    expect(page.get_by_role("img", name=re.compile("architecture from input to output"))).to_have_count(2)
    expect(page.get_by_role("heading", name="Choices, where they differ")).to_be_visible()
    expect(page.locator("tr", has_text="Test accuracy (measured)")).to_contain_text("points")


@pytest.mark.long
def test_insights_and_log_are_read_when_they_are_opened(page: Any, dashboard: ServedDashboard, finished: str) -> None:
    page.goto(f"{dashboard.url}/searches/{finished}")
    page.locator("summary", has_text="Which decisions matter").click()
    expect(page.get_by_text(re.compile(r"Over \d+ networks, the decisions explain"))).to_be_visible()
    page.locator("summary", has_text="Parallel coordinates").click()
    expect(page.get_by_role("img", name=re.compile("the better end is up"))).to_be_visible()
    page.locator("summary", has_text="Timeline of stages").click()
    expect(page.locator(".gantt")).to_contain_text("attempt 1")
    page.locator("summary", has_text=re.compile("^Log$")).click()
    with Client(dashboard.url) as nas:
        line = nas.logs(finished).items[-1]
    expect(page.get_by_role("log")).to_contain_text(line.text)


@pytest.mark.long
def test_axes_logarithms_and_bounds_are_chosen(page: Any, dashboard: ServedDashboard, finished: str) -> None:
    page.goto(f"{dashboard.url}/searches/{finished}")
    chart = page.locator(".pareto")
    expect(chart).to_contain_text("Measured latency (ms)")
    page.locator("summary", has_text="Axes and bound").click()
    page.get_by_label("Try a bound (ms)").fill("0.3")
    expect(page.get_by_text(re.compile(r"at most 0.300 ms, \d+ of \d+ members remain"))).to_be_visible()
    expect(chart).to_contain_text("tried: 0.300 ms")
    page.get_by_label("Across").click()
    page.get_by_role("option", name="Parameters").click()
    expect(chart).to_contain_text("Parameters (exact)")
    page.get_by_role("switch", name="Log across").click()
    expect(chart).to_contain_text("Parameters (exact)")


@pytest.mark.slow
def test_cascades_are_made_read_and_deleted(page: Any, dashboard: ServedDashboard) -> None:
    search = dashboard.search_id(THREE)
    page.goto(f"{dashboard.url}/searches/{search}")
    page.locator("summary", has_text="a cascade of two or three models").click()
    entries = page.locator(".cascade-entry")
    made, failed = entries.nth(0), entries.nth(1)
    expect(made).to_contain_text("It takes 60 % less time on average than the single network, and is 0.25 points less")
    expect(made).to_contain_text("answers 80%")
    expect(made.get_by_role("link", name=re.compile("Download"))).to_have_attribute(
        "href", re.compile(rf"^/v1/searches/{search}/cascades/[0-9a-f]+/file$")
    )
    expect(failed).to_contain_text("none reaches 97 % within the bounds")
    failed.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete cascade").click()
    expect(entries).to_have_count(1)
    page.get_by_label("Accuracy it may cost").fill("0.5")
    page.get_by_role("button", name=re.compile("Make a cascade of")).click()
    expect(entries).to_have_count(2)
    expect(entries.nth(0)).to_contain_text("queued")
    expect(entries.nth(0)).to_contain_text("at most 0.5 points below the best")


@pytest.mark.slow
def test_a_network_of_the_front_is_scaled(page: Any, dashboard: ServedDashboard, finished: str) -> None:
    page.goto(f"{dashboard.url}/searches/{finished}")
    page.locator("summary", has_text="a cascade of two or three models").click()
    expect(page.get_by_text("A cascade needs two exported models")).to_be_visible()
    page.locator("summary", has_text="scaled to another bound").click()
    page.get_by_role("button", name="Scale", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("expected a limit above 0")
    page.get_by_label("At most", exact=True).fill("0.4")
    page.get_by_role("button", name="Scale", exact=True).click()
    expect(page.get_by_role("heading", name=re.compile("not yet trained"))).to_be_visible()
    expect(page.get_by_text("95 % upper bound")).to_be_visible()
    expect(page.get_by_role("region", name="code").last).to_contain_text("references:\n  - {name: scaled")
    page.get_by_label("At most", exact=True).fill("0.000001")
    page.get_by_role("button", name="Scale", exact=True).click()
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.get_by_role("heading", name=re.compile("not yet trained"))).to_have_count(0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        *("/", "/searches/{finished}", "/searches/{three}", "/compare/searches", "/compare/networks", "/devices"),
        *("/devices/this-machine", "/service"),
    ],
)
def test_pages_fit_every_width_and_have_no_serious_findings_of_axe(
    page: Any, dashboard: ServedDashboard, finished: str, path: str
) -> None:
    page.goto(dashboard.url + path.format(finished=finished, three=dashboard.search_id(THREE)))
    expect(page.get_by_role("heading").first).to_be_visible()
    if path.startswith("/searches"):
        expect(page.locator(".recommended")).to_be_visible()
        for summary in page.locator("summary:visible").all():
            summary.click()
    require_accessible(page)


@pytest.mark.long
def test_keyboard_reaches_the_decision(page: Any, dashboard: ServedDashboard, finished: str) -> None:
    page.goto(f"{dashboard.url}/searches/{finished}")
    expect(page.locator(".recommended")).to_be_visible()
    reached: list[str] = []
    for _ in range(80):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "(e => [e.closest('[aria-label]')?.getAttribute('aria-label'), e.innerText].join(' '))"
                "(document.activeElement)"
            )
        )
        if any("CSV" in text for text in reached):
            break
    text = " | ".join(reached)
    for name in ("star", "Rule", "Measured latency at most", "Download", "Axes and bound", "Columns", "CSV"):
        assert name in text
