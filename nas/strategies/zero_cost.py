"""Search without a supernet: zero-cost proxies say which networks are worth training, and training says how good they
are (Abdelfattah et al., ICLR 2021)."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nas.core.errors import InvalidSpec
from nas.core.plugins import Strategy
from nas.core.ports import Problem, SearchSpace, Stage
from nas.core.references import named_genes
from nas.core.spec import SearchSpec, parse_spec
from nas.explorers.automatic import ExplorerName
from nas.stages.closing import closing_stage_names, closing_stages
from nas.strategies.proxy_options import ProxyName, check_proxies


class ZeroCostParams(BaseModel):
    """A network's score is the geometric mean, over ``proxies`` on one batch of ``images`` training images, of the
    share of ``sampled`` random networks that it exceeds. ``explorer``: as in ``once_for_all``.

    ``networks``: those that are trained, in place of any that a search would find: published names, genes with commas
    between them, or as papers write them, such as ``Genotype(normal=[...], reduce=[...])``. Found cells become networks
    of another size so. The proxies then say only which are trained first, and ``budget.evaluations`` means nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    proxies: list[ProxyName] = Field(
        default=["synflow", "jacob_cov", "expressivity", "trainability", "macs"], min_length=1
    )
    images: int = Field(default=32, ge=2, le=4_096)
    sampled: int = Field(default=64, ge=8, le=10_000)
    explorer: ExplorerName = "auto"
    networks: list[str] = Field(default=[], max_length=1_000)

    @model_validator(mode="after")
    def _each_once(self) -> ZeroCostParams:
        check_proxies(self.proxies)
        return self


def check(spec: SearchSpec, space: SearchSpace) -> None:
    """Raises InvalidSpec for a search that reuses a supernet, or whose accuracies would never be known."""
    if spec.supernet is not None:  # first: an extension has neither, and cannot have the other
        raise InvalidSpec(f"supernet: strategy zero_cost uses none: expected no supernet, got {spec.supernet!r}")
    if spec.retrain is None:
        raise InvalidSpec(
            "retrain: strategy zero_cost trains no supernet, and a proxy is no accuracy: expected `retrain`, which "
            "trains the networks that it finds, such as {networks: 4, epochs: 30}; got none"
        )
    _named_genes(parse_spec(ZeroCostParams, spec.strategy.params), space)


def _named_genes(params: ZeroCostParams, space: SearchSpace) -> tuple[tuple[int, ...], ...]:
    """The genes of the given networks. Raises InvalidSpec and UnknownName as ``named_genes``."""
    return tuple(named_genes(text, space) for text in params.networks)


def stages(problem: Problem) -> tuple[Stage, ...]:
    """All stages of a search.

    Raises InvalidSpec for a search that retrains nothing, or that reuses a supernet.
    """
    # Stages need torch; a server that only checks parameters does not.
    from nas.stages.estimate import EstimateStage
    from nas.stages.explore import ExploreStage
    from nas.stages.named_networks import NamedNetworksStage
    from nas.stages.proxies import ProxyStage

    check(problem.spec, problem.space)
    params = parse_spec(ZeroCostParams, problem.spec.strategy.params)
    images = min(params.images, len(problem.data.train))
    proxies = ProxyStage(tuple(params.proxies), True, params.sampled, images)
    explore: Stage = ExploreStage(explorer=params.explorer, proxies=proxies)
    if networks := _named_genes(params, problem.space):
        explore = NamedNetworksStage(networks, proxies)
    return (EstimateStage(), proxies, explore, *closing_stages(problem.spec))


def stage_names(spec: SearchSpec) -> tuple[str, ...]:
    """The names of ``stages``."""
    return ("estimate", "proxies", "explore", *closing_stage_names(spec))


ZERO_COST = Strategy(
    "zero_cost",
    "Search without a supernet: zero-cost proxies choose networks, which are trained from scratch.",
    ZeroCostParams,
    stages,
    stage_names,
    check,
    uses_several_gpus=lambda spec: True,  # trials run one on each
)
