"""The stages after exploring, which strategies end with: precisions where these are mixed, references if there are any,
retraining if the spec says so, verification, refinement and export. Importing this module imports no torch."""

from __future__ import annotations

from nas.core.ports import Stage
from nas.core.spec import SearchSpec


def closing_stages(spec: SearchSpec, adapt_images: int = 0) -> tuple[Stage, ...]:
    """The last stages of a search, in order. ``adapt_images``: what references are trained on before they are scored,
    as the networks of the search are."""
    from nas.stages.allocate_precision import AllocatePrecisionStage
    from nas.stages.export import ExportStage
    from nas.stages.references import ReferenceStage
    from nas.stages.refine import RefineStage
    from nas.stages.retrain import RetrainStage
    from nas.stages.verify import VerifyStage

    precision = (AllocatePrecisionStage(),) if spec.precision == "mixed" else ()
    references = (ReferenceStage(adapt_images),) if _has_references(spec) else ()
    retrain = (RetrainStage(),) if spec.retrain is not None else ()
    return (*precision, *references, *retrain, VerifyStage(), RefineStage(), ExportStage())


def closing_stage_names(spec: SearchSpec) -> tuple[str, ...]:
    """Their names."""
    precision = ("allocate_precision",) if spec.precision == "mixed" else ()
    references = ("references",) if _has_references(spec) else ()
    retrain = ("retrain",) if spec.retrain is not None else ()
    return (*precision, *references, *retrain, "verify", "refine", "export")


def _has_references(spec: SearchSpec) -> bool:
    """Those that the spec names, or those of a user's model."""
    return bool(spec.references) or spec.space.model is not None
