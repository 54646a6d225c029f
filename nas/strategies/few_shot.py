"""Few-shot search: a supernet for each subspace of the space.

Subspaces by choices: Zhao et al., ICML 2021; by gradient matching: Hu et al., GM-NAS, ICLR 2022; by a learned table:
Javan et al., Balanced mixture of supernets, AutoML 2023.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import Field, JsonValue, model_validator

from nas.core import registry
from nas.core.errors import InvalidSpec
from nas.core.plugins import Strategy
from nas.core.ports import Problem, SearchSpace, Stage, is_relaxed
from nas.core.rank_correlation import check_rank_networks
from nas.core.retraining import RecipeFields
from nas.core.spec import SearchSpec, parse_spec
from nas.stages.closing import closing_stage_names, closing_stages
from nas.training.fewshot.allowed import edges_by_decision
from nas.training.fewshot.halving import rung_epochs
from nas.training.fewshot.partition import exhaustive_split, routing_genes, splittable
from nas.training.gradient.options import DartsParams, check_relaxation
from nas.training.schedules import SCHEDULES, Phase, uniform


class FewShotParams(RecipeFields):
    """``split``: how the space is divided, in at most ``subspaces`` subspaces, by ``decisions`` (none named: by any; an
    exhaustive split takes the first). ``auto`` splits only where the choices of a decision harm each other through
    shared weights, and again inside what it has split; where none do, the space stays whole and trains for as many
    steps. An ``ensemble`` has exactly as many subspaces, and learns with their weights which combination of the
    decisions' choices (none named: of all) belongs to which, one network per step. ``subnets`` networks are trained per
    step otherwise, ``subspace_epochs`` are those of each subspace.

    ``search``: networks are searched for after training (explore), or each subspace is searched by gradient over a
    relaxation of its operations, and its networks are the first candidates; ``gradient`` holds options of strategy
    darts for that. ``schedule`` is how subspaces are trained if not by gradient: random networks, or as by
    once_for_all.

    ``rank_networks`` are trained from scratch to see how far the ranking can be trusted; 0: none. With them,
    ``compare_one_shot`` shows what the split has gained, unless subspaces are searched by gradient: it trains the whole
    supernet on for as many steps as all subspaces together.

    The recipe is that of the warm-up, of the sub-supernets that are not searched by gradient, and of the networks that
    are ranked. An ensemble has a training of its own.
    """

    split: Literal["gradient_matching", "auto", "exhaustive", "random", "ensemble"] = "gradient_matching"
    search: Literal["explore", "darts", "gdas", "snas", "proxyless"] = "explore"
    gradient: dict[str, JsonValue] = Field(default_factory=dict)
    schedule: Literal["uniform", "progressive", "sandwich"] = "uniform"
    subspaces: int = Field(default=4, ge=2, le=64)
    decisions: list[str] = Field(default_factory=list)
    match_again: bool = Field(
        default=False, description="compare choices again inside each subspace that is split further, as GM-NAS does"
    )
    halving: bool = Field(
        default=False,
        description="searches by gradient: train the worse half of the subspaces no further, until one is left",
    )
    repeats: int = Field(default=8, ge=1, le=1_000)
    warmup_epochs: int = Field(default=20, ge=1, le=100_000)
    subspace_epochs: int = Field(default=8, ge=1, le=100_000)
    subnets: int = Field(default=2, ge=1, le=64)
    batch_size: int = Field(default=64, ge=2, le=65_536)
    lr: float = Field(default=0.1, gt=0, le=10)
    subspace_lr: float = Field(default=0.05, gt=0, le=10)
    weight_decay: float = Field(default=3e-5, ge=0, le=1)
    rank_networks: int = Field(default=12, ge=0, le=1_000)
    rank_epochs: int = Field(default=4, ge=1, le=100_000)
    compare_one_shot: bool = True
    checkpoint_s: float = Field(default=10.0, gt=0)

    @model_validator(mode="after")
    def _split_makes_sense(self) -> FewShotParams:
        if self.split == "random" and self.decisions:
            raise ValueError("decisions: a random split draws its own; expected none, or another split")
        if len(set(self.decisions)) != len(self.decisions):
            raise ValueError(f"decisions: expected each once, got {', '.join(self.decisions)}")
        check_rank_networks(self.rank_networks)
        if self.match_again and self.split != "gradient_matching":
            raise ValueError(f"match_again is for split gradient_matching: expected it false, got split {self.split}")
        if self.split == "auto" and self.repeats < 4:
            raise ValueError(f"repeats: split auto judges on half of them: expected at least 4, got {self.repeats}")
        own = sorted(RecipeFields.model_fields.keys() & self.model_fields_set)
        if own and self.split == "ensemble":
            raise ValueError(
                f"{own[0]}: split ensemble has a training of its own: expected the default, or another split"
            )
        if self.split == "ensemble" and (self.search, self.schedule) != ("explore", "uniform"):
            raise ValueError("split ensemble has a training of its own: expected search explore and schedule uniform")
        return self

    @model_validator(mode="after")
    def _search_makes_sense(self) -> FewShotParams:
        if self.halving and self.search == "explore":
            raise ValueError("halving is for searches by gradient: expected it false with search explore")
        rungs = len(rung_epochs(self.subspaces, 1))
        if self.halving and self.subspace_epochs <= rungs:
            raise ValueError(
                f"halving of {self.subspaces} subspaces: expected more than {rungs} subspace_epochs, got "
                f"{self.subspace_epochs}"
            )
        if self.search == "explore":
            if self.gradient:
                raise ValueError("gradient: expected none with search explore")
        elif self.schedule != "uniform":
            raise ValueError(f"schedule {self.schedule} is for search explore, got {self.search}")
        elif reserved := sorted(_RESERVED & set(self.gradient)):
            raise ValueError(f"gradient.{reserved[0]} is given by few_shot itself: expected other options of darts")
        return self


_RESERVED = {"preset", "epochs", "seeds", "batch_size", "checkpoint_s", "rank_networks", "rank_epochs"}


def check(spec: SearchSpec, space: SearchSpace) -> None:
    """Raises InvalidSpec for decisions that a space lacks, where nothing can be split, and for a differentiable search
    in a space without a continuous relaxation, or with one that the parameters do not fit."""
    params = parse_spec(FewShotParams, spec.strategy.params)
    names = [space.decisions[g].name for g in splittable(space)]
    if not names:
        raise InvalidSpec(f"few_shot splits decisions, of which {space.name} leaves none open but the resolution")
    if unknown := [n for n in params.decisions if n not in names]:
        raise InvalidSpec(f"few_shot cannot split {unknown[0]!r}: expected some of {', '.join(names)}")
    decisions = _divided(params, space)
    if params.split == "exhaustive":
        exhaustive_split(space, decisions, params.subspaces)
    if params.split == "ensemble":
        routing_genes(space, decisions)


def stages(problem: Problem) -> tuple[Stage, ...]:
    """All stages of a search.

    Raises InvalidSpec for decisions that the space lacks, where nothing can be split, and for a differentiable search
    in a space without a continuous relaxation.
    """
    # Stages need torch; a server that only checks parameters does not.
    from nas.stages.discretize import DiscretizeStage
    from nas.stages.estimate import EstimateStage
    from nas.stages.explore import ExploreStage
    from nas.stages.rank_correlation import RankCorrelationStage
    from nas.stages.split import SplitStage
    from nas.stages.sub_supernets import SubSupernetsStage
    from nas.stages.supernet_ensemble import SupernetEnsembleStage
    from nas.stages.train import TrainStage
    from nas.training import samplers
    from nas.training.progressive import SupernetRecipe
    from nas.training.recipe import with_fields

    params, space = parse_spec(FewShotParams, problem.spec.strategy.params), problem.space
    check(problem.spec, space)
    options = _gradient_options(params) if params.search != "explore" else None
    decisions = _divided(params, space)
    compare = params.compare_one_shot and params.rank_networks > 0
    axes = samplers.axes(space.decisions)

    def recipe(phases: tuple[Phase, ...]) -> SupernetRecipe:
        batch_size = min(params.batch_size, len(problem.data.train))
        return with_fields(SupernetRecipe(phases, batch_size=batch_size, weight_decay=params.weight_decay), params)

    warm_up = recipe(uniform(params.warmup_epochs, params.lr, axes, params.subnets))
    train: Stage
    if params.split == "ensemble":
        mixed = recipe(uniform(params.subspaces * params.subspace_epochs, params.subspace_lr, axes, 1))
        mixed = replace(mixed, weight_decay=0.0, label_smoothing=0.0)
        train = SupernetEnsembleStage(mixed, params.subspaces, decisions, params.checkpoint_s, compare)
    else:
        of_subspaces = recipe(_phases_of_subspaces(params, axes))
        train = SubSupernetsStage(of_subspaces, params.subspaces, params.checkpoint_s, compare, options, params.halving)
    standalone = recipe(uniform(params.rank_epochs, params.lr, axes, 1))
    return (
        EstimateStage(),
        TrainStage(warm_up, params.checkpoint_s, "warm_up"),
        SplitStage(params.split, params.subspaces, decisions, params.repeats, warm_up.batch_size, params.match_again),
        train,
        RankCorrelationStage(standalone, params.rank_networks),
        *((DiscretizeStage(),) if options is not None else ()),
        ExploreStage(),
        *closing_stages(problem.spec),
    )


def _phases_of_subspaces(params: FewShotParams, axes: set[str]) -> tuple[Phase, ...]:
    if params.schedule == "uniform":
        return uniform(params.subspace_epochs, params.subspace_lr, axes, params.subnets)
    return SCHEDULES[params.schedule](params.subspace_epochs, params.subspace_lr, axes)


def _gradient_options(params: FewShotParams) -> DartsParams:
    """The options of strategy darts by which each subspace is searched."""
    derived = {
        "preset": params.search,
        "epochs": params.subspace_epochs,
        "batch_size": params.batch_size,
        "checkpoint_s": params.checkpoint_s,
    }
    # Sub-supernets go on from trained weights, of which no channels passed by and none has to learn before others.
    trained = {"lr": params.subspace_lr, "partial": 1, "alpha_warmup": 0}
    return parse_spec(DartsParams, {**trained, **params.gradient, **derived})


def _divided(params: FewShotParams, space: SearchSpace) -> tuple[str, ...]:
    """The decisions that may be divided, none for any. Raises InvalidSpec."""
    named = tuple(params.decisions)
    if params.search == "explore":
        return named
    options = _gradient_options(params)
    if not is_relaxed(space):
        raise InvalidSpec(
            f"search {params.search} needs a continuous relaxation, which {space.name} does not offer: expected search "
            f"explore, or one of the spaces {', '.join(registry.relaxed_spaces())}"
        )
    check_relaxation(options, space)
    if options.hypernetwork:
        raise InvalidSpec("gradient.hypernetwork is for strategy darts: expected it false in few_shot")
    ends_early = options.early_stop or options.collapse == "stop" or options.prune
    if params.halving and (ends_early or options.selection == "perturbation"):
        raise InvalidSpec(
            "halving compares subspaces after equal epochs: expected gradient without early_stop, prune, collapse stop "
            "and selection perturbation"
        )
    fit = tuple(space.decisions[g].name for g in edges_by_decision(space))
    if not fit:
        raise InvalidSpec(
            f"search {params.search} divides a space by decisions that are an edge's operation alone, of which "
            f"{space.name} has none: expected search explore, or strategy darts"
        )
    if unfit := [n for n in named if n not in fit]:
        raise InvalidSpec(
            f"search {params.search} cannot divide {unfit[0]!r}, which is not an edge's operation alone: expected some "
            f"of {', '.join(fit)}"
        )
    return named or (fit[:1] if params.split == "exhaustive" else fit)


def uses_relaxation(spec: SearchSpec) -> bool:
    """Whether each subspace is searched by gradient. Raises InvalidSpec for wrong parameters."""
    return parse_spec(FewShotParams, spec.strategy.params).search != "explore"


def trains_subspaces_apart(spec: SearchSpec) -> bool:
    """Whether sub-supernets train beside each other. Raises InvalidSpec for wrong parameters."""
    return parse_spec(FewShotParams, spec.strategy.params).split != "ensemble"


def stage_names(spec: SearchSpec) -> tuple[str, ...]:
    """The names of ``stages``. Raises InvalidSpec for wrong parameters."""
    derive = ("discretize",) if uses_relaxation(spec) else ()
    return ("estimate", "warm_up", "split", "train", "rank_correlation", *derive, "explore", *closing_stage_names(spec))


FEW_SHOT = Strategy(
    "few_shot",
    "Few-shot search: one supernet for each subspace of the space, so that networks that conflict share no weights.",
    FewShotParams,
    stages,
    stage_names,
    check,
    uses_relaxation=uses_relaxation,
    labels=("class",),
    uses_several_gpus=trains_subspaces_apart,
    trains_on_ranks=trains_subspaces_apart,
)
