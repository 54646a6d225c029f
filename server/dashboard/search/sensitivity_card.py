"""How sensitive a user's model is to the cuts that a search may make."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nas.schemas.jobs import StageSchema
from nas.stages.results import SensitivityResult
from server.dashboard.elements import div, heading, kind_chip, progress_bar, text


@dataclass(frozen=True)
class CutSensitivity:
    """The distortion of the deepest cut of one part of a model, and its share of the largest of all parts."""

    part: str
    distortion: float
    share: float


def sensitivities_of(stages: Iterable[StageSchema]) -> tuple[CutSensitivity, ...]:
    """The parts of the model of a search, the most sensitive first; none before the stage has finished."""
    record = next((stage.result for stage in stages if stage.name == SensitivityResult.stage and stage.result), None)
    if record is None:
        return ()
    distortions = SensitivityResult.parse(record).distortions
    deepest = {name: by_choice[0] for name, by_choice in distortions.items() if len(by_choice) > 1}
    largest = max(deepest.values(), default=0.0) or 1.0
    ordered = sorted(deepest.items(), key=lambda item: -item[1])
    return tuple(CutSensitivity(_cut_text(name), value, value / largest) for name, value in ordered)


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
        text("The change of the outputs if this alone is cut as far as the space allows.", "small muted")


def _cut_text(decision: str) -> str:
    name, _, axis = decision.rpartition(".")
    return {"width": f"{name}, narrowed", "depth": f"{name}, skipped"}.get(axis, decision)
