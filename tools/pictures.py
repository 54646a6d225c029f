"""Make the pictures of the README from the demo's search.

    make demo                   # a real search on this machine: about 5 minutes
    nas serve                   # in another terminal
    python -m tools.pictures    # --url for a service elsewhere

Writes `docs/images/search.png`, the page of the newest search that has succeeded: look at it before it is committed.
Needs Chromium at /usr/bin/chromium.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from nas.client import Client
from nas.defaults import DEFAULT_URL

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
WIDTH_PX, HEIGHT_PX = 1280, 900
PATIENCE_MS = 60_000
_FLAGS = ["--no-sandbox", "--disable-gpu", "--hide-scrollbars"]


def newest_search(url: str) -> str:
    """The id of the newest search of a service that has succeeded. Raises SystemExit if there is none."""
    with Client(url) as nas:
        searches = nas.searches(status="succeeded", limit=1).items
    if not searches:
        raise SystemExit(f"expected a service with a search that has succeeded, found none at {url}")
    return searches[0].id


def save_search_page(page: Page, url: str, search_id: str, path: Path) -> None:
    """Save the whole page of a search once its table and its charts are drawn."""
    page.goto(f"{url}/searches/{search_id}")
    page.locator(".pareto svg path").first.wait_for(state="attached", timeout=PATIENCE_MS)
    page.locator("tbody tr").nth(1).wait_for(timeout=PATIENCE_MS)
    page.wait_for_timeout(2_000)  # the charts are animated
    page.screenshot(path=path, full_page=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default=DEFAULT_URL, help="address of a service with a finished search")
    url = parser.parse_args().url
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=_FLAGS)
        page = browser.new_page(viewport={"width": WIDTH_PX, "height": HEIGHT_PX}, color_scheme="light")
        save_search_page(page, url, newest_search(url), IMAGES / "search.png")
        browser.close()


if __name__ == "__main__":
    main()
