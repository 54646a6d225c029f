"""The pages of models and data sets in a real browser: what uses a model, deleting, and what is refused for good."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nas.client import Client
from nas.core.spec import DataSpec
from tests.support.browsing import MARKS, ServedDashboard, require_accessible, served
from tests.support.image_files import colour_folder
from tests.support.seeded_dashboard import FREE_MODEL, REFUSED_MODEL, USED_MODEL

pytestmark = [*MARKS, pytest.mark.slow]
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
expect = sync_api.expect


@pytest.fixture(scope="module")
def models() -> Iterator[ServedDashboard]:
    with served("models") as dashboard:
        yield dashboard


@pytest.fixture(scope="module")
def data_set(models: ServedDashboard, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a data set."""
    folder = tmp_path_factory.mktemp("data")
    colour_folder(folder / "pets")
    archive = shutil.make_archive(str(folder / "pets"), "zip", folder / "pets")
    with Client(models.url) as nas:
        uploaded = nas.upload_data(Path(archive))
        return nas.add_data("pets", DataSpec(name=uploaded.kind, path=uploaded.path)).name


def button(page: Any, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


def test_what_uses_a_model_is_linked_and_keeps_it(page: Any, models: ServedDashboard) -> None:
    page.goto(f"{models.url}/models/{USED_MODEL}")
    users = page.locator(".card", has=page.get_by_role("heading", name="Used by"))
    expect(users.get_by_role("link", name="device signs-board")).to_have_attribute("href", "/devices/signs-board")
    button(page, "Delete").click()
    expect(page.get_by_text(f"Delete model {USED_MODEL}?")).to_be_visible()
    button(page, "Delete model").click()
    expect(page.get_by_role("alert")).to_contain_text("device signs-board needs it")
    users.get_by_role("link").click()
    button(page, "Delete").first.click()
    button(page, "Delete device").click()
    page.wait_for_url("**/devices")
    page.goto(f"{models.url}/models/{USED_MODEL}")
    expect(button(page, "Delete")).to_be_visible()
    expect(users).to_have_count(0)


def test_an_unused_model_is_deleted_after_a_question(page: Any, models: ServedDashboard) -> None:
    page.goto(f"{models.url}/models/{FREE_MODEL}")
    button(page, "Delete").click()
    button(page, "Keep").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(FREE_MODEL)
    button(page, "Delete").click()
    button(page, "Delete model").click()
    page.wait_for_url("**/models")
    expect(page.locator("a.lrow", has_text=REFUSED_MODEL)).to_be_visible()
    expect(page.locator("a.lrow", has_text=FREE_MODEL)).to_have_count(0)


def test_a_refused_file_is_not_offered_again(page: Any, models: ServedDashboard) -> None:
    page.goto(f"{models.url}/models/{REFUSED_MODEL}")
    expect(page.get_by_role("alert")).to_contain_text("which are not opened")
    expect(button(page, "Delete")).to_be_visible()
    expect(button(page, "Retry")).to_have_count(0)


def test_a_data_set_is_deleted_after_a_question(page: Any, models: ServedDashboard, data_set: str) -> None:
    page.goto(f"{models.url}/data/{data_set}")
    button(page, "Delete").click()
    expect(page.get_by_text(f"Delete data set {data_set}?")).to_be_visible()
    button(page, "Delete data set").click()
    page.wait_for_url("**/data")
    expect(page.get_by_text("No data sets yet")).to_be_visible()


@pytest.mark.parametrize("path", ["/data", "/models", f"/models/{USED_MODEL}", "/devices/signs-board", "/submit"])
def test_pages_fit_every_width_and_have_no_serious_findings_of_axe(
    page: Any, models: ServedDashboard, path: str
) -> None:
    page.goto(models.url + path)
    expect(page.get_by_role("heading").first).to_be_visible()
    expect(page.locator(".skeleton:visible")).to_have_count(0)
    require_accessible(page)
