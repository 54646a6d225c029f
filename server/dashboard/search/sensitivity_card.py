"""How sensitive a user's model is to the cuts that a search may make, and networks are to int8."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from nas.schemas.jobs import StageSchema
from nas.stages.results import PrecisionResult, SensitivityResult
from server.dashboard.elements import div, heading, kind_chip, progress_bar, text


@dataclass(frozen=True)
class CutSensitivity:
    """The distortion of the deepest cut of one part of a model, or of its quantisation, and its share of the largest of
    all parts."""

    part: str
    distortion: float
    share: float


def sensitivities_of(stages: Iterable[StageSchema]) -> tuple[CutSensitivity, ...]:
    """The parts of a user's model, or the layer groups of networks, the most sensitive first; none before the stage has
    finished."""
    results = {stage.name: stage.result for stage in stages if stage.result}
    if (cuts := results.get(SensitivityResult.stage)) is not None:
        distortions = SensitivityResult.parse(cuts).distortions
        deepest = {_cut_text(name): by_choice[0] for name, by_choice in distortions.items() if len(by_choice) > 1}
    elif (precisions := results.get(PrecisionResult.stage)) is not None:
        deepest = _mean_changes(PrecisionResult.parse(precisions).changes)
    else:
        return ()
    largest = max(deepest.values(), default=0.0) or 1.0
    ordered = sorted(deepest.items(), key=lambda item: -item[1])
    return tuple(CutSensitivity(name, value, value / largest) for name, value in ordered)


def _mean_changes(changes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What int8 changes by group of layers, as a mean over networks."""
    groups = dict.fromkeys(name for of_network in changes for name in of_network)
    return {f"{name}, int8": fmean(of_network[name] for of_network in changes) for name in groups}


def draw_sensitivities(parts: tuple[CutSensitivity, ...]) -> None:
    """Each part with a bar."""
    if not parts:
        return
    with div("card stack"):
        with div("card-head"):
            heading("Sensitivity", 2)
            kind_chip("estimated")
        with div("facts").style("max-height: 24rem; overflow-y: auto"):
            for part in parts:
                text(part.part)
                with div():
                    text(f"{part.distortion:.3g}", "num")
                    progress_bar(part.share)
        text("The change of the outputs if this alone is cut as far as the space allows, or is int8.", "small muted")


def _cut_text(decision: str) -> str:
    name, _, axis = decision.rpartition(".")
    return {"width": f"{name}, narrowed", "depth": f"{name}, skipped"}.get(axis, decision)
