"""Differentiable search (DARTS: Liu et al., ICLR 2019) and its descendants, by preset or option by option."""

from __future__ import annotations

from nas.core import registry
from nas.core.errors import InvalidSpec
from nas.core.ports import Problem, RelaxedSpace, SearchSpace, Stage, is_relaxed
from nas.core.spec import SearchSpec, parse_spec
from nas.training.gradient.options import DartsParams


def darts(problem: Problem) -> tuple[Stage, ...]:
    """Estimate, train (weights and architecture parameters), derive, explore, verify, export.

    Raises InvalidSpec for a space without a continuous relaxation, and for a preset that needs what the space does not
    have.
    """
    # Stages need torch; a server that only checks parameters does not.
    from nas.stages.bilevel import BilevelStage
    from nas.stages.discretize import DiscretizeStage
    from nas.stages.estimate import EstimateStage
    from nas.stages.explore import ExploreStage
    from nas.stages.export import ExportStage
    from nas.stages.verify import VerifyStage

    params = parse_spec(DartsParams, problem.spec.strategy.params)
    check(problem.spec, problem.space)
    least = min(len(problem.data.train) // 2, len(problem.data.train))
    if least < 4:
        raise InvalidSpec(f"strategy darts halves the training images: expected at least 8, got {2 * least}")
    return (EstimateStage(), BilevelStage(params), DiscretizeStage(), ExploreStage(), VerifyStage(), ExportStage())


def check(spec: SearchSpec, space: SearchSpace) -> None:
    """Raises InvalidSpec for a space without a continuous relaxation, or one that the parameters do not fit."""
    params = parse_spec(DartsParams, spec.strategy.params)
    if not is_relaxed(space):
        known = ", ".join(n for n in registry.names("nas.search_spaces") if n != space.name)
        raise InvalidSpec(
            f"strategy darts needs a continuous relaxation, which {space.name} does not offer: expected a space "
            f"with one, such as nas_bench_201 (registered besides: {known})"
        )
    check_partial(params, space)


def check_partial(params: DartsParams, space: RelaxedSpace) -> None:
    """Raises InvalidSpec where the channels of a space cannot be divided as the parameters say."""
    if params.partial not in (partials := space.partials):
        raise InvalidSpec(
            f"partial: expected one of {', '.join(map(str, partials))}, since the channels of {space.name} with these "
            f"parameters cannot be divided otherwise; got {params.partial}"
        )


darts.check = check  # type: ignore[attr-defined]
darts.params_model = DartsParams  # type: ignore[attr-defined]
darts.stage_names = ("estimate", "train", "derive", "explore", "verify", "export")  # type: ignore[attr-defined]
