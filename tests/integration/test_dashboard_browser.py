"""The dashboard in a real browser, over a seeded service on loopback: every page, clicks, the form, errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from nas.client import Client
from nas.core.retraining import RetrainSpec, TeacherSpec
from nas.core.spec import SearchSpec, parse_spec
from nas.core.spoken_names import spoken_name
from nas.schemas.candidates import CandidateSchema
from nas.schemas.marks import MarkBody
from nas.schemas.recommendations import RecommendationRule
from tests.support.browsing import MARKS, ServedDashboard, served
from tests.support.seeded_dashboard import CANCELLED, FAILED, FINISHED, RUNNING

pytestmark = MARKS
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
expect = sync_api.expect


@pytest.fixture(scope="module")
def empty() -> Iterator[str]:
    with served("empty") as dashboard:
        yield dashboard.url


@pytest.fixture(scope="module")
def down() -> Iterator[str]:
    with served("down") as dashboard:
        yield dashboard.url


@pytest.fixture(scope="module")
def finished(dashboard: ServedDashboard) -> str:
    """The id of the search with a verified front."""
    return dashboard.search_id(FINISHED)


def candidates(dashboard: ServedDashboard, search_id: str) -> list[CandidateSchema]:
    with Client(dashboard.url) as nas:
        return nas.candidates(search_id, limit=1000).items


def chart_point(page: Any, series: str, index: int) -> tuple[float, float, str]:
    """The position of a datum of the Pareto chart on the screen, and its architecture."""
    page.wait_for_selector(".pareto svg path", state="attached")
    page.locator(".pareto").scroll_into_view_if_needed()
    x, y, arch = page.evaluate(
        """([id, index]) => {
            const box = document.querySelector('.pareto');
            const chart = getElement(parseInt(box.id.slice(1))).chart;
            const series = chart.getOption().series;
            const i = series.findIndex(s => s.id == id);
            const datum = series[i].data[index];
            const at = chart.convertToPixel({seriesIndex: i}, datum.value);
            const corner = box.getBoundingClientRect();
            return [corner.x + at[0], corner.y + at[1], datum.arch];
        }""",
        [series, index],
    )
    return x, y, arch


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/", "digits under half a millisecond"),
        ("/searches/{finished}", "Pareto front"),
        ("/searches/{finished}/candidates/{arch}", "Architecture"),
        ("/devices", "board-4"),
        ("/devices/this-machine", "Versions of the predictor"),
        ("/compare?a=this-machine&b=shelf", "Spearman rank correlation"),
        ("/submit", "Save it in a file"),
        ("/service", "Audit trail"),
    ],
)
def test_pages_open_and_fit_laptop_and_phone(
    page: Any, dashboard: ServedDashboard, finished: str, path: str, content: str
) -> None:
    arch = dashboard.front(FINISHED).members[0].arch
    page.goto(dashboard.url + path.format(finished=finished, arch=arch))
    expect(page.get_by_text(content).first).to_be_visible()
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function(f"document.documentElement.scrollWidth <= {width}")  # charts follow a moment later


def test_list_filters_by_status(page: Any, full: str) -> None:
    page.goto(full)
    expect(page.locator("a.lrow", has_text=CANCELLED)).to_be_visible()
    page.get_by_role("button", name="failed", exact=True).click()
    expect(page.locator("a.lrow", has_text=CANCELLED)).to_have_count(0)
    expect(page.locator("a.lrow")).to_have_count(1)
    expect(page.locator("a.lrow")).to_contain_text("no network meets the bound")
    assert page.url.endswith("?status=failed")


def test_running_search_updates_by_itself(page: Any, dashboard: ServedDashboard) -> None:
    page.goto(f"{dashboard.url}/searches/{dashboard.search_id(RUNNING)}")
    running = page.locator(".stage.running")
    expect(running).to_contain_text(" of ")
    before = running.inner_text()
    expect(running).not_to_have_text(before)
    expect(page.get_by_text("no candidate has been measured yet")).to_be_visible()
    expect(page.get_by_text("not counted: ")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.long
def test_hover_names_the_candidate_and_click_opens_it(page: Any, full: str, finished: str) -> None:
    page.goto(f"{full}/searches/{finished}")
    x, y, arch = chart_point(page, "search.measured.verified", 2)
    page.mouse.move(x, y)
    expect(page.locator(".tip")).to_contain_text(arch)
    expect(page.locator(".tip")).to_contain_text("Measured latency")
    page.mouse.click(x, y)
    page.wait_for_url(f"**/searches/{finished}/candidates/{arch}")
    expect(page.get_by_role("heading", name=f"Candidate {arch}")).to_be_visible()
    expect(page.get_by_text("95 % interval")).to_be_visible()
    expect(page.get_by_role("link", name="model.onnx")).to_have_attribute(
        "href", f"/v1/searches/{finished}/artifacts/{arch}/model.onnx"
    )


def test_chart_separates_predicted_and_measured_axes(page: Any, full: str, finished: str) -> None:
    page.goto(f"{full}/searches/{finished}")
    chart = page.locator(".pareto")
    expect(chart).to_contain_text("Measured latency (ms)")
    expect(chart).to_contain_text("bound 0.5 ms")
    page.get_by_role("button", name="As predicted").click()
    expect(page.locator(".pareto")).to_contain_text("Predicted latency (ms)")
    expect(page.locator(".pareto")).not_to_contain_text("Measured")


@pytest.mark.long
def test_rank_correlation_has_a_matrix_for_every_decision(page: Any, dashboard: ServedDashboard, finished: str) -> None:
    page.goto(f"{dashboard.url}/searches/{finished}")
    with Client(dashboard.url) as nas:
        correlation = nas.search(finished).rank_correlation
    assert correlation is not None
    card = page.locator(".card", has=page.get_by_role("heading", name="Rank correlation"))
    expect(card).to_contain_text(correlation.advice)
    expect(card.locator(".tree")).to_contain_text("subspace 3, 30 % of all architectures")
    first, second = correlation.similarities[:2]
    expect(card).to_contain_text(f"Best two groups: {', '.join(first.groups[0])} |")
    card.get_by_role("combobox", name="Decision").click()
    page.get_by_role("option", name=second.decision).click()
    expect(card.locator(".similarity")).to_contain_text(f"{second.similarity[0][1]:.2f}")
    page.goto(f"{dashboard.url}/searches/{dashboard.search_id(RUNNING)}")
    expect(page.locator(".stage.running")).to_be_visible()
    expect(page.get_by_role("heading", name="Rank correlation")).to_be_hidden()


def test_table_filters_sorts_and_opens_a_candidate(page: Any, dashboard: ServedDashboard, finished: str) -> None:
    page.goto(f"{dashboard.url}/searches/{finished}")
    table = page.locator(".nets")
    rows = table.locator("tbody tr")
    expect(rows).to_have_count(15)
    header = table.locator("th", has_text="Measured latency")
    expect(header).to_contain_text("ms")
    expect(header).to_contain_text("measured")
    page.get_by_role("checkbox", name="Front only").click()
    front = [c for c in candidates(dashboard, finished) if c.on_front and c.origin == "search"]
    expect(page.locator(".nets .q-table__bottom")).to_contain_text(f"of {len(front)}")
    titles = table.locator("th").all_inner_texts()  # all at once: the table may be drawn anew between two questions
    [column] = [position for position, title in enumerate(titles, 1) if "Measured latency" in title]
    header.click()
    cells = rows.locator(f"td:nth-child({column})")
    expect(cells.first).not_to_have_text("–")
    fastest = min(c.metrics["measured_ms"].value for c in front)
    expect(cells.first).to_have_text(f"{fastest:.3g}")
    name, arch = rows.first.locator("a").inner_text(), rows.first.locator(".mono").inner_text()
    assert name == spoken_name(arch)
    page.get_by_label("find").fill(name)
    expect(rows).to_have_count(1)
    page.get_by_label("find").fill(arch[:6])
    expect(rows).to_have_count(1)
    rows.first.locator("td").nth(3).click()
    page.wait_for_url(f"**/candidates/{arch}*")


def test_table_parts_origins_chooses_columns_and_exports(page: Any, dashboard: ServedDashboard, finished: str) -> None:
    page.goto(f"{dashboard.url}/searches/{finished}")
    table = page.locator(".nets")
    expect(table.locator("tbody tr")).to_have_count(15)
    assert table.evaluate("box => box.querySelector('.q-table__middle').scrollWidth <= box.clientWidth + 1")
    expect(table.locator("th", has_text="upper bound")).to_have_count(0)
    page.get_by_role("button", name="Columns").click()
    page.get_by_role("checkbox", name="95 % upper bound", exact=True).click()
    expect(table.locator("th", has_text="upper bound")).to_have_count(1)
    page.keyboard.press("Escape")
    page.get_by_role("button", name=re.compile("Random baseline")).click()
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    rows = download.value.path().read_text().splitlines()
    baseline = [c for c in candidates(dashboard, finished) if c.origin == "baseline"]
    assert len(rows) == 1 + len(baseline)
    assert all(",baseline," in row for row in rows[1:])


def test_finished_search_says_which_network_to_ship(page: Any, dashboard: ServedDashboard, finished: str) -> None:
    page.goto(f"{dashboard.url}/searches/{finished}")
    card = page.locator(".card", has=page.get_by_role("heading", name="Which network should I ship?"))
    with Client(dashboard.url) as nas:
        within = nas.recommendation(finished)
        best = nas.recommendation(finished, RecommendationRule(rule="best"))
    assert within.name is not None
    expect(card.locator(".recommended")).to_have_text(within.name)
    expect(card).to_contain_text("within 0.5 points of the best")
    expect(card).to_contain_text("kept, so it is verified")
    expect(card.locator("pre")).to_contain_text("onnxruntime.InferenceSession")
    expect(card.get_by_role("link", name=re.compile("Download"))).to_have_attribute("href", re.compile("/artifacts/"))
    card.get_by_role("combobox", name="Rule").click()
    page.get_by_role("option", name="Best quality").click()
    expect(card.locator(".recommended")).to_have_text(str(best.name))
    slider = card.get_by_role("slider", name="Measured latency at most")
    for _ in range(5):
        slider.locator("[tabindex='0']").press("PageDown")
    expect(card).to_contain_text("Measured latency at most: 0.")
    expect(card).not_to_contain_text("No network to recommend")
    expect(card.locator(".recommended")).not_to_have_text(str(best.name))


@pytest.mark.long
def test_stars_and_notes_are_written_on_the_page(page: Any, dashboard: ServedDashboard, finished: str) -> None:
    page.goto(f"{dashboard.url}/searches/{finished}")
    page.get_by_role("button", name="star", exact=True).first.click()
    expect(page.get_by_role("button", name="remove the star").first).to_be_visible()
    page.get_by_role("button", name="Note").first.click()
    page.get_by_role("dialog").get_by_label("Note").fill("shown to the board")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("shown to the board")).to_be_visible()
    page.goto(dashboard.url)
    expect(page.locator("a.lrow", has_text="shown to the board").get_by_label("starred")).to_be_visible()
    with Client(dashboard.url) as nas:
        nas.set_mark(finished, MarkBody())


@pytest.mark.long
def test_form_shows_the_spec_keeps_its_input_and_submits(page: Any, full: str) -> None:
    page.goto(f"{full}/submit")
    page.get_by_label("Name").fill("from the form")
    page.get_by_label("Latency bound (ms)").fill("0.05")
    page.get_by_label("Evaluations").fill("96")
    preview = page.locator(".spec-preview")
    expect(preview).to_contain_text("evaluations: 96")
    spec = parse_spec(SearchSpec, yaml.safe_load(preview.inner_text()))
    assert (spec.name, spec.bound("latency"), spec.budget.evaluations) == ("from the form", 0.05, 96)
    page.get_by_role("button", name="Dry run").click()
    expect(page.get_by_text("Not feasible")).to_be_visible()
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_text("The search was not accepted")).to_be_visible()
    assert page.get_by_label("Name").input_value() == "from the form"
    page.get_by_label("Latency bound (ms)").fill("0.4")
    expect(preview).to_contain_text("bound: 0.4")
    page.get_by_role("button", name="Dry run").click()
    expect(page.get_by_text("Feasible: architectures of this space can meet every bound")).to_be_visible()
    expect(page.get_by_text("on node-a")).to_have_count(0)
    page.get_by_role("button", name="Time it on a worker").click()
    expect(page.get_by_text("on node-a")).to_be_visible()
    expect(page.get_by_text("train: 1 min 36 s (1 min 7 s to 2 min 34 s, 720 steps)")).to_be_visible()
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/searches/*")
    expect(page.get_by_role("heading", name="from the form")).to_be_visible()
    expect(page.get_by_text("Waiting for a worker")).to_be_visible()


def test_form_offers_teachers_and_recipes_of_retraining(page: Any, full: str) -> None:
    page.goto(f"{full}/submit")
    page.locator("summary", has_text="More").click()
    page.get_by_label("Retraining, epochs").fill("30")
    page.get_by_label("Teacher of retraining").fill("3f2a/8d21")
    page.get_by_label("Recipe of retraining (YAML)").fill("mixup: 0.2")
    preview = page.locator(".spec-preview")
    expect(preview).to_contain_text("mixup: 0.2")
    spec = parse_spec(SearchSpec, yaml.safe_load(preview.inner_text()))
    assert spec.retrain == RetrainSpec(epochs=30, mixup=0.2, teacher=TeacherSpec(search="3f2a", network="8d21"))
    page.get_by_label("Teacher of retraining").fill("biggest")
    expect(preview).to_contain_text("not complete yet")


def test_form_shows_what_is_wrong_before_submitting(page: Any, full: str) -> None:
    page.goto(f"{full}/submit")
    page.get_by_label("Name").fill("")
    expect(page.locator(".spec-preview")).to_contain_text("not complete yet")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("alert")).to_contain_text("name:")
    assert page.url.endswith("/submit")


def test_device_is_added_and_its_progress_shown(page: Any, full: str) -> None:
    page.goto(f"{full}/devices")
    page.get_by_label("Name").fill("shelf")
    page.get_by_role("button", name="Add device").click()
    expect(page.get_by_role("alert")).to_contain_text("device 'shelf' has an agent")
    page.get_by_label("Name").fill("kiosk")
    page.get_by_role("button", name="Add device").click()
    page.wait_for_url("**/devices/kiosk")
    expect(page.locator(".stage.running")).to_contain_text("37 of 96 networks")


def test_form_shows_the_command_that_starts_an_agent(page: Any, full: str) -> None:
    page.goto(f"{full}/devices")
    expect(page.get_by_text("agent last seen")).to_be_visible()
    page.get_by_role("button", name="Another machine").click()
    page.get_by_label("Name").fill("kitchen")
    expect(page.locator("pre")).to_contain_text(f"nas-agent --server {full} --name kitchen")
    expect(page.get_by_text("Agents: shelf (connected)")).to_be_visible()
    expect(page.get_by_label("Threads")).to_be_hidden()
    page.goto(f"{full}/devices/shelf")
    expect(page.get_by_text("Predicted from the energies of the device")).to_be_visible()
    expect(page.get_by_text("runtime version: 1.22.0, now 1.31.1")).to_be_visible()
    expect(page.get_by_text("onnxruntime 1.31.1").first).to_be_visible()


def test_a_device_from_a_table_or_peak_figures(page: Any, full: str) -> None:
    page.goto(f"{full}/devices")
    page.get_by_role("button", name="A table of latencies").click()
    page.get_by_label("Name").fill("phone")
    page.get_by_role("button", name="Add device").click()
    expect(page.get_by_role("alert")).to_contain_text("choose a file first")
    page.get_by_role("button", name="Peak figures").click()
    expect(page.get_by_label("FLOP/s at most")).to_be_visible()
    page.get_by_role("button", name="Add device").click()
    page.wait_for_url("**/devices/phone")


def test_failed_search_shows_its_error(page: Any, dashboard: ServedDashboard) -> None:
    page.goto(f"{dashboard.url}/searches/{dashboard.search_id(FAILED)}")
    expect(page.get_by_role("alert")).to_contain_text("the lowest reachable upper bound is 0.071 ms")


@pytest.mark.parametrize(
    "path", ["/searches/nope", "/devices/nope", "/searches/{finished}/candidates/nope", "/no/such/page"]
)
def test_unknown_pages_are_not_found(page: Any, full: str, finished: str, path: str) -> None:
    response = page.goto(full + path.format(finished=finished))
    assert response.status == 404
    expect(page.get_by_role("heading", name="Not found")).to_be_visible()


def test_empty_service_shows_first_steps(page: Any, empty: str) -> None:
    page.goto(empty)
    expect(page.get_by_text("No searches yet")).to_be_visible()
    expect(page.locator("pre")).to_contain_text("nas devices add")
    expect(page.locator("pre")).to_contain_text("nas submit")
    page.get_by_role("button", name="Fill in a form instead").click()
    page.wait_for_url("**/submit")
    expect(page.get_by_text("no device has a predictor yet")).to_be_visible()
    page.goto(f"{empty}/devices")
    expect(page.get_by_text("No devices yet")).to_be_visible()


@pytest.mark.long
@pytest.mark.parametrize("path", ["/", "/searches/5ea4c1", "/submit"])
def test_unreachable_service_is_a_banner(page: Any, down: str, path: str) -> None:
    page.goto(down + path)
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    expect(page.get_by_text("Traceback")).to_have_count(0)


@pytest.mark.long
def test_theme_follows_the_system_and_can_be_switched(page: Any, full: str) -> None:
    def background() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    page.goto(full)
    light = background()
    page.emulate_media(color_scheme="dark")
    page.reload()
    expect(page.locator("body")).to_have_class(re.compile("body--dark"))
    assert background() != light
    page.get_by_role("button", name="theme: auto").click()
    page.get_by_role("button", name="theme: light").wait_for()
    expect(page.locator("body")).to_have_class(re.compile("body--light"))
    page.reload()
    expect(page.locator("body")).to_have_class(re.compile("body--light"))
    assert background() == light
