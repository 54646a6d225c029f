"""The stages after exploring, which strategies end with: retraining if the spec says so, verification, refinement and
export. Importing this module imports no torch."""

from __future__ import annotations

from nas.core.ports import Stage
from nas.core.spec import SearchSpec


def closing_stages(spec: SearchSpec) -> tuple[Stage, ...]:
    """The last stages of a search, in order."""
    from nas.stages.export import ExportStage
    from nas.stages.refine import RefineStage
    from nas.stages.retrain import RetrainStage
    from nas.stages.verify import VerifyStage

    retrain = (RetrainStage(),) if spec.retrain is not None else ()
    return (*retrain, VerifyStage(), RefineStage(), ExportStage())


def closing_stage_names(spec: SearchSpec) -> tuple[str, ...]:
    """Their names."""
    retrain = ("retrain",) if spec.retrain is not None else ()
    return (*retrain, "verify", "refine", "export")
