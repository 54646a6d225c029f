"""Actions on searches, and the page of the service, in a real browser over a seeded service."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.browsing import MARKS, ServedDashboard, served
from tests.support.seeded_dashboard import CANCELLED, FAILED, FINISHED, PAUSED, QUARANTINED, QUEUED, RUNNING, THREE

pytestmark = [*MARKS, pytest.mark.long]
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
expect = sync_api.expect


@pytest.fixture(scope="module")
def reader() -> Iterator[ServedDashboard]:
    with served("reader") as dashboard:
        yield dashboard


def button(place: Any, name: str) -> Any:
    return place.get_by_role("button", name=name, exact=True)


def history(page: Any) -> list[str]:
    """The statuses of the timeline, oldest first."""
    badges = page.locator(".timeline .badge").all_inner_texts()
    return [text.split()[-1] for text in reversed(badges)]


@pytest.mark.long
def test_running_search_is_paused_and_resumed(page: Any, dashboard: ServedDashboard) -> None:
    page.goto(f"{dashboard.url}/searches/{dashboard.search_id(RUNNING)}")
    button(page, "Pause").click()
    expect(page.get_by_text("The worker finishes and saves the result")).to_be_visible()
    expect(button(page, "Pause")).to_have_count(0)
    httpx.post(f"{dashboard.url}/seeding/save").raise_for_status()
    expect(page.get_by_text("This search is paused")).to_be_visible()
    expect(page.locator("h1 + .badge")).to_have_text("‖ paused")
    expect(page.locator(".timeline .badge").first).to_contain_text("paused")
    assert history(page) == ["queued", "running", "pausing", "paused"]
    expect(page.locator(".change.pausing")).to_contain_text("by local")
    button(page, "Resume").click()
    expect(page.locator("h1 + .badge")).to_have_text("○ queued")
    expect(button(page, "Resume")).to_have_count(0)
    expect(page.get_by_text("It continues from its last checkpoint")).to_be_visible()


def test_failed_search_is_retried(page: Any, dashboard: ServedDashboard) -> None:
    page.goto(f"{dashboard.url}/searches/{dashboard.search_id(FAILED)}")
    expect(page.get_by_text("This search failed")).to_be_visible()
    expect(button(page, "Pause")).to_have_count(0)
    button(page, "Retry").click()
    expect(page.locator("h1 + .badge")).to_have_text("○ queued")
    expect(page.get_by_text("This search failed")).to_have_count(0)
    expect(page.locator(".change.failed")).to_contain_text("the lowest reachable upper bound is 0.071 ms")
    assert history(page)[-2:] == ["failed", "queued"]


def test_quarantine_is_explained_with_the_last_interruption(page: Any, dashboard: ServedDashboard) -> None:
    page.goto(f"{dashboard.url}/searches/{dashboard.search_id(QUARANTINED)}")
    expect(page.get_by_role("alert")).to_contain_text("is not retried automatically")
    expect(page.get_by_role("alert")).to_contain_text("ran out of memory")
    expect(page.locator(".history")).to_contain_text("5 attempts")
    expect(page.locator(".history")).to_contain_text(
        "Last interruption: The worker was lost: its machine ran out of memory"
    )
    assert history(page).count("running") == 5


def test_queued_search_shows_its_wait_reason_and_priority(page: Any, full: str) -> None:
    page.goto(full)
    row = page.locator("a.lrow", has_text=QUEUED)
    expect(row).to_contain_text("waiting for 1 GPU, position")
    expect(row).to_contain_text("priority 5")
    row.click()
    expect(page.get_by_text("Waiting for 1 GPU, position")).to_be_visible()
    expect(page.get_by_text("owner local")).to_be_visible()
    button(page, "change priority").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("From -100 to 100").fill("40")
    button(dialog, "Set priority").click()
    expect(button(page, "change priority")).to_contain_text("priority 40")


def test_cancel_asks_for_confirmation_and_can_be_retried(page: Any, dashboard: ServedDashboard) -> None:
    page.goto(f"{dashboard.url}/searches/{dashboard.search_id(PAUSED)}")
    button(page, "Cancel").click()
    button(page, "Keep").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.locator("h1 + .badge")).to_have_text("‖ paused")
    button(page, "Cancel").click()
    button(page, "Cancel search").click()
    expect(page.get_by_text("This search was cancelled")).to_be_visible()
    button(page, "Retry").click()
    expect(page.locator("h1 + .badge")).to_have_text("○ queued")


def test_delete_asks_for_confirmation_and_returns_to_the_list(page: Any, dashboard: ServedDashboard) -> None:
    page.goto(f"{dashboard.url}/searches/{dashboard.search_id(CANCELLED)}")
    button(page, "Delete").click()
    expect(page.get_by_text("are removed for good")).to_be_visible()
    button(page, "Keep").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("heading", name=CANCELLED)).to_be_visible()
    button(page, "Delete").click()
    button(page, "Delete search").click()
    page.wait_for_url(re.compile("/$"))
    expect(page.locator("a.lrow", has_text=QUARANTINED)).to_be_visible()
    expect(page.locator("a.lrow", has_text=CANCELLED)).to_have_count(0)


@pytest.mark.long
def test_fork_shows_errors_opens_the_child_and_protects_the_parent(page: Any, dashboard: ServedDashboard) -> None:
    finished = dashboard.search_id(FINISHED)
    page.goto(f"{dashboard.url}/searches/{finished}")
    button(page, "Fork").click()
    dialog = page.get_by_role("dialog")
    assert dialog.get_by_label("Name").input_value() == "digits under half a millisecond, fork"
    assert dialog.get_by_label("Latency bound (ms)").input_value() == "0.5"
    assert dialog.get_by_label("Evaluations").input_value() == "160"
    dialog.get_by_label("Evaluations").fill("3")
    button(dialog, "Fork").click()
    expect(dialog.get_by_text("greater than or equal to 8")).to_be_visible()
    dialog.get_by_label("Evaluations").fill("400")
    dialog.get_by_label("Latency bound (ms)").fill("0.05")
    button(dialog, "Fork").click()
    expect(dialog.get_by_text("meets the bound 0.05 ms")).to_be_visible()
    dialog.get_by_label("Latency bound (ms)").fill("0.3")
    dialog.get_by_label("Seed").fill("9")
    button(dialog, "Fork").click()
    expect(page.get_by_role("heading", name="digits under half a millisecond, fork")).to_be_visible()
    page.get_by_text("Specification").click()
    spec = page.locator("details pre:not([role=log])")
    for line in ("bound: 0.3", "evaluations: 400", "verified: 24", "seed: 9", f"supernet: {finished}"):
        expect(spec).to_contain_text(line)
    page.get_by_role("link", name="forked from digits under half a millisecond").click()
    page.wait_for_url(f"**/searches/{finished}")
    expect(page.locator(".children")).to_contain_text("digits under half a millisecond, fork")
    button(page, "Delete").click()
    button(page, "Delete search").click()
    expect(page.get_by_role("alert")).to_contain_text("cannot be deleted yet")
    expect(button(page, "Delete")).to_be_enabled()


@pytest.mark.long
def test_reader_sees_no_actions(page: Any, reader: ServedDashboard) -> None:
    page.goto(reader.url)
    page.get_by_label("API token").fill(reader.token)
    button(page, "Log in").click()
    page.goto(f"{reader.url}/searches/{reader.search_id(RUNNING)}")
    expect(page.locator(".stage.running")).to_be_visible()
    for name in ("Pause", "Cancel", "Fork", "change priority"):
        expect(button(page, name)).to_have_count(0)
    page.goto(reader.url)
    expect(page.locator("a.lrow").first).to_be_visible()
    expect(page.get_by_role("checkbox")).to_have_count(0)
    expect(page.get_by_label("Owner")).to_have_count(0)
    page.goto(f"{reader.url}/service")
    expect(page.get_by_role("heading", name="Your use")).to_be_visible()
    expect(page.locator(".owners")).to_contain_text("31.5 of 40")
    expect(page.get_by_text("are for administrators")).to_be_visible()
    for name in ("Tokens", "Audit trail", "Use by owner"):
        expect(page.get_by_role("heading", name=name)).to_have_count(0)
    button(page, "you are ada").click()
    expect(page.get_by_text("Scopes: read")).to_be_visible()
    expect(page.get_by_role("link", name="Log out")).to_have_attribute("href", "/logout")


@pytest.mark.long
def test_several_searches_are_selected_and_paused(page: Any, full: str) -> None:
    page.goto(f"{full}/submit")
    for _ in range(2):
        page.goto(f"{full}/submit")
        page.get_by_label("Name").fill("one of a pair")
        button(page, "Submit").click()
        page.wait_for_url("**/searches/*")
    page.goto(full)
    pair = page.locator(".line", has_text="one of a pair")
    expect(pair).to_have_count(2)
    for row in (pair.nth(0), pair.nth(1), page.locator(".line", has_text=THREE)):
        row.get_by_role("checkbox").click()
    selection = page.locator(".selection")
    expect(selection).to_contain_text("3 selected")
    expect(button(selection, "Delete 1")).to_be_visible()
    button(selection, "Pause 2").click()
    expect(page.locator(".selection")).to_have_count(0)
    for i in range(2):
        expect(pair.nth(i).locator(".badge")).to_have_text("‖ paused")
    expect(page.locator(".line", has_text=THREE).locator(".badge")).to_have_text("✓ succeeded")


def test_the_list_is_filtered_by_owner(page: Any, full: str) -> None:
    page.goto(full)
    page.get_by_label("Owner").click()
    page.get_by_role("option", name="ada").click()
    expect(page.locator("a.lrow", has_text=RUNNING)).to_have_count(0)
    expect(page.locator("a.lrow", has_text=QUARANTINED)).to_be_visible()
    assert page.url.endswith("?owner=ada")
    button(page, "pausing").click()
    expect(page.get_by_role("heading", name="No pausing searches of ada")).to_be_visible()


def test_the_service_page_of_an_administrator(page: Any, full: str) -> None:
    page.goto(f"{full}/service")
    expect(page.locator(".readiness")).to_contain_text("✓ ready")
    expect(page.locator(".check.ok")).to_have_count(5)
    expect(page.locator(".workers")).to_contain_text("7 of 16")
    expect(page.locator(".workers")).to_contain_text("2 of 2")
    expect(page.locator(".audit tr")).to_have_count(16)
    button(page.locator(".audit"), "Older").click()
    expect(page.locator(".audit")).to_contain_text("Page 2")
    page.locator(".audit").get_by_label("Owner").click()
    page.get_by_role("option", name="ci").click()
    expect(page.locator(".audit tr")).to_have_count(14)
    expect(page.locator(".audit")).not_to_contain_text("pause search")


def test_quota_is_set(page: Any, full: str) -> None:
    page.goto(f"{full}/service")
    button(page, "limits of ci").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Most searches running").fill("3")
    dialog.get_by_label("GPU hours in all").fill("12.5")
    button(dialog, "Set limits").click()
    share = page.locator(".share", has_text="ci")
    expect(share).to_contain_text("0 of 3")
    expect(share).to_contain_text("0 of 12.5")


def test_token_is_created_shown_once_and_revoked(page: Any, full: str) -> None:
    page.goto(f"{full}/service")
    button(page, "New token").click()
    dialog = page.get_by_role("dialog")
    button(dialog, "Create token").click()
    expect(dialog.get_by_text("expected an owner and a name")).to_be_visible()
    dialog.get_by_label("Owner").fill("grace")
    dialog.get_by_label("Name").fill("bench")
    dialog.get_by_role("checkbox", name=re.compile(r"^device:")).click()
    button(dialog, "Create token").click()
    secret = dialog.locator(".card .secret")
    expect(secret).to_have_text(re.compile(r"^hwnas_\w+_[\w-]{43}$"))
    expect(dialog.get_by_text("it is shown only this once")).to_be_visible()
    expect(button(dialog, "Copy")).to_be_visible()
    button(dialog, "Done").click()
    expect(page.get_by_text("hwnas_")).to_have_count(0)
    row = page.locator(".tokens tr", has_text="bench")
    expect(row).to_contain_text("read, submit, device")
    button(row, "Revoke").click()
    button(page, "Revoke token").click()
    expect(row).to_contain_text("revoked")
    expect(button(row, "Revoke")).to_have_count(0)
    page.reload()
    expect(page.get_by_role("heading", name="Tokens")).to_be_visible()
    expect(page.get_by_text("hwnas_")).to_have_count(0)


@pytest.mark.long
def test_hundreds_of_searches_are_paged(page: Any) -> None:
    with served("many") as dashboard:
        page.goto(dashboard.url)
        rows = page.locator("a.lrow")
        expect(rows).to_have_count(25)
        for number in (2, 3):
            button(page, "Older").click()
            expect(page.get_by_text(f"Page {number}")).to_be_visible()
        expect(rows).to_have_count(25)
        expect(rows.first).to_contain_text("sweep 42")  # 8 searches come before the sweep
        button(page, "Newer").click()
        expect(rows.first).to_contain_text("sweep 17")
        button(page, "quarantined").click()
        expect(rows).to_have_count(1)
        expect(button(page, "Older")).to_have_count(0)


@pytest.mark.long
def test_onboarding_is_cancelled_and_retried_and_its_device_is_renamed_and_deleted(
    page: Any, dashboard: ServedDashboard
) -> None:
    page.goto(f"{dashboard.url}/devices/old-laptop")
    card = page.locator(".card", has=page.get_by_role("heading", name="Onboardings", exact=True))
    row = card.locator("tr", has_text="mobilenet_v3")
    expect(row).to_contain_text("failed")
    button(row, "Retry").click()
    expect(row).to_contain_text("queued")
    row.get_by_role("button", name="change priority").click()
    page.get_by_label("From -100 to 100").fill("7")
    button(page, "Set priority").click()
    expect(row.get_by_role("button", name="change priority")).to_contain_text("7")
    button(row, "Cancel").click()
    button(page, "Cancel onboarding").click()
    expect(row).to_contain_text("cancelled")
    button(page, "Rename").first.click()
    page.get_by_label("New name").fill("attic")
    page.locator(".q-dialog").get_by_role("button", name="Rename", exact=True).click()
    page.wait_for_url("**/devices/attic")
    expect(page.get_by_role("heading", level=1)).to_have_text("attic")
    button(page, "Delete").first.click()
    button(page, "Delete device").click()
    page.wait_for_url("**/devices")
    expect(page.get_by_text("attic")).to_have_count(0)


def test_reader_sees_no_actions_on_devices(page: Any, reader: ServedDashboard) -> None:
    page.context.clear_cookies()
    page.goto(f"{reader.url}/devices/this-machine")
    page.get_by_label("token").fill(str(reader.token))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Onboardings", exact=True)).to_be_visible()
    expect(button(page, "Rename")).to_have_count(0)
    expect(button(page, "Delete")).to_have_count(0)
