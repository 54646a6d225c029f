"""The dashboard as ``nas serve`` serves it, with every middleware between a browser and its pages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from nas.core.access import LOCAL
from nas.core.events import Progress
from server.store.store import open_store
from tests.support import fakes, fleets
from tests.support.browsing import MARKS
from tests.support.image_files import colour_folder
from tests.support.intake import run_oldest_job
from tests.support.models import mobilenet_v2, save_exported
from tests.support.paths import ROOT
from tests.support.waiting import wait_for

pytestmark = MARKS
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
expect = sync_api.expect


@contextmanager
def service(home: Path, **settings: str) -> Iterator[str]:
    """``nas serve`` without a dispatcher; its address."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("HWNAS_")} | {"PYTHONPATH": str(ROOT)}
    own |= {"HWNAS_DISPATCH": "false", **{f"HWNAS_{k.upper()}": v for k, v in settings.items()}}
    log = home / "log"
    with log.open("wb") as file:
        command = [sys.executable, "-m", "server.cli", "serve", "--home", str(home), "--port", "0"]
        child = subprocess.Popen(command, env=own, stdout=file, stderr=file)

    def address() -> str | None:
        assert child.poll() is None, log.read_text()
        ready = [line for line in log.read_text().splitlines() if "is ready: " in line]
        return ready[0].split("is ready: ")[1].split()[0] if ready else None

    try:
        url = wait_for(address, 60)
        wait_for(lambda: httpx.get(f"{url}/healthz").is_success or None, 30)
        yield url
    finally:
        child.terminate()
        child.wait(timeout=30)


@pytest.mark.long
def test_pages_of_an_empty_service_open(page: Any, tmp_path: Path) -> None:
    with service(tmp_path) as url:
        for path, heading in (
            ("/", "Searches"),
            ("/devices", "Devices"),
            ("/data", "Data"),
            ("/models", "Models"),
            ("/submit", "New search"),
            ("/service", "Service"),
        ):
            page.goto(url + path)
            expect(page.get_by_role("heading", level=1)).to_contain_text(heading)
        page.goto("about:blank")  # its socket would notice that the service goes


@pytest.mark.long
def test_model_is_uploaded_and_its_report_is_drawn(page: Any, tmp_path: Path) -> None:
    exported = save_exported(mobilenet_v2(), tmp_path / "signs.pt2")
    blobs = str(tmp_path / "blobs")
    with open_store(f"sqlite:///{tmp_path / 'hwnas.db'}", blobs) as store, service(tmp_path) as url:
        page.goto(f"{url}/models")
        expect(page.get_by_text("No models yet")).to_be_visible()
        pickled = {"name": "signs.pth", "mimeType": "application/octet-stream", "buffer": b"pickled"}
        page.locator("input[type=file]").first.set_input_files(pickled)
        expect(page.get_by_text("a pickled checkpoint runs code when it is opened")).to_be_visible()
        page.locator("input[type=file]").first.set_input_files(str(exported))
        expect(page.get_by_text("signs.pt2 is uploaded")).to_be_visible()
        page.get_by_label("Mean of the pixels").fill("123.7, 116.3, 103.5")
        page.get_by_label("Their standard deviation").fill("58.4, 57.1, 57.4")
        page.get_by_role("button", name="Add model").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("signs")
        expect(page.get_by_text("Waiting for a worker")).to_be_visible()
        run_oldest_job(store, blobs)
        drawing = page.get_by_role("img", name="groups of channels that may be narrowed")
        expect(drawing).to_be_visible()
        expect(page.get_by_role("heading", name="May be narrowed")).to_be_visible()
        expect(page.get_by_role("heading", name="Stays as wide as it is")).to_be_visible()
        upper, lower = (card.bounding_box() for card in page.locator(".card", has_text="May be").all()[-2:])
        assert lower["y"] - upper["y"] - upper["height"] > 8
        page.get_by_role("button", name="Make it faster").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("New search")
        page.goto("about:blank")


