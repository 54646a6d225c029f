"""What people decide on a finished search: the recommendation, stars and notes, files of candidates."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from nas.client import Client
from nas.core.errors import InfeasibleBound, InvalidInput, NotFound, UnknownName
from nas.core.recommendation import Rule
from nas.core.spoken_names import spoken_name
from nas.schemas.candidates import CandidateSchema, ConfusionSchema, FrontSchema
from nas.schemas.marks import MarkBody
from nas.schemas.recommendations import RecommendationRule, deciding_metric, recommend
from server.api.app import create_app
from server.dashboard.candidate.class_figures import confusion_html
from server.dashboard.candidate.waterline_card import waterline_svg
from server.dashboard.search.candidate_export import export_text
from server.dashboard.search.recommendation_card import run_snippet
from server.settings import Settings
from tests.support.seeded_dashboard import FINISHED, QUEUED, THREE, Seeds, seeded_store


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seeds]:
    with seeded_store(tmp_path_factory.mktemp("seeded")) as seeded:
        yield seeded


@pytest.fixture(scope="module")
def nas(seeds: Seeds, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    app = create_app(Settings(home=tmp_path_factory.mktemp("home")), seeds.store)
    with TestClient(app, "http://127.0.0.1:8765") as service, Client(transport=service._transport) as client:
        yield client


@pytest.fixture(scope="module")
def front(nas: Client, seeds: Seeds) -> FrontSchema:
    return nas.front(seeds.ids[FINISHED])


def quality(candidate: CandidateSchema) -> float:
    return candidate.metrics["val_accuracy"].value


def latency(candidate: CandidateSchema) -> float:
    return candidate.metrics["measured_ms"].value


def test_the_fastest_within_half_a_point_is_recommended(nas: Client, seeds: Seeds, front: FrontSchema) -> None:
    answer = nas.recommendation(seeds.ids[FINISHED])
    recommended = answer.candidate
    assert recommended is not None
    verified = [c for c in front.members if c.status == "verified"]
    assert len(verified) == answer.considered <= len(front.members) == answer.front_size
    close = [c for c in verified if quality(c) >= max(map(quality, verified)) - 0.5]
    assert recommended.arch == min(close, key=latency).arch
    assert (answer.quality, answer.cost, answer.name) == ("val_accuracy", "measured_ms", spoken_name(recommended.arch))
    assert "within 0.5 points of the best" in answer.reason
    text = " ".join(answer.evidence)
    assert "95 % interval" in text
    assert "kept, so it is verified" in text
    assert "no part in training or in this choice" in text


@pytest.mark.parametrize(("rule", "of"), [("best", max), ("fastest", min)])
def test_limits_narrow_the_choice(nas: Client, seeds: Seeds, front: FrontSchema, rule: Rule, of: type) -> None:
    verified = sorted((c for c in front.members if c.status == "verified"), key=latency)
    middle = verified[len(verified) // 2]
    limit = {"cost_at_most": latency(middle)} if rule == "best" else {"quality_at_least": quality(middle)}
    answer = nas.recommendation(seeds.ids[FINISHED], RecommendationRule(rule=rule, **limit))
    assert answer.candidate is not None
    if rule == "best":
        assert latency(answer.candidate) <= latency(middle)
    else:
        assert quality(answer.candidate) >= quality(middle)
    assert 0 < answer.considered < len(verified)


def test_a_waterline_is_by_given_figures_or_fitted_to_what_was_measured(
    nas: Client, seeds: Seeds, front: FrontSchema
) -> None:
    search, arch = seeds.ids[FINISHED], front.members[0].arch
    by_rates = nas.waterline(search, arch, flops_per_s=1e11, bytes_per_s=1e10)
    assert (by_rates.source, by_rates.level, by_rates.networks) == ("given", 10.0, None)
    detail = nas.candidate(search, arch)
    assert [w.name for w in by_rates.layers] == [x.name for x in detail.layers]
    assert by_rates.ms == pytest.approx(sum(w.ms for w in by_rates.layers))
    assert 0 < by_rates.efficiency <= 1
    svg = waterline_svg(by_rates)
    assert svg.count("<rect") == len(by_rates.layers)
    assert by_rates.source_sentence.endswith("as given.")
    with pytest.raises(InvalidInput, match="both"):
        nas.waterline(search, arch, flops_per_s=1e11)
    fitted = nas.waterline(search, arch)
    assert fitted.source == "fitted"
    assert fitted.networks is not None
    assert fitted.networks >= 8
    assert fitted.error_percent is not None
    assert f"fitted to {fitted.networks} networks" in fitted.source_sentence
    with pytest.raises(NotFound, match="no predictor"):
        nas.waterline(search, arch, device="none-such")


def test_a_candidate_is_scaled_to_another_bound(nas: Client, seeds: Seeds, front: FrontSchema) -> None:
    search, member = seeds.ids[FINISHED], front.members[0]
    own = member.metrics["macs"].value
    smaller = nas.scaled(search, member.arch, 0.8 * own, "macs")
    assert smaller.macs == smaller.cost <= 0.8 * own
    assert smaller.macs_factor == pytest.approx(smaller.macs / own)
    assert smaller.predicted_ms is not None
    assert smaller.upper_ms is not None
    assert smaller.predicted_ms <= smaller.upper_ms
    assert str(smaller.genes) in smaller.reference
    by_latency = nas.scaled(search, member.arch, smaller.upper_ms)
    assert by_latency.upper_ms is not None
    assert by_latency.upper_ms <= smaller.upper_ms
    with pytest.raises(InfeasibleBound):
        nas.scaled(search, member.arch, 1e-9)


def test_limits_that_nothing_meets_are_named(nas: Client, seeds: Seeds) -> None:
    answer = nas.recommendation(seeds.ids[FINISHED], RecommendationRule(cost_at_most=1e-6, quality_at_least=99.9))
    assert answer.candidate is None
    assert answer.reason == (
        "No member of the front has measured latency of at most 1e-06 and validation accuracy of at least 99.9."
    )
    assert nas.recommendation(seeds.ids[QUEUED]).reason.startswith("The front is empty")
    with pytest.raises(UnknownName, match="macs"):
        nas.recommendation(seeds.ids[THREE], RecommendationRule(cost="mac"))
    with pytest.raises(InvalidInput, match="slack"):
        recommend(nas.front(seeds.ids[FINISHED]), RecommendationRule(slack=-1.0))


def test_without_a_verified_member_unmeasured_ones_are_recommended_and_said_to_be(front: FrontSchema) -> None:
    members = [c.model_copy(update={"status": "unverified", "measurement": None}) for c in front.members]
    answer = recommend(front.model_copy(update={"members": members}), RecommendationRule(rule="best"))
    assert answer.considered == len(members)
    assert answer.evidence[0].startswith("No latency was measured")
    broken = [c.model_copy(update={"status": "violated"}) for c in front.members]
    answer_of_broken = recommend(front.model_copy(update={"members": broken}), RecommendationRule())
    assert answer_of_broken.candidate is None
    assert "measured above what was promised" in answer_of_broken.reason
    assert deciding_metric(front.quality) == "val_accuracy"


def test_stars_and_notes_are_kept_replaced_and_removed(nas: Client, seeds: Seeds, front: FrontSchema) -> None:
    search, arch = seeds.ids[THREE], nas.front(seeds.ids[THREE]).members[0].arch
    nas.set_mark(search, MarkBody(starred=True, note="  for the demo "))
    nas.set_mark(search, MarkBody(note="try int8"), arch)
    marks = {mark.arch: (mark.starred, mark.note, mark.owner) for mark in nas.marks(search)}
    assert marks == {None: (True, "for the demo", "local"), arch: (False, "try int8", "local")}
    assert (nas.search(search).starred, nas.search(search).note) == (True, "for the demo")
    assert {s.id for s in nas.searches(limit=100).items if s.starred} == {search}
    nas.set_mark(search, MarkBody())
    nas.set_mark(search, MarkBody(starred=True), arch)
    assert [(mark.arch, mark.starred, mark.note) for mark in nas.marks(search)] == [(arch, True, "")]
    with pytest.raises(NotFound, match="no network"):
        nas.set_mark(search, MarkBody(starred=True), "nope")


def test_exports_hold_every_candidate_with_names_units_and_marks(nas: Client, seeds: Seeds) -> None:
    candidates = nas.candidates(seeds.ids[FINISHED], limit=1000).items
    starred = nas.set_mark(
        seeds.ids[FINISHED], MarkBody(starred=True, note='a "note", with a comma'), candidates[3].arch
    )
    rows = list(csv.DictReader(io.StringIO(export_text(candidates, [starred], "csv"))))
    assert [row["arch"] for row in rows] == [c.arch for c in candidates]
    assert rows[3]["note"] == 'a "note", with a comma'
    assert float(rows[0]["val_accuracy [%]"]) == quality(candidates[0])
    records = json.loads(export_text(candidates, [starred], "json"))
    assert CandidateSchema.model_validate(records[0]) == candidates[0]
    assert [r["starred"] for r in records].count(True) >= 1


def test_the_snippet_takes_the_shape_of_the_network_and_the_matrix_marks_mistakes(nas: Client, seeds: Seeds) -> None:
    search, arch = seeds.ids[FINISHED], nas.recommendation(seeds.ids[FINISHED]).candidate
    assert arch is not None
    detail = nas.candidate(search, arch.arch)
    snippet = run_snippet(detail, "model.zip")
    assert len(snippet.splitlines()) == 3
    assert ", ".join(map(str, detail.input_shape)) in snippet
    page = confusion_html(ConfusionSchema(classes=["a<b", "c"], counts=[[8, 2], [0, 5]]))
    assert "a&lt;b" in page
    assert page.count('class="wrong"') == page.count('class="right"') == 2
    assert "--share:80%" in page
