"""The card of a model's sensitivity lists what hurts most first."""

from __future__ import annotations

from nas.schemas.jobs import StageSchema
from nas.stages.results import PrecisionResult, SensitivityResult
from server.dashboard.search.sensitivity_card import CutSensitivity, sensitivities_of


def stage(name: str, result: dict[str, object]) -> StageSchema:
    return StageSchema(name=name, status="finished", result=result)


def test_the_most_sensitive_part_is_first() -> None:
    distortions = {"resolution": (0.0,), "stem.width": (0.2, 0.1, 0.0), "body.1.depth": (0.8, 0.0)}
    result = SensitivityResult("0" * 64, "taylor", 32, distortions)
    assert sensitivities_of([stage("estimate", {}), stage("sensitivity", result.to_json())]) == (
        CutSensitivity("body.1, skipped", 0.8, 1.0),
        CutSensitivity("stem, narrowed", 0.2, 0.25),
    )


def test_nothing_is_listed_before_anything_was_measured() -> None:
    assert sensitivities_of([stage("sensitivity", {})]) == ()
    assert sensitivities_of([stage("estimate", {})]) == ()
    assert sensitivities_of([stage("sensitivity", SensitivityResult("0" * 64).to_json())]) == ()


def test_layer_groups_have_the_mean_of_what_int8_changes() -> None:
    result = PrecisionResult(changes=({"stem": 0.1, "head": 0.4}, {"stem": 0.3, "head": 0.4}))
    stem, head = CutSensitivity("stem, int8", 0.2, 0.5), CutSensitivity("head, int8", 0.4, 1.0)
    assert sensitivities_of([stage("allocate_precision", result.to_json())]) == (head, stem)
    assert sensitivities_of([stage("allocate_precision", PrecisionResult().to_json())]) == ()
