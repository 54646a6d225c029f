"""Differentiable search (DARTS: Liu et al., ICLR 2019) and its descendants, by preset or option by option."""

from __future__ import annotations

from nas.core import registry
from nas.core.errors import InvalidSpec
from nas.core.plugins import Strategy
from nas.core.ports import Problem, SearchSpace, Stage, is_relaxed
from nas.core.rank_correlation import rank_networks_of
from nas.core.spec import SearchSpec, parse_spec
from nas.stages.closing import closing_stage_names, closing_stages
from nas.training.gradient.options import DartsParams, check_relaxation

_STANDALONE_LR = 0.1
_STEP_NETWORKS = 4.0  # that could be trained in the time of a step of the search, at least


def stages(problem: Problem) -> tuple[Stage, ...]:
    """All stages of a search.

    Raises InvalidSpec for a space without a continuous relaxation, and for a preset that needs what the space does not
    have.
    """
    # Stages need torch; a server that only checks parameters does not.
    from nas.stages.bilevel import BilevelStage
    from nas.stages.discretize import DiscretizeStage
    from nas.stages.estimate import EstimateStage
    from nas.stages.explore import ExploreStage
    from nas.stages.rank_correlation import RankCorrelationStage
    from nas.training import samplers
    from nas.training.progressive import SupernetRecipe
    from nas.training.schedules import uniform

    params = parse_spec(DartsParams, problem.spec.strategy.params)
    check(problem.spec, problem.space)
    least = min(len(problem.data.train) // 2, len(problem.data.train))
    if least < 4:
        raise InvalidSpec(f"strategy darts halves the training images: expected at least 8, got {2 * least}")
    phases = uniform(params.rank_epochs, _STANDALONE_LR, samplers.axes(problem.space.decisions), 1)
    standalone = SupernetRecipe(phases, batch_size=min(params.batch_size, len(problem.data.train)))
    rank = (RankCorrelationStage(standalone, ranked),) if (ranked := _ranked(params)) else ()
    return (
        EstimateStage(),
        BilevelStage(params),
        *rank,
        DiscretizeStage(),
        ExploreStage(),
        *closing_stages(problem.spec),
    )


def stage_names(spec: SearchSpec) -> tuple[str, ...]:
    """The names of ``stages``."""
    rank = ("rank_correlation",) if _ranked(parse_spec(DartsParams, spec.strategy.params)) else ()
    return ("estimate", "train", *rank, "discretize", "explore", *closing_stage_names(spec))


def _ranked(params: DartsParams) -> int:
    """How many networks are trained alone. A step of the search trains all operations at once, and looks twice."""
    return rank_networks_of(params.rank_networks, params.rank_epochs, _STEP_NETWORKS * params.epochs * params.seeds)


def check(spec: SearchSpec, space: SearchSpace) -> None:
    """Raises InvalidSpec for a space without a continuous relaxation, or one that the parameters do not fit."""
    params = parse_spec(DartsParams, spec.strategy.params)
    if not is_relaxed(space):
        raise InvalidSpec(
            f"strategy darts needs a continuous relaxation, which {space.name} does not offer: expected one of "
            f"{', '.join(registry.relaxed_spaces())}"
        )
    check_relaxation(params, space)


DARTS = Strategy(
    "darts",
    "Differentiable search by DARTS and its descendants: architecture parameters and weights are trained together.",
    DartsParams,
    stages,
    stage_names,
    check,
    relaxed_only=True,
    uses_relaxation=lambda spec: True,
    labels=("class",),
)