@pytest.mark.long
def test_data_set_is_uploaded_checked_and_deleted(page: Any, tmp_path: Path) -> None:
    colour_folder(tmp_path / "pets")
    archive = shutil.make_archive(str(tmp_path / "pets"), "zip", tmp_path / "pets")
    with service(tmp_path) as url:
        page.goto(f"{url}/data")
        expect(page.get_by_text("No data sets yet")).to_be_visible()
        page.locator("input[type=file]").first.set_input_files(archive)
        expect(page.get_by_text("pets.zip is uploaded: 24 files")).to_be_visible()
        page.get_by_role("button", name="Check and add").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("pets")
        expect(page.get_by_text("24 images in 2 classes were read")).to_be_visible()
        picture = page.get_by_role("img", name="Training images of data set pets")
        assert picture.evaluate("image => image.naturalHeight") == 2 * 52
        page.get_by_role("button", name="Check again").click()
        expect(page.get_by_text("It is unchanged")).to_be_visible()
        page.get_by_role("button", name="Delete").click()
        page.get_by_role("button", name="Delete data set").click()
        expect(page.get_by_text("No data sets yet")).to_be_visible()
        page.goto("about:blank")


def test_token_authenticates(page: Any, tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path / 'hwnas.db'}", str(tmp_path / "blobs")) as store:
        _, token = store.tokens.create("ada", "laptop", ["submit", "read"], None, LOCAL)
    with service(tmp_path, require_tokens="true") as url:
        page.goto(f"{url}/devices")
        page.get_by_label("token").fill(token)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_contain_text("Devices")
        expect(page.get_by_role("button", name="you are ada")).to_be_visible()
        page.goto("about:blank")


@pytest.mark.long
def test_device_of_a_fleet_is_selected_at_the_chart(page: Any, tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path / 'hwnas.db'}", str(tmp_path / "blobs")) as store:
        fakes.add_device(store)
        fleets.add_board(store)
        search = fakes.add_search(store, fleets.fleet_spec(bounds_ms=fleets.BOUNDS))
        fakes.run_log(store, [*fleets.log(), fleets.VERIFIED])
    with service(tmp_path) as url:
        page.goto(f"{url}/searches/{search}")
        chart = page.locator(".pareto")
        expect(chart).to_contain_text("Measured share of bound (%)")
        expect(page.get_by_text("Verified on every device")).to_be_visible()
        page.get_by_label("device", exact=True).click()
        page.get_by_role("option", name="board").click()
        expect(chart).to_contain_text("Measured latency (ms)")
        expect(page.get_by_text("Verified on board")).to_be_visible()
        page.goto("about:blank")


def test_running_search_is_followed_to_its_end(page: Any, tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path / 'hwnas.db'}", str(tmp_path / "blobs")) as store:
        fakes.add_device(store)
        search = fakes.add_search(store)
        lease = store.jobs.claim("tests", 1e6)
        assert lease is not None
        assert lease.job_id == store.queries.search_job(search)
        log = fakes.search_log()
        fakes.append(store, lease, [*log[:3], Progress("train", 1, 4, "epochs", {"loss": 2.0})], 1e6)
        with service(tmp_path) as url:
            page.goto(f"{url}/searches/{search}")
            stage = page.locator(".stage.running")
            expect(stage).to_contain_text("1 of 4 epochs")
            fakes.append(store, lease, [Progress("train", 3, 4, "epochs", {"loss": 1.0}, "nearly")], 1e6)
            expect(stage).to_contain_text("3 of 4 epochs")
            expect(stage).to_contain_text("nearly")
            fakes.append(store, lease, log[6:], 1e6)
            assert store.jobs.finish(lease, "succeeded")
            expect(page.locator("h1 + .badge")).to_have_text("✓ succeeded")
            expect(page.locator(".pareto")).to_contain_text("Measured latency (ms)")
            expect(page.locator(".nets tbody tr").first).to_contain_text("verified")
            page.goto("about:blank")
