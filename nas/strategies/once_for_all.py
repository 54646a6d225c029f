"""Once-for-all (Cai et al., ICLR 2020): train one supernet for every network of the space, then search it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from nas.core.ports import Problem, Stage
from nas.core.spec import parse_spec


class OnceForAllParams(BaseModel):
    """``schedule``: progressive shrinking, or the sandwich rule. ``lr`` is for ``batch_size`` images.

    ``epochs`` are epochs over the training images in all phases together. ``explorer`` decides which networks are
    scored: NSGA-II over a ridge regression of accuracy, or a Gaussian process that also asks where it is unsure.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    schedule: Literal["progressive", "sandwich"] = "progressive"
    epochs: int = Field(default=45, ge=1, le=100_000)
    batch_size: int = Field(default=64, ge=2, le=65_536)
    lr: float = Field(default=0.1, gt=0, le=10)
    weight_decay: float = Field(default=3e-5, ge=0, le=1)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    distillation: float = Field(default=1.0, ge=0, le=100)
    checkpoint_s: float = Field(default=10.0, gt=0)
    explorer: Literal["nsga2", "bayesian"] = "nsga2"


def once_for_all(problem: Problem) -> tuple[Stage, ...]:
    """Estimate, train (largest, kernel, depth, width), explore, verify, export."""
    # Stages need torch; a server that only checks parameters does not.
    from nas.stages.estimate import EstimateStage
    from nas.stages.explore import ExploreStage
    from nas.stages.export import ExportStage
    from nas.stages.train import TrainStage
    from nas.stages.verify import VerifyStage
    from nas.training import samplers
    from nas.training.progressive import Recipe, progressive_shrinking, sandwich

    params = parse_spec(OnceForAllParams, problem.spec.strategy.params)
    axes = samplers.axes(problem.space.decisions)
    schedule = progressive_shrinking if params.schedule == "progressive" else sandwich
    recipe = Recipe(
        phases=schedule(params.epochs, params.lr, axes),
        batch_size=min(params.batch_size, len(problem.data.train)),
        weight_decay=params.weight_decay,
        label_smoothing=params.label_smoothing,
        distillation=params.distillation,
    )
    explore = ExploreStage(explorer=params.explorer)
    return (EstimateStage(), TrainStage(recipe, params.checkpoint_s), explore, VerifyStage(), ExportStage())


once_for_all.params_model = OnceForAllParams  # type: ignore[attr-defined]
once_for_all.stage_names = ("estimate", "train", "explore", "verify", "export")  # type: ignore[attr-defined]
