"""Few-shot search (Zhao et al., ICML 2021; GM-NAS: Hu et al., ICLR 2022): a supernet for each part of the space."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nas.core.errors import InvalidSpec
from nas.core.ports import Problem, SearchSpace, Stage
from nas.core.spec import SearchSpec, parse_spec
from nas.training.fewshot.partition import divisible, exhaustive_split


class FewShotParams(BaseModel):
    """``split``: how the space is divided, in at most ``parts`` parts, by ``decisions`` (none named: by any; an
    exhaustive split takes the first). ``subnets`` networks are trained per step, ``part_epochs`` are those of each
    part. ``trust_networks`` are trained alone to see how far the ranking can be trusted; 0: none. With them,
    ``compare_one_shot`` tells what the split has gained: it trains the whole supernet on for as many steps as all parts
    together.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    split: Literal["gradient_matching", "exhaustive", "random"] = "gradient_matching"
    parts: int = Field(default=4, ge=2, le=64)
    decisions: list[str] = Field(default_factory=list)
    repeats: int = Field(default=8, ge=1, le=1_000)
    warmup_epochs: int = Field(default=20, ge=1, le=100_000)
    part_epochs: int = Field(default=8, ge=1, le=100_000)
    subnets: int = Field(default=2, ge=1, le=64)
    batch_size: int = Field(default=64, ge=2, le=65_536)
    lr: float = Field(default=0.1, gt=0, le=10)
    part_lr: float = Field(default=0.05, gt=0, le=10)
    weight_decay: float = Field(default=3e-5, ge=0, le=1)
    trust_networks: int = Field(default=12, ge=0, le=1_000)
    trust_epochs: int = Field(default=4, ge=1, le=100_000)
    compare_one_shot: bool = True
    checkpoint_s: float = Field(default=10.0, gt=0)

    @model_validator(mode="after")
    def _makes_sense(self) -> FewShotParams:
        if self.split == "random" and self.decisions:
            raise ValueError("decisions: a random split draws its own; expected none, or another split")
        if len(set(self.decisions)) != len(self.decisions):
            raise ValueError(f"decisions: expected each once, got {', '.join(self.decisions)}")
        if 0 < self.trust_networks < 4:
            raise ValueError(f"trust_networks: expected 0, or at least 4 for a ranking, got {self.trust_networks}")
        return self


def check(spec: SearchSpec, space: SearchSpace) -> FewShotParams:
    """The parameters of a spec. Raises InvalidSpec for decisions that a space lacks, and where nothing can be split."""
    params = parse_spec(FewShotParams, spec.strategy.params)
    known = [space.decisions[g].name for g in divisible(space)]
    if not known:
        raise InvalidSpec(f"few_shot splits decisions, of which {space.name} leaves none open but the resolution")
    if unknown := [n for n in params.decisions if n not in known]:
        raise InvalidSpec(f"few_shot cannot split {unknown[0]!r}: expected some of {', '.join(known)}")
    if params.split == "exhaustive":
        exhaustive_split(space, params.decisions, params.parts)
    return params


def few_shot(problem: Problem) -> tuple[Stage, ...]:
    """Estimate, warm up, split, train (the parts), trust, explore, verify, export.

    Raises InvalidSpec for decisions that the space lacks, and where nothing can be split.
    """
    # Stages need torch; a server that only checks parameters does not.
    from nas.stages.estimate import EstimateStage
    from nas.stages.explore import ExploreStage
    from nas.stages.export import ExportStage
    from nas.stages.parts import PartsStage
    from nas.stages.split import SplitStage
    from nas.stages.train import TrainStage
    from nas.stages.trust import TrustStage
    from nas.stages.verify import VerifyStage
    from nas.training import samplers
    from nas.training.progressive import Phase, Recipe, uniform

    params, space = check(problem.spec, problem.space), problem.space
    axes = samplers.axes(space.decisions)

    def recipe(phases: tuple[Phase, ...]) -> Recipe:
        return Recipe(phases, min(params.batch_size, len(problem.data.train)), weight_decay=params.weight_decay)

    warm_up = recipe(uniform(params.warmup_epochs, params.lr, axes, params.subnets))
    parts = recipe(uniform(params.part_epochs, params.part_lr, axes, params.subnets))
    alone = recipe(uniform(params.trust_epochs, params.lr, axes, 1))
    return (
        EstimateStage(),
        TrainStage(warm_up, params.checkpoint_s, "warm_up"),
        SplitStage(params.split, params.parts, tuple(params.decisions), params.repeats, warm_up.batch_size),
        PartsStage(parts, params.parts, params.checkpoint_s, params.compare_one_shot and params.trust_networks > 0),
        TrustStage(alone, params.trust_networks),
        ExploreStage(),
        VerifyStage(),
        ExportStage(),
    )


few_shot.check = check  # type: ignore[attr-defined]
few_shot.params_model = FewShotParams  # type: ignore[attr-defined]
few_shot.stage_names = (  # type: ignore[attr-defined]
    "estimate",
    "warm_up",
    "split",
    "train",
    "trust",
    "explore",
    "verify",
    "export",
)
